"""Names are written as they are: whoever opens a file of a run, or searches it, finds them."""

import json
from pathlib import Path

from mvit_video import build
from tests.conftest import evaluate_options, motion_overrides, options


def test_names_are_readable_in_every_file_of_a_run(motion_root: Path, tmp_path: Path) -> None:
    lines = (motion_root / "train.csv").read_text().splitlines()
    broken = tmp_path / "壊れた\udce9.mp4"  # with a byte that is no UTF-8
    broken.write_bytes(b"")
    lines[0] = f"{broken} {lines[0].split()[1]}"
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n", errors="surrogateescape")
    names = ["泳ぐ", "Größe", "café", *"defgh"]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    overrides = [o for o in motion_overrides(motion_root, tmp_path) if not o.startswith("data.source.")]
    overrides += ["data/source=list", f"data.source.root={motion_root}", "trainer.keep_last=1"]
    overrides += [f"data.source.train={tmp_path / 'train.csv'}", f"data.source.val={motion_root / 'test.csv'}"]
    overrides += [f"data.source.class_names_file={tmp_path / 'classes.txt'}", "schedule.epochs=1.5"]
    build.train(options(*overrides))
    build.evaluate(evaluate_options(*overrides))
    run = tmp_path / "tiny"
    failed = (run / "failed_videos.0.jsonl").read_text(encoding="utf-8")
    assert "壊れた\\udce9.mp4" in failed and json.loads(failed)["path"] == str(broken)
    for name in ("run.json", "evaluation/results.json", "evaluation/predictions.jsonl"):
        text = (run / name).read_text(encoding="utf-8")
        assert "泳ぐ" in text and "Größe" in text and "café" in text, name
        assert "\\u" not in text.replace("\\udce9", ""), name
