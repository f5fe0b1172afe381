"""The error for a file whose content cannot be had: what errors of videos and of images have in common."""


class DecodeError(RuntimeError):
    """A video or an image that cannot be read. It may be left out or replaced; the run goes on.

    Attributes:
        path: the file, or the member of a larger one.
        reason: what is wrong with it, for people.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args: the error must survive pickling on its way out of a worker
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
