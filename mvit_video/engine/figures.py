"""Pictures of matplotlib, written whole."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a .png beside its place and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(beside, format="png", bbox_inches="tight")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
