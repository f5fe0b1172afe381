"""The fuzzing script, on a few hundred damaged files and a few hundred opens."""

import ctypes
import gc
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import fuzz_decode
import numpy as np
import pytest

from mvit_video.video.reader import VideoReader

KINDS = ["faststart.mp4", "h264.mkv", "h264.ts", "fragmented.mp4", "hevc.mp4", "vp9.webm", "mpeg4.avi", "mjpeg.avi"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[fuzz_decode.Corpus, fuzz_decode.Truths]:
    return fuzz_decode.make_corpus(tmp_path_factory.mktemp("corpus"), KINDS)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    av.logging.set_level(None)


def test_damaged_files_do_no_harm(
    made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = fuzz_decode.fuzz(*made, files=300, seed=7, workers=2, memory_mib=2048)
    problems = fuzz_decode.report(made[0], outcomes, seed=7, keep=tmp_path)
    assert problems == 0, caplog.text
    assert sorted(outcomes) == list(range(300))
    results = [outcome.result for outcome in outcomes.values()]
    assert results.count("frames") > 100 and results.count("refused") > 50


def test_opening_holds_nothing(made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths], tmp_path: Path) -> None:
    growth = fuzz_decode.leak(made[0], tmp_path, opens=400, seed=7)
    assert growth.opens == 400
    assert growth.files == 0
    assert growth.rss_mib < 16


class HeapUse(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "b", "c", "d", "mapped", "f", "g", "used", "free", "j")]


def test_reading_part_of_a_file_holds_nothing(
    made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths], tmp_path: Path
) -> None:
    """PyAV keeps a packet for each demuxing that is given up, unless it is told so."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        pytest.skip("the C library does not tell how much memory is in use")
    library.mallinfo2.restype = HeapUse
    path = tmp_path / "v.mp4"
    path.write_bytes(dict(made[0])["faststart.mp4"])

    def used_after(opens: int) -> int:
        for _ in range(opens):
            with VideoReader(path) as video:
                video.read([4])
        gc.collect()
        return library.mallinfo2().used

    before = used_after(50)
    assert (used_after(400) - before) / 400 < 60  # bytes for each opening


def test_sound_files_are_sound(made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths], tmp_path: Path) -> None:
    """The corpus reads as plain decoding does, so that a problem is the damage's."""
    for number, (kind, data) in enumerate(made[0]):
        case = fuzz_decode.Case(kind, "cut", data)
        outcome = fuzz_decode.run_case(case, made[1][kind], tmp_path / kind, number)
        assert (outcome.result, outcome.detail, outcome.frames, outcome.other) == ("frames", "", 33, 0), kind


def test_cases_can_be_made_again(made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths]) -> None:
    corpus = made[0]
    cases = [fuzz_decode.make_case(corpus, 1, number) for number in range(60)]
    assert cases == [fuzz_decode.make_case(corpus, 1, number) for number in range(60)]
    assert len({case.data for case in cases}) == 60
    assert {case.damage for case in cases} == {"flip", "cut", "blank", "move", "insert", "splice", "header"}


class TestProblemsAreSeen:
    """Workers are real processes: what goes wrong in them is brought about by a file name they do not expect."""

    def outcome(self, made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths], tmp_path: Path) -> fuzz_decode.Outcome:
        corpus, truths = made
        case = fuzz_decode.Case(corpus[0][0], "cut", corpus[0][1])
        return fuzz_decode.run_case(case, truths[case.kind], tmp_path / "v.mp4", 2)

    def test_other_exceptions(
        self, made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(VideoReader, "read", lambda *a: 1 / 0)
        outcome = self.outcome(made, tmp_path)
        assert outcome.result == "problem" and "ZeroDivisionError" in outcome.detail

    def test_wrong_pictures_when_opened_again(
        self, made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        readers: list[VideoReader] = []
        read = VideoReader.read

        def other(self: VideoReader, indices: Sequence[int], **options: Any) -> Any:
            if self not in readers:
                readers.append(self)
            clip = read(self, indices, **options)
            return clip if self is readers[0] else clip.flip(2)

        monkeypatch.setattr(VideoReader, "read", other)
        outcome = self.outcome(made, tmp_path)
        assert outcome.result == "problem"
        assert outcome.detail == "33 of 33 pictures are wrong when the file is opened again"

    def test_wrong_pictures(
        self, made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = VideoReader.read
        monkeypatch.setattr(VideoReader, "read", lambda self, *a, **k: read(self, *a, **k) // 2)
        outcome = self.outcome(made, tmp_path)
        assert outcome.detail == "33 of 33 pictures of a file cut short are not in the whole one"

    def test_dying_and_hanging_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        started: list[StandIn] = []
        monkeypatch.setattr(fuzz_decode, "Worker", lambda *a: (started.append(StandIn(len(started))), started[-1])[1])
        outcomes = fuzz_decode.fuzz([], {}, files=3, seed=0, workers=1, memory_mib=10)
        assert [outcomes[n].result for n in range(3)] == ["problem", "problem", "problem"]
        assert [outcomes[n].detail for n in range(3)] == ["kills its process (exit code -11)", "hangs", "takes 11 MiB"]

    def test_memory_is_the_workers_own(self, made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths]) -> None:
        """What the process that starts them holds, as after other tests, is not counted: a run failed of that."""
        ballast = np.ones(2**30, np.uint8)
        outcomes = fuzz_decode.fuzz(*made, files=2, seed=7, workers=1, memory_mib=2048)
        del ballast
        assert all(0 < outcome.peak_mib < 1024 for outcome in outcomes.values())

    def test_file_is_kept(
        self, made: tuple[fuzz_decode.Corpus, fuzz_decode.Truths], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        outcomes = {4: fuzz_decode.Outcome("problem", "hangs")}
        assert fuzz_decode.report(made[0], outcomes, seed=3, keep=tmp_path / "keep") == 1
        (kept,) = (tmp_path / "keep").iterdir()
        assert kept.read_bytes() == fuzz_decode.make_case(made[0], 3, 4).data
        assert "hangs" in caplog.text


class StandIn:
    """In place of a worker: the first dies, the second hangs, the third takes too much memory."""

    def __init__(self, order: int) -> None:
        self.order = order
        reader, self._writer = os.pipe()
        self.pipe = open(reader, "rb")  # noqa: SIM115 - closed in stop
        self.pipe.send = lambda number: None  # type: ignore[attr-defined]
        self.number, self.until = -1, float("inf")

    def give(self, number: int) -> None:
        self.number = number
        if self.order == 1:
            self.until = time.monotonic() - 1
        else:
            os.write(self._writer, b".")

    def take(self) -> "fuzz_decode.Outcome | None":
        return None if self.order == 0 else fuzz_decode.Outcome("frames", peak_mib=11)

    def stop(self) -> str:
        self.pipe.close()
        os.close(self._writer)
        return "exit code -11"
