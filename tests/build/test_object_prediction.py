"""What a detector says of files: images and videos, from the command and from Python."""

import csv
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from mvit_video import Predictor
from mvit_video.build import object_prediction
from mvit_video.build.export import Export, _cost_text, export
from mvit_video.build.export_form import exporting
from mvit_video.build.live import predict_live
from mvit_video.build.object_export import ObjectExport
from mvit_video.build.prediction import build_predictor
from mvit_video.build.run_identity import DataRecord, RunIdentity
from mvit_video.data.datasets.published_names import COCO_2017, coco_category_numbers, published_class_names
from mvit_video.data.detection.coco_masks import coco_masks
from mvit_video.data.embedded.scenes import CLASS_NAMES
from mvit_video.distributed.process_group import World
from mvit_video.exporting.about import read_about
from mvit_video.hub import push
from mvit_video.models import from_checkpoint
from mvit_video.models.detection import Detector, create_detector
from mvit_video.models.weights.zoo import Entry, zoo
from mvit_video.prediction.folder import ResultsFolder
from mvit_video.predictor import prediction_options
from mvit_video.runtime.interruption import Interrupted
from mvit_video.video import VideoReader
from tests.build.detection_options import few_scenes
from tests.commands.predictions import predicted
from tests.conftest import options
from tests.prediction.test_annotation import packets, with_sound

FEW = ["model.detections_per_image=4", "threshold=0.1", "trainer.eval_batch_size=2", "trainer.num_workers=0"]
NUMBERS = (0, 2, 4, 6, 9)  # of the classes, in the file that the detector was trained on


def made_up(num_classes: int) -> Detector:
    """A detector of random weights, whose masks are not empty."""
    torch.manual_seed(0)
    detector = create_detector("mask_rcnn_mvitv2_scenes", num_classes=num_classes).eval()
    torch.nn.init.constant_(detector.roi_heads.mask_head.predictor.bias, 0.1)  # type: ignore[arg-type]
    return detector


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint that nobody trained."""
    out = tmp_path_factory.mktemp("runs")
    folder = out / "tiny"
    (folder / "checkpoints").mkdir(parents=True)
    text = OmegaConf.to_yaml(OmegaConf.structured(options(*few_scenes(out / "none", out))))
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    record = DataRecord(source="few.json", items=4, fingerprint="aa", category_ids=NUMBERS)
    run = RunIdentity.of(class_names=CLASS_NAMES, items_per_step=2, data={"train": record}).plain()
    state = {"model": made_up(5).state_dict(), "config": text, "class_names": list(CLASS_NAMES), "step": 1, "run": run}
    torch.save(state, folder / "checkpoints" / "best.pt")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an upright photograph, one that EXIF turns, a broken image, and a video with sound."""
    folder = tmp_path_factory.mktemp("pictures")
    grain = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(grain).save(folder / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grain).save(folder / "b.jpg", exif=exif)
    (folder / "broken.jpg").write_bytes(b"no image")
    with_sound(folder / "v.mp4", seconds=1)
    return folder


def test_objects_of_images_and_videos(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(pictures), f"weights={run}", f"output={tmp_path}", "annotate=true", "rate=3", "top_k=2", *FEW]
    found = {Path(one.path).name: one for one in predicted(*words)}
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split()[-6:] == ["class", "box", "(x1,", "y1,", "x2,", "y2)"]
    assert "and 2 more" in shown and "could not be read" in shown
    lines = {Path(line["path"]).name: line for line in map(json.loads, (tmp_path / "predictions.jsonl").open())}
    assert set(lines) == {"a.png", "b.jpg", "broken.jpg", "v.mp4"} and "error" in lines["broken.jpg"]
    for name, (height, width) in {"a.png": (60, 90), "b.jpg": (90, 60)}.items():
        assert len(lines[name]["predictions"]) == 4
        for one in lines[name]["predictions"]:
            x1, y1, x2, y2 = one["box"]
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height and one["class"] in CLASS_NAMES
            assert coco_masks().decode(one["mask"]).shape == (height, width)
    assert coco_masks().decode(lines["a.png"]["predictions"][0]["mask"]).any()
    windows = lines["v.mp4"]["windows"]
    assert [window["start"] for window in windows] == pytest.approx([0, 0.4, 0.7])
    assert windows[-1]["end"] == pytest.approx(1)
    best = max((one for window in windows for one in window["predictions"]), key=lambda one: one["score"])
    assert lines["v.mp4"]["predictions"][0] == {"class": best["class"], "score": best["score"]}
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open(encoding="utf-8")))
    assert [float(rows[0][key]) for key in ("x1", "y1", "x2", "y2")] == lines["a.png"]["predictions"][0]["box"]
    assert {row["start"] for row in rows if row["path"].endswith("v.mp4")} == {"0.0", "0.4", "0.7"}
    coco = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert [(one["image_id"], Path(one["file_name"]).name) for one in coco[::4]] == [(1, "a.png"), (2, "b.jpg")]
    x1, y1, x2, y2 = lines["a.png"]["predictions"][0]["box"]
    numbers = dict(zip(CLASS_NAMES, NUMBERS))
    assert coco[0]["category_id"] == numbers[lines["a.png"]["predictions"][0]["class"]]
    assert coco[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
    with Image.open(tmp_path / "annotated" / "b.png") as copy:
        assert copy.size == (6 * 60, 6 * 90)
    assert packets(tmp_path / "annotated" / "v.mp4", "audio") == packets(pictures / "v.mp4", "audio")
    with VideoReader(tmp_path / "annotated" / "v.mp4") as video:
        assert (video.info.num_frames, video.info.height, video.info.width) == (10, 320, 480)
    looked_at: list[str] = []
    monkeypatch.setattr(ResultsFolder, "add", lambda self, one, **more: looked_at.append(Path(one.path).name))
    assert {Path(one.path).name: one for one in predicted(*words)}["a.png"].to_json() == found["a.png"].to_json()
    assert looked_at == ["broken.jpg"]


def test_a_video_that_was_interrupted_goes_on(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(pictures / "v.mp4"), f"weights={run}", "rate=5", *FEW]
    whole = predicted(*words, f"output={tmp_path / 'whole'}")
    stops = iter([False, True])

    def stop() -> None:
        if next(stops):
            raise Interrupted("SIGTERM")

    monkeypatch.setattr(object_prediction, "stop_if_asked", stop)
    with pytest.raises(Interrupted):
        predicted(*words, f"output={tmp_path / 'out'}")
    monkeypatch.setattr(object_prediction, "stop_if_asked", lambda: None)
    looked_at: list[int] = []
    find = object_prediction.ObjectPredictor.find
    monkeypatch.setattr(
        object_prediction.ObjectPredictor,
        "find",
        lambda self, some: (looked_at.append(len(some)), find(self, some))[1],
    )
    again = predicted(*words, f"output={tmp_path / 'out'}")
    assert sum(looked_at) == 1  # of five frames, in batches of two
    assert [one.to_json() for one in again] == [one.to_json() for one in whole]
    assert not (tmp_path / "whole" / "predictions.json").exists()


def test_in_python_the_boxes_are_the_detectors(run: Path, pictures: Path) -> None:
    given = {"model.detections_per_image": 4, "threshold": 0.1}
    found = Predictor(run, given)(pictures / "a.png")
    detector = from_checkpoint(run / "checkpoints" / "best.pt", detections_per_image=4)
    assert isinstance(detector, Detector)
    with Image.open(pictures / "a.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    (expected,) = detector.eval()([pixels])  # type: ignore[misc]
    boxes = [one.box for one in found.predictions]  # type: ignore[attr-defined]
    assert torch.allclose(torch.tensor(boxes), expected["boxes"])
    assert [one.score for one in found.predictions] == pytest.approx(expected["scores"].tolist())
    assert [one.name for one in found.predictions] == [CLASS_NAMES[label] for label in expected["labels"].tolist()]


def test_published_detectors_know_the_words_and_numbers_of_coco(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = published_class_names(COCO_2017)
    assert names is not None
    numbers = coco_category_numbers(names)
    assert (numbers["person"], numbers["fire hydrant"], numbers["stop sign"], numbers["toothbrush"]) == (1, 11, 13, 90)
    assert coco_category_numbers(["person", "bolt"]) == {"person": 1, "bolt": 2}
    known = Entry(
        name="tiny_coco", url="https://host/tiny.pkl", file="tiny.pkl", publisher="", source="", licence="",
        task="detection", experiment="scenes_mask_rcnn_mvitv2", classes=COCO_2017,
        accuracy={"box_ap": 48.3},
    )  # fmt: skip
    monkeypatch.setitem(zoo(), known.name, known)  # type: ignore[arg-type]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    arrays = {name: tensor.numpy() for name, tensor in made_up(80).state_dict().items()}
    known.path.parent.mkdir(parents=True)
    known.path.write_bytes(pickle.dumps({"model": arrays, "__author__": "made up"}))
    words = [str(pictures / "a.png"), "weights=tiny_coco", f"output={tmp_path / 'out'}", "model.score_threshold=0.001"]
    more = ("model.detections_per_image=4", "trainer.num_workers=0", "trainer.threads=1")
    (found,) = predicted(*words, "threshold=0.001", *more)
    assert found.predictions and {one.name for one in found.predictions} <= set(names)
    coco = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert [one["category_id"] for one in coco] == [numbers[one.name] for one in found.predictions]
    # Into one file, compared on the embedded set; it needs neither the published one nor its name.
    config = prediction_options(
        {"weights": known.name, "model.detections_per_image": 4, "model.score_threshold": 0.001}
    )
    monkeypatch.setattr("mvit_video.build.object_export.CHECKED", 1)
    made = export(config, Export(output=tmp_path / "coco.safetensors"))
    known.path.unlink()
    about = read_about(made.path)
    assert about["class_names"] == list(names) and about["category_ids"] == list(numbers.values())
    assert about["origin"]["name"] == known.name and about["results"]["published"] == {"box_ap": 48.3}
    assert about["parity"]["clips"] == "images of the embedded set" and about["parity"]["largest_difference"] == 0
    alone = from_checkpoint(made.path)
    assert isinstance(alone, Detector) and (alone.config.num_classes, alone.config.detections_per_image) == (80, 4)


def test_the_experiments_of_published_detectors() -> None:
    detectors = [entry for entry in zoo().values() if entry.task == "detection"]
    assert detectors and all(entry.experiment and entry.name.startswith(entry.experiment) for entry in detectors)


def test_what_a_detector_does_not_do(
    run: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = prediction_options({"weights": str(run)})
    world = World(rank=0, size=1, device=torch.device("cpu"))
    config.windows = True
    with pytest.raises(ValueError, match="windows=true is for models that name classes of clips"):
        build_predictor(config, world)
    config.windows, config.explain = False, True
    with pytest.raises(ValueError, match="explain=true draws what speaks for a class"):
        build_predictor(config, world)
    config.explain, config.features = False, True
    with pytest.raises(ValueError, match="features=true writes what the classes of a clip or image come from"):
        build_predictor(config, world)
    config.features, config.threshold = False, 0.01
    with pytest.raises(ValueError, match=r"nothing below model.score_threshold=0.05; give model.score_threshold=0.01"):
        build_predictor(config, world)
    config.threshold = 0.5
    with pytest.raises(ValueError, match=r"^--to onnx: the weights are a detector.s, .* --to safetensors writes it"):
        export(config, Export(output=tmp_path / "a.onnx"))
    with pytest.raises(ValueError, match=r"^--to torch_export: .* --to safetensors writes it"):
        push(config, str(tmp_path / "a"), also=["torch_export"])
    with pytest.raises(ValueError, match=r"the task object of these weights does not say how its models are compared"):
        exporting(object())  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    predictor = build_predictor(config, world)
    found = ObjectExport.of(predictor).named(predictor.model, [str(pictures / "a.png")])
    cost = {"on": "it", "fp32": found, "bf16": {"objects": 7}}
    assert found["objects"] >= 0 and _cost_text(cost) == f"objects {found['objects']} -> 7"
    with pytest.raises(ValueError, match=r"and the model is a Linear: its checkpoint is a file"):
        ObjectExport.of(replace(predictor, model=torch.nn.Linear(1, 1)))  # type: ignore[type-var]
    with pytest.raises(ValueError, match="a stream is looked at in windows"):
        predict_live(predictor)
    with torch.no_grad():
        predictor.model.roi_heads.mask_head.predictor.bias.zero_()  # type: ignore[union-attr, operator]
    without = object_prediction.ObjectPredictor.of(predictor)  # type: ignore[arg-type]
    assert not without.masks and "trained on boxes alone: it gives no masks" in caplog.text
