"""Scores of images: one or several right labels, all classes or some, each image once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvit_video.data.augmentation.mixing import Mixing
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch
from mvit_video.tasks import image_classification
from mvit_video.tasks.allowed_classes import allowed_classes
from mvit_video.tasks.classification import Normalization
from mvit_video.tasks.confusion import confusion_title
from mvit_video.tasks.image_classification import ImageClassification, ImageScorer
from tests.conftest import drawn_pictures

NAMES = tuple("abcdefg")
MANIFEST = Manifest([f"{n}.jpg" for n in range(6)], [0, 1, 2, 0, 1, 2], NAMES, "set", kind=IMAGES)
# What the model says first and second of each image.
FIRST, SECOND = [0, 2, 2, 3, 1, 0], [1, 1, 0, 0, 0, 2]


def batch(rows: list[int], *, failed: tuple[int, ...] = ()) -> Batch:
    count = len(rows)
    return Batch(
        clips=torch.zeros(count, 1, 4, 4, 3, dtype=torch.uint8),
        labels=torch.tensor([MANIFEST.labels[row] for row in rows]),
        videos=torch.tensor(rows),
        views=torch.zeros(count, dtype=torch.int64),
        erase=torch.zeros(count, 4, dtype=torch.int32),
        noise_seeds=torch.zeros(count, dtype=torch.int64),
        failed=torch.tensor([row in failed for row in rows]),
        paths=[MANIFEST.paths[row] for row in rows],
        failures=[],
    )


def logits(rows: list[int]) -> torch.Tensor:
    values = torch.zeros(len(rows), len(NAMES))
    for place, row in enumerate(rows):
        values[place, FIRST[row]], values[place, SECOND[row]] = 3.0, 2.0
    return values


def scored(scorer: ImageScorer, *, failed: tuple[int, ...] = ()) -> ImageScorer:
    scorer.add(batch([0, 2, 4], failed=failed), logits([0, 2, 4]))
    other = ImageScorer(scorer.manifest, allowed=scorer.allowed)
    other.add(batch([1, 3, 5, 5], failed=failed), logits([1, 3, 5, 5]))  # one image comes twice
    scorer.merge(other.state())
    return scorer


def test_each_image_counts_once_and_unreadable_ones_are_wrong() -> None:
    metrics = scored(ImageScorer(MANIFEST)).metrics()
    assert metrics["top1"] == pytest.approx(50.0)  # images 0, 2 and 4
    assert metrics["top5"] == pytest.approx(100.0)
    assert (metrics["num_images"], metrics["num_failed"]) == (6, 0)
    assert metrics["mean_class_top1"] == pytest.approx(50.0)
    failed = scored(ImageScorer(MANIFEST), failed=(4,)).metrics()
    assert failed["top1"] == pytest.approx(100 / 3)
    assert failed["num_failed"] == 1
    with pytest.raises(ValueError, match=r"6 of 6 images were never scored, the first is 0\.jpg"):
        ImageScorer(MANIFEST).metrics()


def test_any_of_several_right_labels_is_right() -> None:
    sets = LabelSetArrayView([[0], [1, 2], [2], [3, 5], [1], [4]])
    several = replace(MANIFEST, label_sets=sets, labels=[0, 1, 2, 3, 1, 4])
    scorer = scored(ImageScorer(several))
    assert scorer.hits(1).tolist() == [True, True, True, True, True, False]
    assert scorer.metrics()["top1"] == pytest.approx(500 / 6)
    assert scorer.results()["per_class"]["e"] == 0.0


def test_the_confusion_matrix_is_of_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that is right, too, is no confusion; in the title unreadable images are wrong, as in results.json."""
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(
        image_classification, "plot_confusion", lambda matrix, *_, **about: drawn.update(about, m=matrix)
    )
    sets = LabelSetArrayView([[0], [1, 2], [2], [3, 5], [1], [4]])
    scorer = scored(ImageScorer(replace(MANIFEST, label_sets=sets, labels=[0, 1, 2, 3, 1, 4])), failed=(0,))
    results = scorer.write(tmp_path, {})
    assert np.trace(drawn["m"]) == 4 and drawn["m"].sum() == 5 and drawn["unreadable"] == 1
    title = confusion_title(np.trace(drawn["m"]), drawn["m"].sum() + 1, item="image", unreadable=1)
    assert title == "4 of 6 images right (66.7%), 1 unreadable" and results["top1"] == pytest.approx(400 / 6)


def test_only_classes_that_are_allowed_are_named() -> None:
    allowed = allowed_classes("present", MANIFEST)
    assert allowed is not None
    assert allowed.tolist() == [True] * 3 + [False] * 4
    scorer = scored(ImageScorer(MANIFEST, allowed=allowed))
    assert scorer.hits(1).tolist() == [True, False, True, True, True, False]  # image 3 was taken for a "d"
    assert scorer.scores.predictions()[3] == 0
    assert allowed_classes("all", MANIFEST) is None


def test_a_file_of_classes_must_fit_model_and_split(tmp_path: Path) -> None:
    listing = tmp_path / "classes.txt"
    listing.write_text("c\nb\na\nf\n")
    allowed = allowed_classes(str(listing), MANIFEST)
    assert allowed is not None
    assert np.flatnonzero(allowed).tolist() == [0, 1, 2, 5]
    listing.write_text("a\nb\nc\nx\n")
    with pytest.raises(ValueError, match="1 of its 4 classes is unknown to the model, the first 'x'"):
        allowed_classes(str(listing), MANIFEST)
    nothing = tmp_path / "nothing.txt"
    with pytest.raises(
        ValueError, match=rf"task\.classes={nothing}: neither all nor present, and as a file: .* does not"
    ):
        allowed_classes(str(nothing), MANIFEST)
    listing.write_text("a\nb\n")
    with pytest.raises(ValueError, match="images of 1 other class, which could never be right, the first 'c'"):
        allowed_classes(str(listing), MANIFEST)


def test_results_are_written_with_the_words_of_images(tmp_path: Path) -> None:
    scorer = scored(ImageScorer(MANIFEST), failed=(4,))
    with drawn_pictures():
        results = scorer.write(tmp_path, {"split": "val"})
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["top1"] == pytest.approx(100 / 3)
    assert {"top5", "top1_ci95", "mean_class_top1_ci95", "per_class", "per_class_count", "split"} <= set(results)
    assert not [key for key in results if "video" in key or "clip" in key or "view" in key]
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert lines[1]["image"] == "1.jpg"
    assert (lines[1]["label"], lines[1]["predicted"]) == ("b", "c")
    assert lines[4]["failed"]
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert scorer.summary(results).startswith("6 images: top-1 33.33 (95 % interval ")


def test_a_model_of_images_gets_images_without_a_time_axis() -> None:
    task = ImageClassification(
        class_names=NAMES,
        normalization=Normalization(mean=(0.5,) * 3, std=(0.5,) * 3),
        mixing=Mixing(num_classes=len(NAMES)),
    )
    made = task.train_inputs(batch([0, 1, 2, 3]), seed=0)
    assert made.model_inputs[0].shape == (4, 3, 4, 4)
    assert made.targets.shape == (4, len(NAMES))
    assert task.eval_inputs(batch([0]))[0].shape == (1, 3, 4, 4)
    assert (task.item, task.best_metric) == ("image", "top1")
