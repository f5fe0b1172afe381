"""What commands print to a terminal, file or pipe."""

import os
from typing import TextIO

_CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def write_out(text: str, stream: TextIO) -> int:
    """Write to a terminal, file or pipe; the exit code. A pipe whose reader has seen enough is no error to report."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode shows what it can
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # What is still buffered would fail once more at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return _CLOSED_PIPE
    return 0
