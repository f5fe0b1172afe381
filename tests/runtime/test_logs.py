"""Log lines of a process: which of other libraries are among them."""

import logging

from mvit_video.runtime.logs import configure_logging


def test_libraries_do_not_log_each_of_their_requests() -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    try:
        configure_logging()
        assert root.level == logging.INFO
        for name in ("httpx", "httpx2"):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO)
            assert logging.getLogger(name).isEnabledFor(logging.WARNING)
    finally:
        root.handlers[:], root.level = before
        logging.captureWarnings(False)
