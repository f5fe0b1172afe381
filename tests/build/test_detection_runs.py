"""Detection through the same trainer, loader, checkpoints and commands as videos and images."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mvit_video import Predictor, build, evaluate, from_pretrained
from mvit_video.build import batch_size, object_export, plan
from mvit_video.build.batch_size import resolve_without_ranks
from mvit_video.build.common import build_model, build_source, share_statistics, start_from_weights
from mvit_video.build.detection import Detection
from mvit_video.build.export import Export, export, recipe
from mvit_video.build.object_export import ObjectExport
from mvit_video.build.preview import preview
from mvit_video.build.stored_options import stored_groups
from mvit_video.config import Predict
from mvit_video.data.datasets.sources import ShapesSource
from mvit_video.data.embedded.scenes import CLASS_NAMES, ScenesSpec, generate_scenes
from mvit_video.distributed.process_group import World, sum_over_ranks
from mvit_video.engine.checkpoints import load_latest
from mvit_video.exporting.about import read_about
from mvit_video.hub import push
from mvit_video.models import from_checkpoint
from mvit_video.models.detection import Detector
from mvit_video.models.detection.batch_norm import BoxBatchNorm
from mvit_video.predictor import prediction_options
from mvit_video.tasks.detection_pictures import DetectionPictures
from tests import interpreters
from tests.build.detection_options import TEST_IMAGES, TRAIN_IMAGES, few_scenes, small
from tests.conftest import options
from tests.models.detection.helpers import tiny_detector
from tests.paths import ROOT

WORLD = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and three test scenes."""
    spec = ScenesSpec(train_images=TRAIN_IMAGES, test_images=TEST_IMAGES)
    return generate_scenes(tmp_path_factory.mktemp("scenes"), spec)


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two epochs, four steps in all."""
    out = tmp_path_factory.mktemp("runs")
    build.train(options(*few_scenes(root, out, "trainer.num_workers=1")))
    return out / "tiny"


def test_the_record_of_a_run_has_losses_and_precisions(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    losses = ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask")
    assert steps[0]["loss"] == pytest.approx(sum(steps[0][name] for name in losses), rel=1e-4)
    assert {"images_per_s", "failed_images"} <= set(steps[0])
    scores = [row for row in rows if row["kind"] == "eval"]
    assert {"box_ap", "box_ap50", "box_ap_small", "mask_ap", "mask_ap75"} <= set(scores[-1])
    assert scores[-1]["num_images"] == TEST_IMAGES
    assert (trained / "curves.png").is_file()
    state = load_latest(trained / "checkpoints")
    assert state is not None
    assert (state["step"], state["best_metric"], tuple(state["class_names"])) == (4, "box_ap", CLASS_NAMES)


def test_a_checkpoint_gives_the_detector(trained: Path) -> None:
    detector = from_checkpoint(trained / "checkpoints/best.pt")
    assert isinstance(detector, Detector)
    assert detector.config.short_side == 64
    found = detector.eval()([torch.zeros(3, 96, 100, dtype=torch.uint8)])
    assert isinstance(found, list)
    assert found[0]["masks"].shape[1:] == (96, 100)


def test_an_evaluation_takes_the_options_of_the_run(trained: Path, tmp_path: Path) -> None:
    words = [f"run={trained}", f"output={tmp_path}", "model.score_threshold=0.0", "model.detections_per_image=5"]
    groups = stored_groups(words)
    assert {"task=detection", "data/source=scenes"} <= set(groups)
    code = f"import sys; sys.argv = {['evaluate', *words]!r}\nfrom mvit_video.evaluate import main\nmain()"
    done = interpreters.run("-c", code, cwd=ROOT, check=True, timeout=120)
    assert "model.score_threshold: null -> 0.0" in done.stderr + done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"box_ap", "box_ar100", "mask_ap_small", "mask_ar1"} <= set(results)
    assert results["detector"]["score_threshold"] == 0.0
    assert results["detector"]["short_side"] == 64
    assert set(results["per_class"]) == set(CLASS_NAMES)
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert {entry["image_id"] for entry in predictions} <= {1, 2, 3}
    assert len(predictions) <= 5 * TEST_IMAGES
    for name in ("best", "worst", "random"):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.size[1] > 3 * 320


@pytest.fixture(scope="module")
def config(trained: Path) -> Predict:
    """The options of a prediction with the run."""
    return prediction_options({"weights": str(trained)})


@pytest.fixture(scope="module")
def exported(config: Predict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one file, in a folder without anything else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_export, "CHECKED", 1)
        made = export(config, Export(output=tmp_path_factory.mktemp("alone") / "tiny.safetensors"))
    assert "the run's own images" in made.text() and "inputs 3 x height x width, 5 classes" in made.text()
    return made.path


def test_an_exported_detector_is_its_run(
    trained: Path, exported: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported.parent)
    monkeypatch.setattr(DetectionPictures, "__call__", lambda *_: [])
    path = next((root / "test").glob("*.jpg"))
    found = Predictor(exported.name, {"threshold": 0.05})(path).predictions
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    detector = from_checkpoint(trained / "checkpoints/best.pt").eval()
    (expected,) = detector([pixels])  # type: ignore[misc]
    assert len(found) > 0 and [one.score for one in found] == expected["scores"].tolist()
    assert [list(one.box) for one in found] == expected["boxes"].tolist()  # type: ignore[attr-defined]
    numbers = evaluate(checkpoint=exported.name, options={"output": str(tmp_path)}).metrics
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    validated = {name: value for name, value in rows[-1].items() if name in numbers}
    assert validated == {name: pytest.approx(numbers[name], abs=1e-4) for name in validated} and "box_ap" in validated


def test_what_an_exported_detector_says_of_itself(
    trained: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = read_about(exported)
    what, detector = about["preprocessing"], from_checkpoint(exported)
    assert isinstance(detector, Detector)
    assert what["detector"] == json.loads(json.dumps(asdict(detector.config)))
    assert (what["views"]["short_side"], what["input"]["mean"][0], what["output"]["score_threshold"]) == (
        64,
        123.675,
        0.05,
    )
    assert (about["class_names"], about["category_ids"]) == (list(CLASS_NAMES), [1, 2, 3, 4, 5])
    assert about["run"] == json.loads((trained / "run.json").read_text()) and about["step"] == 4
    assert about["config"]["optim"]["lr"] == 8e-4
    assert about["results"]["validation"]["num_images"] == TEST_IMAGES and "box_ap" in about["results"]["validation"]
    assert "NaN" not in json.dumps(about)
    assert (about["parity"]["largest_difference"], about["parity"]["bound"]) == (0.0, 1e-5)
    assert about["parity"]["objects"] == about["parity"]["found_again"] > 0
    monkeypatch.syspath_prepend(ROOT)
    from examples.read_export import classify

    with pytest.raises(SystemExit, match=r"tiny\.safetensors: is a detector, and this reads classifiers"):
        classify("image.jpg", str(exported))


@pytest.mark.parametrize("wrong", ["description", "options"])
def test_a_detector_that_its_file_does_not_describe_is_not_written(
    config: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """What a file says must give its model: readers of others build on the one, this project on the other."""
    about = ObjectExport.about

    def described(self: ObjectExport, inputs: Any, model: Any) -> dict[str, Any]:
        said = about(self, inputs, model)
        monkeypatch.setattr(ObjectExport, "about", about)
        said["preprocessing"]["detector"]["nms_threshold"] = 0.9
        return said

    def optioned(own: Predict) -> dict[str, Any]:
        made = recipe(own)
        return {**made, "model": {**made["model"], "nms_threshold": 0.9}}

    monkeypatch.setattr(object_export, "CHECKED", 1)
    if wrong == "options":
        monkeypatch.setattr("mvit_video.build.export.recipe", optioned)
        message = "the file does not find what the model finds, and is not written"
    else:
        monkeypatch.setattr(ObjectExport, "about", described)
        message = r"is not written: preprocessing\.detector\.nms_threshold is 0\.9, and the model's 0\.5$"
    with pytest.raises(ValueError, match=message):
        export(config, Export(output=tmp_path / "tiny.safetensors"))
    assert not list(tmp_path.iterdir())


def test_an_exported_detector_on_a_hub(config: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer bits, whose cost is measured; the page has precisions in place of accuracies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(object_export, "CHECKED", 1)
    push(config, "./tiny", precision="fp16", licence="mit")
    about = read_about(tmp_path / "tiny" / "model.safetensors")
    cost = about["results"]["precision_cost"]
    assert cost["on"] == "the run's own images" and {"box_ap", "mask_ap"} <= cost["fp32"].keys() & cost["fp16"].keys()
    page = (tmp_path / "tiny" / "README.md").read_text(encoding="utf-8")
    for part in (
        "pipeline_tag: object-detection",
        "print(one.name, one.score, one.box, one.mask)",
        "| validation (step 4) |",
    ):
        assert part in page
    assert "| fp16, on the run's own images |" in page and "accuracy" not in page
    detector = from_pretrained("./tiny", score_threshold=0.2)
    assert isinstance(detector, Detector) and not detector.training and detector.config.score_threshold == 0.2


def test_training_starts_from_an_exported_detector(exported: Path, root: Path, tmp_path: Path) -> None:
    config = options(*few_scenes(root, tmp_path, f"weights={exported}"))
    config.model.num_classes = 5  # type: ignore[union-attr]
    model, held = build_model(config), from_checkpoint(exported).state_dict()
    start_from_weights(config, model)
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_killed_runs_go_on_to_the_bit_and_two_ranks_equal_one(root: Path, tmp_path: Path) -> None:
    script = ("-m", "tests.build.detection_ranks", str(root), str(tmp_path))
    done = interpreters.run(*script, cwd=ROOT, check=True, timeout=300)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"]
    assert found["resumed"] == 0.0
    assert found["shared"] < 1e-5
    assert found["evaluations_equal"]
    assert found["num_images"] == TEST_IMAGES
    assert found["predictions"] > 0


def test_batch_norms_use_the_boxes_of_all_ranks() -> None:
    detector = tiny_detector(kind="cascade_mask_rcnn")
    norms = [module for module in detector.modules() if isinstance(module, BoxBatchNorm)]
    share_statistics(detector, WORLD)
    assert norms
    assert all(norm.total is None for norm in norms)
    share_statistics(detector, World(rank=0, size=2, device=torch.device("cpu")))
    assert all(norm.total is sum_over_ranks for norm in norms)


def test_samples_come_through_workers_as_they_are_made(root: Path, tmp_path: Path) -> None:
    config = options(*few_scenes(root, tmp_path))
    builder = Detection()
    split = builder.read_split(config, build_source(config.data, WORLD), "train")
    loaders = [builder.train_loader(config, split, WORLD)]
    config.trainer.num_workers = 1
    loaders.append(builder.train_loader(config, split, WORLD))
    here, there = (next(loader.batches(3)) for loader in loaders)
    assert torch.equal(here.pixels, there.pixels)
    for name in ("sizes", "paths", "images", "epoch", "position"):
        assert getattr(here, name) == getattr(there, name)
    for ours, theirs in zip(here.instances, there.instances, strict=True):
        assert np.array_equal(ours.boxes, theirs.boxes)
        assert ours.masks is not None
        assert theirs.masks is not None
        assert np.array_equal(ours.masks.bitmaps(), theirs.masks.bitmaps())
    assert [tuple(picture.shape) for picture in there.pictures()] == [(3, 64, 64)] * 2


def test_a_preview_draws_what_is_annotated(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = few_scenes(root, tmp_path, "clips=2", "videos=2")
    caplog.set_level(logging.INFO)
    written = preview(options(*given, config_name="preview"))
    assert [path.name for path in written] == ["train_01.png", "test_01.png", "index.md"]
    text = written[-1].read_text()
    assert "64 x 64: " in text
    assert "scaled to fit in 0.75 to 1 times 64 pixels" in text
    with pytest.raises(ValueError, match=r"per_class=true: shows a sample of each class"):
        preview(options(*given, "per_class=true", config_name="preview"))


def test_a_plan_counts_windows_pyramid_and_heads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("+experiment=scenes_mask_rcnn_mvitv2", "machine=cpu", "num_videos=1200", f"output_dir={tmp_path}")
    config = small(options(*given, "data.crop_size=64", config_name="plan"))
    windows, model = plan.measure(config)
    monkeypatch.setattr(plan, "measure", lambda _: (windows, model))
    plan.print_plan(config)
    monkeypatch.undo()
    shown = capsys.readouterr().out
    assert "GFLOP per image" in shown
    assert "augment.repeats" not in shown
    config.data.crop_size = 128
    larger, _ = plan.measure(config)
    flops = [sum(cost.flops for cost in measured.costs) for measured in (windows, larger)]
    # Windows make attention linear in the number of pixels, but in global blocks; without them it is 6.6 times as much.
    assert flops[1] < 5 * flops[0]
    heads = windows.head_flops
    assert flops[0] < heads < larger.head_flops < 4 * heads, "the box heads see as many boxes in an image of any size"
    config.trainer.batch_size = "auto"
    monkeypatch.setattr(batch_size, "measure_blocks", lambda *_: (larger.costs, larger.outside))
    resolve_without_ranks(config, Detection(), processes=1)
    assert config.trainer.batch_size == 4


def test_data_and_options_of_another_kind_are_refused(root: Path, tmp_path: Path) -> None:
    given, builder = few_scenes(root, tmp_path), Detection()
    images = options("+experiment=shapes_mvitv2")
    with pytest.raises(ValueError, match=r"the task finds objects, and data=\.\.\. is no data set of detection"):
        builder.read_split(images, ShapesSource(root=str(tmp_path)), "train")
    config = options(*given)
    split = builder.read_split(config, build_source(config.data, WORLD), "train")
    config.augment = images.augment
    with pytest.raises(ValueError, match=r"the task finds objects, and augment=\.\.\. is for naming classes"):
        builder.train_loader(config, split, WORLD)
    with pytest.raises(ValueError, match=r"frame_order=single: an image has one frame"):
        builder.evaluation(config, split, WORLD, frame_order="single")
    with pytest.raises(ValueError, match=r"data\.sampling_weights=balanced: weighs classes"):
        options(*given, "data.sampling_weights=balanced")
