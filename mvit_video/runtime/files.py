"""Files that are whole or absent at every instant."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it there, so that it is whole or absent at every instant."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
