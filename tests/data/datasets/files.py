"""Small files for the tests of data sets."""

from pathlib import Path

from mvit_video.data.datasets.manifest import Manifest


def touch(root: Path, *names: str) -> None:
    """Empty files, and the folders they need."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, text: str) -> Path:
    """A file with the text as it is, in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))
    return path


def names_of(manifest: Manifest, root: Path) -> list[str]:
    """The videos' paths below a folder."""
    return [str(Path(path).relative_to(root)) for path in manifest.paths]
