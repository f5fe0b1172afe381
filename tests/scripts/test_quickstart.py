"""scripts/quickstart.py: which run is trained, evaluated and reported."""

import json
from pathlib import Path

import pytest
import quickstart


@pytest.mark.parametrize(("options", "name"), [([], "quickstart"), (["seed=1", "name=seed1"], "seed1")])
def test_the_run_that_is_trained_is_the_one_evaluated(
    options: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[tuple[str, ...]] = []

    def run(*words: str) -> None:
        commands.append(words)
        if words[0] == "mvit_video.train":
            folder = Path("runs", name, "checkpoints")
            folder.mkdir(parents=True)
            for step in (9, 10):
                (folder / f"step_{step:08d}.pt").touch()
            return
        (folder,) = (Path(word.removeprefix("output=")) for word in words if word.startswith("output="))
        folder.mkdir()
        share = {"evaluation": 99.0, "evaluation_shuffled": 40.0, "evaluation_reversed": 1.0}[folder.name]
        (folder / "results.json").write_text(json.dumps({"video_top1": share, "clip_top1": 98.0, "num_videos": 4}))
        rows = [{"predicted": "move_left", "label": label} for label in ("move_right", "move_right", "move_left")]
        (folder / "predictions.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"label": "move_left"}])))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "run", run)
    Path("data/motion").mkdir(parents=True)
    Path("data/motion/classes.txt").write_text("move_right\nmove_left\n")
    quickstart.main(options)
    trained, *evaluated = commands
    assert [word for word in trained if word.startswith("name=")] == [f"name={name}"]
    assert ("seed=1" in trained) == bool(options)
    assert len(evaluated) == 3
    assert all(f"run=runs/{name}" in words for words in evaluated)
    assert all(f"checkpoint=runs/{name}/checkpoints/step_00000010.pt" in words for words in evaluated)
    said = " ".join(capsys.readouterr().out.split())
    assert f"runs/{name}/evaluation/results.json" in said
    for text in ("99.0 % (single clips: 98.0 %)", "frames shuffled 40.0 %", "frames reversed 50.0 %"):
        assert text in said
