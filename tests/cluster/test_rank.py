"""One rank: its exit codes, and the work it gets from its supervisor."""

import os
from pathlib import Path
from typing import Any

import pytest

from mvit_video.cluster.rank import receive_job, run_rank, send_job
from mvit_video.runtime.interruption import ERROR_FILE, EXIT_INTERRUPTED, EXIT_REFUSED, Interrupted
from mvit_video.runtime.run_lock import RunLockedError


@pytest.mark.parametrize(
    ("error", "code", "recorded"),
    [
        (None, 0, ""),
        (Interrupted("saved at step 3"), EXIT_INTERRUPTED, ""),
        (RuntimeError("out of luck"), 1, "RuntimeError: out of luck"),
        (ValueError("no such option"), 1, "ValueError: no such option"),
        (AttributeError("no such layer"), 1, "AttributeError: no such layer"),
        (RunLockedError("somebody else"), EXIT_REFUSED, "RunLockedError: somebody else"),
    ],
)
def test_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, code: int, recorded: str
) -> None:
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error"))

    def job(config: Any) -> None:
        if error is not None:
            raise error

    assert run_rank(job, None) == code
    assert ((tmp_path / "error").read_text() if recorded else "") == recorded


@pytest.mark.parametrize(
    ("error", "shown"), [(ValueError("no"), False), (RuntimeError("no"), True), (KeyError("no"), True)]
)
def test_only_errors_that_are_not_of_the_users_making_show_their_traceback(
    capsys: pytest.CaptureFixture[str], error: Exception, shown: bool
) -> None:
    def job(config: Any) -> None:
        raise error

    run_rank(job, None)
    assert ("Traceback" in capsys.readouterr().err) == shown


def test_the_work_arrives_through_a_pipe() -> None:
    reader, writer = os.pipe()
    with open(writer, "wb") as stream:
        send_job(stream, "package.module:function", {"name": "größer"})
    assert receive_job(reader) == ("package.module:function", {"name": "größer"})
    with pytest.raises(EOFError, match="the supervisor ended before it handed over the work"):
        receive_job(reader)
    os.close(reader)
