"""Names are written as they are: whoever opens a file of a run, or searches it, finds them."""

import json
import os
import shutil
from pathlib import Path

from mvit_video import build
from tests.conftest import evaluate_options, motion_overrides, options

NAMES = ["café", "d", "e", "f", "g", "Größe", "h", "泳ぐ"]


def test_names_are_readable_in_every_file_of_a_run(motion_root: Path, tmp_path: Path) -> None:
    for split, listing in (("train", "train.csv"), ("val", "test.csv")):
        for line in (motion_root / listing).read_text().splitlines():
            path, label = line.rsplit(maxsplit=1)
            folder = tmp_path / split / NAMES[int(label)]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(motion_root / path, folder)
    broken = tmp_path / "train" / "泳ぐ" / os.fsdecode("壊れた".encode() + b"\xe9.mp4")  # with a byte that is no UTF-8
    broken.write_bytes(b"")
    overrides = [o for o in motion_overrides(motion_root, tmp_path) if not o.startswith("data.source.")]
    overrides += [
        "data/source=folder",
        f"data.source.train={tmp_path / 'train'}",
        f"data.source.val={tmp_path / 'val'}",
    ]
    overrides += ["trainer.batch_size=11", "schedule.epochs=1", "schedule.warmup_epochs=0"]
    build.train(options(*overrides))
    build.evaluate(evaluate_options(*overrides))
    run = tmp_path / "tiny"
    failed = (run / "failed_videos.0.jsonl").read_text(encoding="utf-8")
    assert "壊れた\\udce9.mp4" in failed and json.loads(failed)["path"] == str(broken)
    for name in ("run.json", "evaluation/results.json", "evaluation/predictions.jsonl"):
        text = (run / name).read_text(encoding="utf-8")
        assert all(word in text for word in ("泳ぐ", "Größe", "café")) and "\\u" not in text, name
