"""How far a download is: a line that changes on a terminal, now and then a line in the log elsewhere."""

import logging
import shutil
import sys
import time
from types import TracebackType
from typing import Self

from mvit_video.runtime.formatting import duration_text, size_text

logger = logging.getLogger(__name__)

_ON_TERMINAL_S = 0.2
_IN_LOG_S = 10.0


class Progress:
    """Shows how much has arrived, how fast, and how long the rest takes."""

    def __init__(self, name: str, *, have: int, total: int | None) -> None:
        """
        Args:
            name: of what arrives.
            have: bytes that were there before.
            total: bytes that it will be; None if nobody knows.
        """
        self._name, self._had, self._total = name, have, total
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._began = self._shown = time.monotonic()
        self._wrote = False

    def show(self, have: int) -> None:
        """Say that so many bytes are there, if the last time is long enough ago."""
        now = time.monotonic()
        if now - self._shown < (_ON_TERMINAL_S if self._terminal else _IN_LOG_S):
            return
        self._shown = now
        text = progress_text(self._name, have=have, had=self._had, total=self._total, seconds=now - self._began)
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{text[:width]:<{width}}")
            sys.stderr.flush()
            self._wrote = True
        else:
            logger.info("%s", text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._wrote:
            sys.stderr.write("\n")


def progress_text(name: str, *, have: int, had: int, total: int | None, seconds: float) -> str:
    """ "k400_mvitv2_s: 69.0 MB of 138.0 MB (50 %), 11.5 MB/s, 6 s left" """
    rate = (have - had) / max(seconds, 1e-3)
    if total is None:
        return f"{name}: {size_text(have)}, {size_text(rate)}/s"
    left = f", {duration_text((total - have) / rate)} left" if rate > 0 else ""
    share = f" ({100 * have / total:.0f} %)" if total else ""
    return f"{name}: {size_text(have)} of {size_text(total)}{share}, {size_text(rate)}/s{left}"
