"""Log lines of a process."""

import logging
import os

import rich
from rich.logging import RichHandler

TRACEBACK_VARIABLE = "MVIT_VIDEO_TRACEBACK"  # set in the environment: errors of the user's making show their traceback
_CHATTY = ("httpx", "httpx2")  # log every request; huggingface_hub has one of the two


def configure_logging() -> None:
    """Log lines of this process to stderr, or above the progress bar of a terminal.

    Ranks other than 0 log only warnings and errors.
    """
    rank = os.environ.get("RANK", "0")
    level = logging.INFO if rank == "0" else logging.WARNING
    prefix = "" if rank == "0" else f"[rank {rank}] "
    console = rich.get_console()
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")
        handler.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(levelname).1s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def traceback_wanted() -> bool:
    """Whether errors of the user's making shall show where they came from, too."""
    return bool(os.environ.get(TRACEBACK_VARIABLE))
