"""The known names, nearest first, for whoever mistyped one."""

import difflib
from collections.abc import Sequence
from itertools import takewhile


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that is most like `name`, the longer common beginning first; None if none is like it."""
    close = difflib.get_close_matches(name, known, n=len(known) or 1)

    def likeness(other: str) -> tuple[float, int]:
        beginning = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(name, other)))
        return round(difflib.SequenceMatcher(None, name, other).ratio(), 2), beginning

    return max(close, key=likeness, default=None)


def did_you_mean(name: str, known: Sequence[str], *, kind: str = "options") -> str:
    """The hint behind a semicolon: "did you mean 'x'? The options are: x, y", or "the options are: x, y"."""
    near = nearest(name, known)
    begin = f"did you mean {near!r}? The" if near else "the"
    return f"{begin} {kind} are: {', '.join(known)}"
