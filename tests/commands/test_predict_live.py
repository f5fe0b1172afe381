"""Streams are looked at as they arrive: a pipe, a growing stream over HTTP, a clean stop."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest

from mvit_video import Predictor
from mvit_video.prediction import live_reader
from tests.commands.predictions import predicted
from tests.video_library import barcode


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of MPEG-TS at 25 frames/s, which plays from its start."""
    path = tmp_path_factory.mktemp("stream") / "a.ts"
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg2video", rate=25, options={"g": "5", "qscale": "4"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for number in range(100):
            file.mux(video.encode(av.VideoFrame.from_ndarray(barcode(number), format="rgb24")))
        file.mux(video.encode(None))
    return path


def lines(folder: Path, name: str = "predictions.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_a_pipe_gives_what_the_file_gives(
    runs: Path, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["weights=tiny", f"output_dir={runs}", "windows=true", "window_s=0.8"]
    (whole,) = predicted(str(stream), f"output={tmp_path / 'file'}", *words)
    assert whole.windows is not None
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(stream.read_bytes()), daemon=True)
    writer.start()
    assert predicted(str(pipe), f"output={tmp_path / 'live'}", *words) == []
    writer.join()
    found = lines(tmp_path / "live")
    assert [line["start"] for line in found] == pytest.approx([window.start for window in whole.windows], abs=1e-3)
    for line, window in zip(found, whole.windows, strict=True):
        assert set(line) == {"path", "start", "end", "predictions", "known"} and line["path"] == str(pipe)
        scores = {one["class"]: one["score"] for one in line["predictions"]}
        assert scores == pytest.approx({one.name: one.score for one in window.predictions}, abs=1e-4)
    segments = lines(tmp_path / "live", "timeline.jsonl")
    assert segments[0]["start"] == 0 and segments[-1]["end"] == pytest.approx(4, abs=0.05)
    results = json.loads((tmp_path / "live" / "results.json").read_text(encoding="utf-8"))
    assert results["complete"] and results["frames"] == 100 and results["num_windows"] == len(found)
    assert results["ended_by"] == "the end of the stream" and results["dropped"] == 0
    assert len(capsys.readouterr().out.splitlines()) >= len(found)


@contextmanager
def growing(data: bytes, seen: list[threading.Event], go_on: threading.Event) -> Iterator[str]:
    """A server that sends half of a stream, waits to be told so, and sends the rest; it never ends the connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            go_on.wait(60)
            self.wfile.write(data[len(data) // 2 :])
            self.wfile.flush()
            seen[0].wait(60)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/a.ts?key=secret"
        finally:
            seen[0].set()
            server.shutdown()


def test_windows_come_while_the_stream_grows_and_ctrl_c_ends_it(
    runs: Path, stream: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second half is sent when the first windows are on the disk; the signal comes when windows of it are."""
    caplog.set_level("INFO")
    out, done, go_on = tmp_path / "out", threading.Event(), threading.Event()

    def watch() -> None:
        path, sent = out / "predictions.jsonl", False
        while not done.wait(0.02):
            ends = [line["end"] for line in lines(out)] if path.exists() else []
            if ends and not sent:
                assert max(ends) < 2.5
                sent = True
                go_on.set()
            if ends and max(ends) > 3:
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    with growing(stream.read_bytes(), [done], go_on) as url:
        watcher.start()
        words = ["weights=tiny", f"output_dir={runs}", f"output={out}", "window_s=0.8", "live=true"]
        assert predicted(url, *words) == []
        done.set()
        watcher.join()
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["complete"] and results["ended_by"] == "SIGINT" and results["num_windows"] == len(lines(out))
    assert "secret" not in (out / "results.json").read_text() + (out / "predictions.jsonl").read_text()
    assert "stopped by SIGINT" in caplog.text


def test_a_sender_that_does_not_wait_loses_windows_which_are_counted(
    runs: Path, stream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the place of a camera sends everything at once, while the model is at its first window."""
    camera = live_reader.LiveSource("camera", str(stream), sends_on=True)
    monkeypatch.setattr("mvit_video.build.live.live_source", lambda source: camera)
    readers: list[live_reader.LiveReader] = []
    begin = live_reader.LiveReader.__init__
    monkeypatch.setattr(
        live_reader.LiveReader, "__init__", lambda self, *a, **k: (readers.append(self), begin(self, *a, **k))[1]
    )
    windows = Predictor("tiny", {"window_s": 0.4}, output_dir=runs).live("camera")
    first = next(windows)
    while readers[0].counts.frames < 100:  # the reader is not held up
        pass
    rest = list(windows)
    assert readers[0].counts.dropped > 0 and first.start == 0.0
    assert 1 + len(rest) + readers[0].counts.dropped == 19


def test_streams_that_cannot_be_looked_at(runs: Path, stream: Path, tmp_path: Path) -> None:
    given = ["weights=tiny", f"output_dir={runs}", f"output={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match="2 sources, and - is looked at as it arrives: start a command for each"):
        predicted("-", str(stream), *given)
    with pytest.raises(ValueError, match="/dev/video98: there is no such camera"):
        predicted("/dev/video98", *given)
    with pytest.raises(ValueError, match=r"explain=true is for files, and .* is a stream: leave it out"):
        predicted(str(stream), "live=true", "explain=true", *given)
