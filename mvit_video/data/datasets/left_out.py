"""What a folder or a list holds that is not used: nothing is passed over without being counted and named."""

from collections.abc import Iterable, Mapping
from os.path import splitext

LeftOut = Mapping[str, tuple[str, ...]]  # reason -> names

HIDDEN = "hidden"
BESIDE = "beside the class folders"
BESIDE_PICTURES = "beside the pictures of a video"
LINK = "link to a folder, not followed"
EMPTY_FOLDER = "class folder without a file"
_SHOWN = 3


class LeftOutFiles:
    """Collects names by the reason why they are not used."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Note one."""
        self._names.setdefault(reason, []).append(name)

    def frozen(self) -> LeftOut:
        """The names by reason, each sorted."""
        return {reason: tuple(sorted(self._names[reason])) for reason in sorted(self._names)}


def extension_reason(name: str) -> str:
    """Why a file whose name has none of the known extensions is not used."""
    extension = splitext(name)[1].lower()
    return f"extension {extension}" if extension else "no extension"


def describe_left_out(left_out: LeftOut) -> str:
    """All reasons with counts and examples, "extension .txt: 2 (a/notes.txt, b/notes.txt); hidden: 1 (._c.mp4)"."""
    return "; ".join(f"{reason}: {len(names)} ({examples(names)})" for reason, names in left_out.items())


def examples(names: Iterable[str], number: int = _SHOWN) -> str:
    """The first few names, and a mark if there are more."""
    every = list(names)
    return ", ".join(every[:number]) + (", ..." if len(every) > number else "")
