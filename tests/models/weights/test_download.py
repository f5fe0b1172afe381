"""Downloads: cut, wrong, redirected, refused, by two processes at once, onto a full disk."""

import hashlib
import json
import multiprocessing
import os
import random
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPMessage
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from mvit_video.models.weights import download as module
from mvit_video.models.weights.cache import Expected, record_of
from mvit_video.models.weights.download import DownloadError, download
from mvit_video.models.weights.progress import Progress, progress_text
from tests.models.weights.weights_server import WeightsServer, weights_server

CONTENT = random.Random(0).randbytes(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/models/weights.pth"


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with weights_server() as state:
        state.files[PATH] = CONTENT
        yield state


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "checkpoints" / "weights.pth"


def fetch(url: str, target: Path, expected: Expected | None = None) -> None:
    download(url, target, expected=expected or Expected(), name="made_up", pause_s=0)


def beside(target: Path) -> list[str]:
    """What lies in the folder besides the file."""
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_a_file_is_fetched_and_nothing_else_is_left(server: WeightsServer, target: Path) -> None:
    fetch(server.url + PATH, target, Expected(size=len(CONTENT), sha256=SHA256[:8]))
    assert target.read_bytes() == CONTENT and beside(target) == []
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()  # others may read it as they may read anything else


def test_what_another_process_has_fetched_is_left_alone(server: WeightsServer, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(b"there")
    fetch(server.url + PATH, target)
    assert target.read_bytes() == b"there" and server.requests == []


def test_a_cut_connection_is_taken_up_where_it_broke_off(server: WeightsServer, target: Path) -> None:
    server.cuts[PATH] = [300_000, 100_000]
    fetch(server.url + PATH, target, Expected(sha256=SHA256))
    assert target.read_bytes() == CONTENT and beside(target) == []
    assert [wanted for _, wanted in server.requests] == [None, "bytes=300000-", "bytes=400000-"]


def test_a_server_without_ranges_begins_anew(server: WeightsServer, target: Path) -> None:
    server.ranges, server.cuts[PATH] = False, [300_000, 650_000, 10]
    fetch(server.url + PATH, target)
    assert target.read_bytes() == CONTENT and len(server.requests) == 4


def test_a_later_call_takes_up_what_is_there(server: WeightsServer, target: Path) -> None:
    server.cuts[PATH] = [250_000, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"5 times in a row\); 250.0 kB have arrived and are kept"):
        fetch(server.url + PATH, target)
    assert not target.exists() and beside(target) == ["weights.pth.part", "weights.pth.part.json"]
    server.requests.clear()
    fetch(server.url + PATH, target)
    assert target.read_bytes() == CONTENT and server.requests == [(PATH, "bytes=250000-")]


@pytest.mark.parametrize("etag", ['"one"', None], ids=["ETag", "length alone"])
def test_another_file_on_the_server_is_not_mixed_with_what_is_there(
    server: WeightsServer, target: Path, etag: str | None
) -> None:
    server.etag, server.cuts[PATH] = etag, [250_000, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(server.url + PATH, target)
    server.files[PATH] = new = CONTENT[::-1][:650_000]
    server.etag = '"two"' if etag else None
    fetch(server.url + PATH, target)
    assert target.read_bytes() == new


def test_a_part_that_is_whole_or_too_long_is_no_obstacle(server: WeightsServer, target: Path) -> None:
    target.parent.mkdir(parents=True)
    part = target.with_name("weights.pth.part")
    begun = {"url": server.url + PATH, "total": None, "validator": None}
    for content in (CONTENT, CONTENT + b"more", b"of unknown origin"):
        part.write_bytes(content)
        if content.startswith(CONTENT):
            part.with_name("weights.pth.part.json").write_text(json.dumps(begun))
        fetch(server.url + PATH, target)
        assert target.read_bytes() == CONTENT and beside(target) == []
        target.unlink()
    asked = [wanted for _, wanted in server.requests]
    assert asked == [f"bytes={len(CONTENT)}-", f"bytes={len(CONTENT) + 4}-", None, None]


def test_wrong_bytes_are_refused_and_removed(server: WeightsServer, target: Path) -> None:
    with pytest.raises(DownloadError, match=rf"another file than the published one.* SHA-256 is {SHA256}.*00000000"):
        fetch(server.url + PATH, target, Expected(sha256="00000000"))
    assert not target.exists() and beside(target) == []


def test_a_wrong_size_is_refused_before_it_is_fetched(server: WeightsServer, target: Path) -> None:
    with pytest.raises(DownloadError, match="700,000 bytes, where 138,000,000 are published"):
        fetch(server.url + PATH, target, Expected(size=138_000_000, size_rounding=525))
    assert not target.exists() and beside(target) == []
    fetch(server.url + PATH, target, Expected(size=700_500, size_rounding=525))
    assert target.read_bytes() == CONTENT


def test_another_file_than_at_the_first_time_is_refused(server: WeightsServer, target: Path) -> None:
    target.parent.mkdir(parents=True)
    record_of(target).write_text(json.dumps({"sha256": "ab" * 32, "date": "2026-01-01"}))
    with pytest.raises(DownloadError, match=f"another file than when it was first fetched.*was {'ab' * 32}"):
        fetch(server.url + PATH, target)
    assert not target.exists()


def test_redirects_are_followed_with_the_range(server: WeightsServer, target: Path) -> None:
    server.redirects["/moved.pth"] = server.url + PATH
    server.cuts[PATH] = [300_000]
    fetch(server.url + "/moved.pth", target)
    assert target.read_bytes() == CONTENT
    assert server.requests[-1] == (PATH, "bytes=300000-")


def test_a_circle_of_redirects_ends(server: WeightsServer, target: Path) -> None:
    server.redirects["/moved.pth"] = server.url + "/moved.pth"
    with pytest.raises(DownloadError, match=r"refused \(HTTP 302 .*loop"):
        fetch(server.url + "/moved.pth", target)


def test_a_redirect_out_of_https_is_not_followed() -> None:
    def redirected(url: str, to: str) -> Request | None:
        request = Request(url, headers={"Range": "bytes=5-"})
        return module._SafeRedirects().redirect_request(request, BytesIO(), 302, "Found", HTTPMessage(), to)

    with pytest.raises(HTTPError, match="redirect from https to an unsafe address"):
        redirected("https://host/a.pth", "http://host/a.pth")
    for url in ("https://host/a.pth", "http://host/a.pth"):
        followed = redirected(url, "https://mirror/a.pth")
        assert followed is not None and followed.get_header("Range") == "bytes=5-"


def test_a_missing_file_is_asked_for_once(server: WeightsServer, target: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"not there any more \(HTTP 404.*put it at .*weights.pth, or give the path"
    ):
        fetch(server.url + "/gone.pth", target)
    assert len(server.requests) == 1 and beside(target) == []


def test_a_key_in_a_url_is_not_shown(server: WeightsServer, target: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), pytest.raises(DownloadError, match=r"gone\.pth is not there") as caught:
        fetch(server.url + "/gone.pth?key=0f9e8d", target)
    assert "0f9e8d" not in str(caught.value) + caplog.text


def test_a_busy_server_is_asked_again(server: WeightsServer, target: Path) -> None:
    server.statuses[PATH] = [503, 429]
    fetch(server.url + PATH, target)
    assert target.read_bytes() == CONTENT


def test_a_page_is_no_file(server: WeightsServer, target: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="a page for browsers, not a file"):
        fetch(server.url + PATH, target)
    assert not target.exists() and beside(target) == []


def test_a_file_of_unknown_length_is_taken_with_a_warning(
    server: WeightsServer, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.length = lambda body: None
    fetch(server.url + PATH, target, Expected(sha256=SHA256))
    assert target.read_bytes() == CONTENT
    assert "does not say how long the file is: 700.0 kB arrived" in caplog.text


def test_no_network_says_which_file_to_put_where(target: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/weights.pth"
    with pytest.raises(DownloadError, match="no answer") as caught:
        fetch(url, target)
    for part in ("made_up", url, "2 times in a row", f"put it at {target}", "TORCH_HOME=FOLDER"):
        assert part in str(caught.value)


def test_a_full_disk_keeps_what_is_there(server: WeightsServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = module._write
    left = [300_000]

    def full(file: object, chunk: bytes) -> None:
        if left[0] < len(chunk):
            raise OSError(28, os.strerror(28))
        left[0] -= len(chunk)
        write(file, chunk)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(DownloadError, match=r"is full \(No space left on device\).*are kept in weights.pth.part"):
        fetch(server.url + PATH, target)
    kept = target.with_name("weights.pth.part").stat().st_size
    assert 0 < kept <= 300_000
    monkeypatch.setattr(module, "_write", write)
    fetch(server.url + PATH, target)
    assert target.read_bytes() == CONTENT and server.requests[-1] == (PATH, f"bytes={kept}-")


def test_a_file_that_does_not_fit_is_not_begun(
    server: WeightsServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: module.shutil._ntuple_diskusage(9, 8, 1000))
    with pytest.raises(DownloadError, match=r"700.0 kB are to be fetched, and .* has room for 1.0 kB"):
        fetch(server.url + PATH, target)
    assert beside(target) == []


def test_an_unwritable_cache_is_named(server: WeightsServer, target: Path) -> None:
    target.parent.parent.write_text("a file in the place of the folder")
    with pytest.raises(DownloadError, match=r"weights.pth cannot be written \(.*TORCH_HOME=FOLDER moves the cache"):
        fetch(server.url + PATH, target)
    assert server.requests == []


def test_two_processes_fetch_once(server: WeightsServer, target: Path) -> None:
    both_wait = threading.Event()
    server.before = lambda path: (both_wait.wait(0.3), None)[1]  # long enough for the other to come and wait
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch, args=(server.url + PATH, target)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert target.read_bytes() == CONTENT and beside(target) == []
    assert len(server.requests) == 1


def test_a_process_that_was_killed_leaves_no_lock(server: WeightsServer, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.with_name("weights.pth.lock").touch()  # its lock went with it
    fetch(server.url + PATH, target)
    assert target.read_bytes() == CONTENT and beside(target) == []


def test_a_file_system_without_locks_is_enough(
    server: WeightsServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with pytest.raises(DownloadError, match="404"):
        fetch(server.url + "/gone.pth", target)
    fetch(server.url + PATH, target)
    assert target.read_bytes() == CONTENT and beside(target) == []


def test_progress_is_a_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("mvit_video.models.weights.progress._ON_TERMINAL_S", 0.0)
    with Progress("made_up", have=0, total=1000) as progress:
        progress.show(500)
    shown = capsys.readouterr().err
    assert shown.startswith("\rmade_up: 500 bytes of 1.0 kB (50 %)") and shown.endswith("\n")


def test_progress_text() -> None:
    text = progress_text("k400", have=69_000_000, had=23_000_000, total=138_000_000, seconds=4)
    assert text == "k400: 69.0 MB of 138.0 MB (50 %), 11.5 MB/s, 6 s left"
    assert progress_text("k400", have=2000, had=0, total=None, seconds=2) == "k400: 2.0 kB, 1.0 kB/s"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
