"""Pictures of matplotlib, written whole."""

from pathlib import Path
from typing import TYPE_CHECKING

from mvit_video.runtime.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a .png beside its place and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        figure.savefig(beside, format="png", bbox_inches="tight")
