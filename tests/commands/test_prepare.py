"""`python -m mvit_video.prepare` as a user runs it: on good and broken files, interrupted and started again."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from mvit_video.config import Prepare
from mvit_video.data.datasets.indexed_manifest import from_index
from mvit_video.video.reader import read_frames
from tests import interpreters
from tests.conftest import options
from tests.paths import ROOT
from tests.preparation.videos import damage, truncate, write_video


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return interpreters.run("-m", "mvit_video.prepare", *arguments, cwd=ROOT)


def test_a_list_with_everything_wrong(tmp_path):
    """Missing, empty, text, truncated, damaged and twice: all listed, none fatal, unless strict."""
    videos = tmp_path / "videos"
    for number in range(5):
        write_video(videos / f"{number}.mp4", seed=number)
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("not a video\n" * 100)
    truncate(write_video(videos / "cut.mp4", frames=40, options={"g": "8"}), 0.6)
    damage(write_video(videos / "bad.mp4", frames=24, options={"g": "24"}), at=0.5)
    shutil.copy(videos / "1.mp4", videos / "twice.mp4")
    train = [f"{name}.mp4 {label}" for label, name in enumerate(["0", "1", "2", "empty", "text", "cut", "bad", "gone"])]
    (tmp_path / "train.csv").write_text("\n".join([*train, "0.mp4 0"]))
    (tmp_path / "val.csv").write_text("3.mp4 3\n4.mp4 4\ntwice.mp4 5")
    out = tmp_path / "out"
    done = run(
        "+experiment=motion_mvitv2", "data/source=list", f"data.source.root={videos}", "workers=2", "strict=true",
        f"data.source.train={tmp_path}/train.csv", f"data.source.val={tmp_path}/val.csv", f"out={out}",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads((out / "report.json").read_text())
    statuses = {Path(p["path"]).name: p["status"] for p in report["problems"]}
    assert statuses == {
        "empty.mp4": "broken", "text.mp4": "broken", "cut.mp4": "partial", "bad.mp4": "broken", "gone.mp4": "missing",
    }  # fmt: skip
    assert report["splits"]["train"]["usable"] == 4 and report["splits"]["val"]["usable"] == 3
    assert report["splits"]["train"]["listed_more_than_once"] == 1
    assert list(report["splits"]) == ["train", "val"]  # the test split is the validation split
    said = done.stderr
    for text in (
        "to read: ",
        "split  listed  usable  broken  missing  classes",
        "train       9       4       4        1        8",
        "val         3       3       0        0        8",
        "problems with 5 videos: 3 broken, 1 missing, 1 partial",
        "in more than one split, byte for byte: 1 video",
        "5 videos are missing or broken and strict=true; see ",
    ):
        assert text in said, said
    assert "Traceback" not in said


def test_killed_in_the_middle_it_goes_on(tmp_path):
    """kill -9 of a worker costs nothing, kill -9 of the whole run only the files in work."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    first = write_video(videos / "a" / "000.mp4", frames=300, size=(240, 320), options={"bf": "2"})
    total = 20
    for number in range(1, total):  # other files with other bytes: a free atom at the end is no part of the video
        copy = videos / "a" / f"{number:03d}.mp4"
        copy.write_bytes(first.read_bytes() + b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))
    arguments = ["data=folder", f"data.source.train={videos}", f"out={out}", "workers=1"]
    journal = out / "journal.jsonl"
    process = interpreters.start("-m", "mvit_video.prepare", *arguments, cwd=ROOT)
    worker = _await(lambda: _lines(journal) >= 4 and _worker_of(process.pid), process)
    os.kill(worker, signal.SIGKILL)
    _await(lambda: _lines(journal) >= 8, process)
    process.kill()
    said = process.communicate()[1]
    assert "was ended by SIGKILL at " in said and "the file is tried once more" in said, said
    finished = _lines(journal)
    assert 8 <= finished < total
    with journal.open("ab") as stream:
        stream.write(b'{"version":1,"name":"/torn')
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert (report["read"], report["known"]) == (total - finished, finished)
    assert report["splits"]["train"]["usable"] == total
    assert report["problems"] == []


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _worker_of(pid: int) -> int:
    """A process that reads for the run `pid`: a child of its fork server; 0 if there is none."""
    for child in _children(pid):
        workers = _children(child)
        if workers:
            return workers[0]
    return 0


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _await(condition, process):
    """Wait until a condition holds, which must happen before the process ends; its value."""
    for _ in range(15000):
        value = condition()
        ended = process.poll()
        assert ended is None, f"it ended too early, with {ended}: {process.communicate()[1]}"
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("waited for five minutes in vain")


def test_the_options_of_a_training_are_enough():
    kinetics = ["data.source.train=t.csv", "data.source.train_root=t"]
    config = options("+experiment=k400_mvitv2_s", "out=o", *kinetics, config_name="prepare")
    assert isinstance(config, Prepare)
    assert (config.out, config.verify, config.reencode.enabled, config.shards.enabled) == ("o", "decode", False, False)
    assert options("data=folder", "data.source.val=v", "out=o", config_name="prepare").data.source.val == "v"
    for experiment in ("finetune_folder", "ssv2_mvitv2_s", "motion_mvitv2"):
        more = ["data.source.train=t"] if experiment != "motion_mvitv2" else []
        more += ["data.source.labels=l", "data.source.root=r"] if experiment == "ssv2_mvitv2_s" else []
        assert options(f"+experiment={experiment}", "out=o", *more, config_name="prepare").name == experiment


@pytest.mark.parametrize(("overrides", "message"), [
    ([], r"no value yet[^$]*data.source.train=...\n  data.source.train_root=...\n  out=..."),
    (["data.source.val=v.csv", "out=o"], r"no value yet[^$]*data.source.val_root=..."),
    (["data.source.val=v.csv", "data.source.val_root=v", "splits=[train,val]", "out=o"], "data.source.train=..."),
    (["data=motion", "out=o", "splits=[trian]"], r"splits=\['trian'\]: must be some of train, val, test"),
    (["data=motion", "out=o", "verify=all"], "verify=all: must be one of decode, index"),
    (["data=motion", "out=o", "workers=0"], "workers=0: must be at least 1"),
    (["data=motion", "out=o", "limit=0"], "limit=0: must be at least 1"),
    (["data=motion", "out=o", "time_limit_s=-1"], "time_limit_s=-1.0: must not be negative"),
    (["data=motion", "out=o", "reencode.short_side=8"], "reencode.short_side=8: must be from 16 to 8192"),
    (["data=motion", "out=o", "reencode.crf=60"], "reencode.crf=60: must be from 0 to 51"),
    (["data=motion", "out=o", "reencode.gop=0"], "reencode.gop=0: must be at least 1"),
    (["data=motion", "out=o", "reencode.preset=quick"], "reencode.preset=quick: must be one of ultrafast"),
    (["data=motion", "out=o", "shards.max_gb=0"], "shards.max_gb=0.0: must be greater than 0"),
    (["data=motion", "out=o", "+reencode.size=256"], "reencode.size: unknown option; .*[Tt]he options are: enabled"),
])  # fmt: skip
def test_mistakes_are_explained(overrides, message):
    with pytest.raises(ValueError, match=message):
        options(*overrides, config_name="prepare")


def test_only_what_matters_is_printed_and_remote_files_are_prepared_as_local_ones_are(tmp_path):
    """Through fsspec, from a list of URLs into shards at a URL; file:// stands for any store."""
    pytest.importorskip("fsspec")
    videos = tmp_path / "videos"
    for number in range(4):
        write_video(videos / f"{number}.mp4", seed=number)
    (videos / "text.mp4").write_text("not a video\n" * 100)
    names = ["0", "1", "text", "gone", "2", "3"]
    reports = {}
    for kind, base in (("local", str(videos)), ("remote", f"file://{videos}")):
        for split, chosen in (("train", names[:5]), ("val", names[5:])):
            lines = [f"{base}/{name}.mp4 {label}" for label, name in enumerate(chosen)]
            (tmp_path / f"{split}.csv").write_text("\n".join(lines))
        out = tmp_path / kind
        (out / "shards").mkdir(parents=True)
        shards = out / "shards" if kind == "local" else f"file://{out}/shards"
        done = run(
            "+experiment=motion_mvitv2", "data/source=list", f"data.source.root={videos}", "workers=2",
            f"data.source.train={tmp_path}/train.csv", f"data.source.val={tmp_path}/val.csv", f"out={out}",
            "shards.enabled=true", f"shards.folder={shards}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "shards.enabled" in done.stderr and "optim" not in done.stderr
        reports[kind] = json.loads((out / "report.json").read_text())
    local, remote = reports["local"], reports["remote"]
    statuses = {Path(p["path"]).name: p["status"] for p in remote["problems"]}
    assert statuses == {"text.mp4": "broken", "gone.mp4": "missing"}
    for split in ("train", "val"):
        assert [remote["splits"][split][key] for key in ("listed", "usable")] == [
            local["splits"][split][key] for key in ("listed", "usable")
        ]
    clips = []
    for out in (tmp_path / "local", tmp_path / "remote"):
        manifest = from_index(out / "train.index")
        clips.append([read_frames(manifest.location(index), [0, 3]) for index in range(len(manifest))])
    assert len(clips[0]) == len(clips[1]) == 3
    assert all(torch.equal(one, other) for one, other in zip(*clips))
