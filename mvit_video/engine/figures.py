"""Pictures of matplotlib, written whole."""

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mvit_video.runtime.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


logger = logging.getLogger(__name__)

_MISSING = re.compile(r"Glyph (\d+) .*missing from")
_named: set[str] = set()  # letters that this process has said to be missing


def save_figure(figure: "Figure", path: Path, *, cut: bool = True) -> None:
    """Write a figure as a .png beside its place and rename it there.

    Args:
        figure: of matplotlib.
        path: of the .png file.
        cut: cut off empty margins, and make room for what reaches beyond them; the figure is then drawn twice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(beside, format="png", bbox_inches="tight" if cut else None)
    letters = set()
    for warning in caught:
        found = _MISSING.match(str(warning.message))
        if found:
            letters.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    _say_missing(letters, path)


def _say_missing(letters: set[str], path: Path) -> None:
    """One line for all letters, and only once for each; matplotlib says so for every letter of every picture."""
    new = letters - _named
    _named.update(new)
    if new:
        logger.warning(
            "no font has %s: %s and other pictures show boxes for these letters; everything else has them",
            " ".join(sorted(new)[:20]) + (" ..." if len(new) > 20 else ""),
            path,
        )
