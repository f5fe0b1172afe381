import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mvit_video import build
from mvit_video.build.clips import build_eval_dataset
from mvit_video.build.common import build_model, build_source, load_weights
from mvit_video.build.samples import read_manifest
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.distributed.process_group import World
from mvit_video.tasks.classification import ViewScorer
from tests.conftest import drawn_pictures, evaluate_options, motion_overrides, options, small_overrides


@pytest.fixture(scope="module")
def trained(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    output = tmp_path_factory.mktemp("runs")
    build.train(options(*small_overrides(motion_root, output, "schedule.epochs=1.5")))
    return output


def test_results_on_disk(motion_root: Path, trained: Path) -> None:
    with drawn_pictures():
        results = build.evaluate(evaluate_options(*small_overrides(motion_root, trained)))
    folder = trained / "tiny/evaluation"
    assert json.loads((folder / "results.json").read_text()) == results
    assert {"clip_top1", "clip_top5", "video_top1", "video_top5", "macro_f1", "loss"} <= set(results)
    assert results["mean_class_top1"] == pytest.approx(results["video_top1"])  # two videos a class
    assert set(results["per_class_count"].values()) == {2}
    low, high = results["video_top1_ci95"]
    assert 0 <= low <= results["video_top1"] <= high <= 100
    assert (results["num_videos"], results["num_views"], results["num_failed"]) == (16, 48, 0)
    assert set(results["per_class"]) == set((motion_root / "classes.txt").read_text().split())
    assert np.mean(list(results["per_class"].values())) == pytest.approx(results["video_top1"])
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert 100 * np.mean([row["predicted"] == row["label"] for row in rows]) == pytest.approx(results["video_top1"])
    assert (folder / "confusion.png").stat().st_size > 1000


def test_scores_are_the_sum_of_the_views_probabilities(motion_root: Path, trained: Path) -> None:
    """Against a plain loop over the views, one at a time."""
    config = evaluate_options(*small_overrides(motion_root, trained))
    build.evaluate(config)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    manifest = read_manifest(config, build_source(config.data, world), "test")
    dataset = build_eval_dataset(config, manifest, temporal_views=3, spatial_views=1)
    model = build_model(config)
    load_weights(model, str(trained / "tiny/checkpoints/best.pt"), new_head=False)
    model.eval()
    rows = [json.loads(line) for line in (trained / "tiny/evaluation/predictions.jsonl").read_text().splitlines()]
    for video in (0, 7, 15):
        with torch.inference_mode():
            clips = (dataset[video].clips.permute(0, 4, 1, 2, 3).float() / 255 - 0.45) / 0.225
            mean = torch.stack([model(clip[None]).softmax(1)[0] for clip in clips]).mean(0)
        best = int(mean.argmax())
        assert rows[video]["predicted"] == manifest.class_names[best]
        assert rows[video]["top5"][manifest.class_names[best]] == pytest.approx(float(mean[best]), abs=1e-4)


def test_frame_orders_go_to_their_own_folders(motion_root: Path, trained: Path) -> None:
    for order in ("reversed", "shuffled"):
        results = build.evaluate(evaluate_options(*small_overrides(motion_root, trained), f"frame_order={order}"))
        assert results["frame_order"] == order
        assert (trained / f"tiny/evaluation_{order}/results.json").exists()


def test_a_broken_test_video_is_counted_as_failed(motion_root: Path, trained: Path, tmp_path: Path) -> None:
    lines = (motion_root / "test.csv").read_text().splitlines()
    (tmp_path / "empty.mp4").write_bytes(b"")
    lines[3] = f"{tmp_path / 'empty.mp4'} {lines[3].split()[1]}"
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n")
    plain = [o for o in small_overrides(motion_root, trained) if not o.startswith("data.source.")]
    results = build.evaluate(
        evaluate_options(
            *plain,
            "data/source=list",
            f"data.source.val={tmp_path / 'test.csv'}",
            f"data.source.root={motion_root}",
            f"data.source.class_names_file={motion_root / 'classes.txt'}",
            f"output={tmp_path / 'out'}",
        )
    )
    assert (results["num_videos"], results["num_failed"]) == (16, 1)
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [index for index, row in enumerate(rows) if row.get("failed")] == [3]


def test_a_missing_checkpoint_says_what_to_do(motion_root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint at .*best\.pt: train tiny first, or give checkpoint=PATH"
    ):
        build.evaluate(evaluate_options(*motion_overrides(motion_root, tmp_path)))


def test_a_checkpoint_of_another_class_count_is_refused(motion_root: Path, trained: Path, tmp_path: Path) -> None:
    state = torch.load(trained / "tiny/checkpoints/best.pt", weights_only=True)["model"]
    state["head.projection.weight"] = torch.zeros(5, 192)
    state["head.projection.bias"] = torch.zeros(5)
    torch.save(state, tmp_path / "five.pth")
    with pytest.raises(ValueError, match=r"weights for 5 classes, a model for 8.*\(data\.num_classes=5 in a command\)"):
        build.evaluate(evaluate_options(*small_overrides(motion_root, trained), f"checkpoint={tmp_path / 'five.pth'}"))


def test_a_plain_state_dict_is_evaluated_like_our_checkpoint(motion_root: Path, trained: Path, tmp_path: Path) -> None:
    state = torch.load(trained / "tiny/checkpoints/best.pt", weights_only=True)["model"]
    torch.save({"model_state": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pyth")
    ours = build.evaluate(evaluate_options(*small_overrides(motion_root, trained)))
    other = build.evaluate(
        evaluate_options(
            *small_overrides(motion_root, trained),
            f"checkpoint={tmp_path / 'w.pyth'}",
            f"output={tmp_path}",
        )
    )
    differ = {key for key in ours if ours[key] != other[key]}
    assert differ == {"checkpoint", "weights_sha256", "step"}


def test_clip_and_video_level_on_known_scores(tmp_path: Path) -> None:
    manifest = Manifest(("a", "b"), (0, 1), ("x", "y"), "test")
    scorer = ViewScorer(manifest, num_views=2)
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.45, 0.55], [0.6, 0.4]], dtype=np.float32)
    scorer.scores.add([0, 0, 1, 1], [0, 1, 0, 1], probabilities)
    results = scorer.write(tmp_path, {"split": "test"})
    # Views: right, wrong, right, wrong. Sums: (1.3, 0.7) right, (1.05, 0.95) wrong.
    assert (results["clip_top1"], results["video_top1"], results["clip_top5"]) == (50.0, 50.0, 100.0)
    assert results["per_class"] == {"x": 100.0, "y": 0.0}
