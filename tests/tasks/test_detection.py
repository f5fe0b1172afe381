"""The task of finding objects: COCO's numbers, each image once, and the files and pictures of an evaluation."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mvit_video.data.detection.annotations import DetectionManifest
from mvit_video.data.detection.coco_json import from_coco
from mvit_video.data.detection.fingerprint import detection_fingerprint
from mvit_video.data.detection.ground_truth import ground_truth
from mvit_video.data.detection.reading import DetectionReading
from mvit_video.data.detection.transforms import LargeScaleJitter
from mvit_video.data.loading.detection_batch import DetectionBatch
from mvit_video.data.loading.detection_dataset import DetectionEvalDataset, DetectionTrainDataset
from mvit_video.models.detection import Detector
from mvit_video.tasks.coco_scores import NUMBERS, CocoScores
from mvit_video.tasks.detection import Detection, DetectionScorer
from mvit_video.tasks.detection_pictures import DetectionPictures, judge
from tests.data.detection.coco_files import content
from tests.models.detection.helpers import drawn, tiny_detector

Output = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> DetectionManifest:
    """The hand-made set: crowds, an image without instances, a class without any."""
    folder = tmp_path_factory.mktemp("coco")
    made = content()
    for image in made["images"]:
        Image.new("RGB", (image["width"], image["height"]), (90, 120, 150)).save(folder / image["file_name"])
    (folder / "instances.json").write_text(json.dumps(made))
    return from_coco(folder / "instances.json", root=folder, empty_images="keep")


def truth_of(manifest: DetectionManifest, row: int) -> Output:
    """What a faultless detector would answer."""
    instances = manifest.instances(row).without_crowds()
    assert instances.masks is not None
    return {
        "boxes": torch.from_numpy(instances.boxes),
        "scores": torch.linspace(0.99, 0.9, len(instances)),
        "labels": torch.from_numpy(instances.labels),
        "masks": torch.from_numpy(instances.masks.bitmaps()),
    }


def scored(manifest: DetectionManifest, outputs: Mapping[int, Output], **kwargs: Any) -> DetectionScorer:
    scorer = DetectionScorer(manifest, **kwargs)
    dataset = DetectionEvalDataset(manifest)
    for row, output in outputs.items():
        scorer.add(dataset.collate([dataset[row]]), [output])
    return scorer


def noisy(manifest: DetectionManifest) -> dict[int, Output]:
    """Answers of a detector that errs: shifted boxes, a second box each, and classes that are not there."""
    rng = np.random.default_rng(0)
    outputs = {}
    for row in range(len(manifest)):
        output = truth_of(manifest, row)
        boxes = torch.cat([output["boxes"]] * 2)
        shifts = torch.from_numpy(rng.uniform(-3, 3, (len(boxes), 4)).astype(np.float32))
        labels = torch.cat([output["labels"]] * 2)
        labels[::3] = 1
        outputs[row] = {
            "boxes": (boxes + shifts).clamp(0, 30),
            "scores": torch.from_numpy(rng.uniform(0.2, 1, len(boxes)).astype(np.float32)),
            "labels": labels,
            "masks": torch.cat([output["masks"]] * 2).roll(1, dims=2),
        }
    return outputs


def test_a_faultless_detector_has_100_and_crowds_are_not_missed(manifest: DetectionManifest) -> None:
    scorer = scored(manifest, {row: truth_of(manifest, row) for row in range(len(manifest))})
    metrics = scorer.metrics()
    assert set(metrics) == set(Detection(class_names=manifest.class_names, has_masks=True).eval_metrics)
    assert metrics["box_ap"] == metrics["mask_ap75"] == pytest.approx(100)
    assert math.isnan(metrics["box_ap_large"]), "there is no large instance"
    assert (metrics["num_images"], metrics["num_failed"]) == (len(manifest), 0)


def test_the_numbers_are_those_of_pycocotools_on_the_files(manifest: DetectionManifest, tmp_path: Path) -> None:
    scorer = scored(manifest, noisy(manifest))
    results = scorer.write(tmp_path, {"split": "test"})
    assert results == json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "truth.json").write_text(json.dumps(ground_truth(manifest)))
    truth = COCO(str(tmp_path / "truth.json"))
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert {entry["category_id"] for entry in predictions} <= {2, 13, 90}
    for kind, name, drop in (("box", "bbox", "segmentation"), ("mask", "segm", "bbox")):
        found = truth.loadRes([{k: v for k, v in entry.items() if k != drop} for entry in predictions])
        reference = COCOeval(truth, found, name)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
        for number, value in zip(NUMBERS, reference.stats.tolist(), strict=True):
            ours = results[f"{kind}_{number}"]
            assert ours is None if value < 0 else ours == pytest.approx(100 * value, abs=1e-9), (kind, number)
        assert 0 < results[f"{kind}_ap"] < 100
        classes = [table[f"{kind}_ap"] for table in results["per_class"].values()]
        known = [value for value in classes if value is not None]
        assert sum(known) / len(known) == pytest.approx(results[f"{kind}_ap"])
    assert results["per_class"]["bird"] == {
        "box_ap": None, "box_ap50": None, "mask_ap": None, "mask_ap50": None, "instances": 0
    }  # fmt: skip
    assert "box AP" in scorer.summary(results)


def test_boxes_are_scored_as_stated_and_masks_that_are_not_there_are_ignored(manifest: DetectionManifest) -> None:
    made = content()
    dog, cat = (entry for entry in made["annotations"] if entry["id"] in (12, 14))
    dog.update(segmentation=[])
    cat.update(bbox=[17, 4, 16, 100])  # over the border: what is inside overlaps what is found by .6, the whole by .16
    folder = Path(manifest.source).parent
    (folder / "changed.json").write_text(json.dumps(made))
    changed = from_coco(folder / "changed.json", root=folder, empty_images="keep")
    numbers = scored(changed, {row: truth_of(manifest, row) for row in range(len(manifest))}).metrics()
    assert numbers["mask_ap"] == pytest.approx(100), "what is found of an instance without a mask is no error"
    assert numbers["box_ap50"] < 100
    assert changed.instances(0).boxes.max() == 33, "a training sees what is inside of the image"


def test_ranks_merge_to_the_same_numbers_and_no_image_may_lack(manifest: DetectionManifest) -> None:
    outputs = noisy(manifest)
    whole = scored(manifest, outputs)
    parts = [scored(manifest, {row: outputs[row] for row in outputs if row % 2 == rank}) for rank in (1, 0)]
    with pytest.raises(RuntimeError, match=r"\d of \d images were not scored"):
        parts[0].metrics()
    parts[0].merge(parts[1].state())
    np.testing.assert_equal(parts[0].metrics(), whole.metrics())
    assert parts[0].predictions() == whole.predictions()


def test_an_unreadable_image_has_no_detections_and_is_counted(
    manifest: DetectionManifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = from_coco(manifest.source, root=Path(manifest.paths[0]).parent, empty_images="keep")
    dataset = DetectionEvalDataset(broken, reading=DetectionReading(max_pixels=10))
    batch = dataset.collate([dataset[0]])
    assert batch.failed == [True]
    assert "pixels" in batch.failures[0][1]
    scorer = scored(broken, {row: truth_of(broken, row) for row in range(1, len(broken))})
    scorer.add(batch, [truth_of(broken, 0)])
    metrics = scorer.metrics()
    assert metrics["num_failed"] == 1
    assert metrics["box_ap"] < 100


def test_nothing_found_and_nothing_to_find(manifest: DetectionManifest) -> None:
    nothing = {name: value[:0] for name, value in truth_of(manifest, 0).items()}
    assert scored(manifest, dict.fromkeys(range(len(manifest)), nothing)).metrics()["box_ap"] == 0
    empty = CocoScores(images=[{"id": 1, "height": 5, "width": 5}], categories=[{"id": 1, "name": "a"}],
                       annotations=[], detections=[])  # fmt: skip
    assert math.isnan(empty.numbers["mask_ap"])
    assert math.isnan(empty.per_class["a"]["box_ap"])


def test_pictures_show_the_best_and_the_worst_first(manifest: DetectionManifest, tmp_path: Path) -> None:
    outputs = {row: truth_of(manifest, row) for row in range(len(manifest))}
    bad = next(row for row in outputs if len(outputs[row]["scores"]))
    outputs[bad]["labels"] = torch.ones_like(outputs[bad]["labels"])  # birds
    pictures = DetectionPictures(DetectionReading(), count=2)
    scorer = scored(manifest, outputs, writers=(pictures,))
    judged = {row: judge(scorer.found[row], manifest.instances(row)) for row in outputs}
    assert judged[bad].f1 < 1
    assert {judged[row].f1 for row in outputs if row != bad} == {1.0}
    scorer.write(tmp_path, {})
    for name in ("best", "worst", "random"):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.size[0] >= 900


def test_a_box_is_found_once_and_what_lies_in_a_crowd_is_no_error(manifest: DetectionManifest) -> None:
    row = next(
        r for r in range(len(manifest)) if manifest.instances(r).crowds.any() and len(truth_of(manifest, r)["scores"])
    )
    output = {name: torch.cat([value, value]) for name, value in truth_of(manifest, row).items()}
    instances = manifest.instances(row)
    found = scored(manifest, {row: output}).found[row]
    result = judge(found, instances)
    wanted = int((~instances.crowds).sum())
    assert result.right == wanted
    assert result.missed == []
    assert -2 in result.matched, "the second box lies in the crowd of its class"


def test_the_loss_is_the_sum_and_a_cascades_stages_are_added_up() -> None:
    task = Detection(class_names=("a",), has_masks=False)
    outputs = {"loss_rpn_cls": 1.0, "loss_cls_stage0": 2.0, "loss_cls_stage1": 4.0, "loss_box_reg_stage0": 8.0}
    result = task.loss({name: torch.tensor(value) for name, value in outputs.items()}, None)
    assert result.loss == 15
    assert result.metrics["loss_cls"] == 6
    assert result.metrics["loss_mask"] == 0
    assert "mask_ap" not in task.eval_metrics


@pytest.mark.slow
def test_two_images_are_learnt_to_100(tmp_path: Path) -> None:
    images = [
        drawn(64, 64, (0, (6, 8, 34, 40), (230, 40, 40)), (2, (30, 34, 60, 60), (40, 60, 230))),
        drawn(64, 64, (1, (16, 12, 44, 56), (40, 220, 60))),
    ]
    detector = easy_detector()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3, weight_decay=0)
    steps = 160
    for step in range(steps):
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * step / steps))
        losses = detector([image for image, _ in images], [target for _, target in images])
        assert isinstance(losses, dict)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
    found = detector.eval()([image for image, _ in images])
    assert isinstance(found, list)
    scorer = scored(drawn_manifest(tmp_path, images), dict(enumerate(found)))  # type: ignore[arg-type]
    metrics = scorer.metrics()
    assert metrics["box_ap"] == pytest.approx(100)
    assert metrics["mask_ap75"] == pytest.approx(100)


def easy_detector() -> Detector:
    return tiny_detector(
        hidden=64,
        channels=24,
        proposals_per_level_train=40,
        proposals_per_level_test=40,
        proposals=30,
        rois_sampled=24,
        anchor_sides=(16, 32, 48, 96, 128),
        canonical_side=112,
    )


def drawn_manifest(folder: Path, images: list[Any]) -> DetectionManifest:
    """Drawn images as a COCO set."""
    from tests.data.detection.coco_files import packed

    annotations = []
    for number, (image, target) in enumerate(images):
        pixels = image.permute(1, 2, 0).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
        for box, label, mask in zip(target["boxes"].tolist(), target["labels"].tolist(), target["masks"].numpy()):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "area": int(mask.sum()),
                    "segmentation": {"size": list(mask.shape), "counts": packed(mask)},
                }
            )  # fmt: skip
    made = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 64, "width": 64} for n in range(len(images))],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(3)],
    }
    (folder / "drawn.json").write_text(json.dumps(made))
    return from_coco(folder / "drawn.json", root=folder)


def test_boxes_alone_are_learnt_and_scored(tmp_path: Path) -> None:
    images = [drawn(64, 64, (1, (16, 12, 44, 56), (40, 220, 60)))]
    drawn_manifest(tmp_path, images)
    boxes = from_coco(tmp_path / "drawn.json", root=tmp_path, masks=False)
    assert not boxes.has_masks
    dataset = DetectionTrainDataset(boxes, transform=LargeScaleJitter(side=64, scale=(1, 1)), seed=0)
    batch = dataset.collate([dataset[0, 0, 0]])
    assert isinstance(batch, DetectionBatch)
    task = Detection(class_names=boxes.class_names, has_masks=False)
    inputs = task.train_inputs(batch, seed=0)
    detector = tiny_detector()
    losses = detector(*inputs.model_inputs)
    assert isinstance(losses, dict)
    assert losses["loss_mask"] == 0
    task.loss(losses, None).loss.backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())
    scorer = scored(boxes, {0: {**images[0][1], "scores": torch.tensor([0.9])}})
    assert scorer.metrics()["box_ap"] == pytest.approx(100)
    assert "mask_ap" not in scorer.metrics()
    assert "segmentation" not in scorer.predictions()[0]


def test_a_moved_box_is_another_set(manifest: DetectionManifest) -> None:
    moved = manifest.annotations.boxes.copy()
    moved[0, 0] += 1
    other = replace(manifest, annotations=replace(manifest.annotations, boxes=moved))
    assert detection_fingerprint(other) != detection_fingerprint(manifest) == detection_fingerprint(replace(manifest))
