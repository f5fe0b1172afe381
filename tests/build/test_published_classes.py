"""Published weights know their classes: labels are brought into the order of their head by name."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mvit_video.build.evaluation import load_trained
from mvit_video.build.published_classes import in_published_order, mapped
from mvit_video.config.check import to_object
from mvit_video.data.datasets.class_names import numbered_names
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.published_names import published_class_names
from mvit_video.data.datasets.sources import ListSource
from mvit_video.distributed.process_group import World
from mvit_video.models.weights.zoo import zoo
from tests.composing import compose

NAMES = ("archery", "arm wrestling", "yoga")


def split(*names: str, labels: list[int]) -> Manifest:
    return Manifest([f"{place}.mp4" for place in range(len(labels))], labels, names, source="mine.csv")


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (("yoga", "arm wrestling", "archery"), [0, 1, 2], [2, 1, 0]),
        (("arm_wrestling",), [0, 0], [1, 1]),
        (("Yoga", "archery"), [0, 1], [2, 0]),
        (NAMES, [0, 2], [0, 2]),
        (("yoga", "unused", "archery"), [0, 2], [2, 0]),
    ],
)
def test_labels_follow_the_names(names: tuple[str, ...], labels: list[int], expected: list[int]) -> None:
    found = mapped(split(*names, labels=labels), NAMES, weights="weights")
    assert list(found.labels) == expected and found.class_names == NAMES


def test_labels_without_names_are_places() -> None:
    given = split(*numbered_names(3), labels=[0, 2])
    assert mapped(given, NAMES, weights="weights") is given


def test_other_names_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """As many classes under other names are taken by their places; fewer are refused by whoever counts them."""
    given = split("archery", "arms", "yoga", labels=[0, 1, 2])
    assert mapped(given, NAMES, weights="k400") is given
    assert (
        "mine.csv: classes that are not called as those of k400 (1 of 3): 'arms'. The labels are taken" in caplog.text
    )
    assert mapped(fewer := split("arms", labels=[0]), NAMES, weights="k400") is fewer


def test_only_a_published_file_has_an_order(tmp_path: Path) -> None:
    """A file that lies elsewhere may have any head."""
    names = published_class_names("kinetics_400")
    assert names is not None
    (tmp_path / "names.txt").write_text("\n".join(reversed(names)), encoding="utf-8")
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_text("a.mp4 0\n", encoding="utf-8")
    source = ListSource(val=str(tmp_path / "list.txt"), class_names_file=str(tmp_path / "names.txt"))
    assert in_published_order(source, tmp_path / "k400.pyth") is source
    assert in_published_order(source, zoo()["ssv2_mvitv2_s"].path) is source
    published = in_published_order(source, zoo()["k400_mvitv2_s"].path)
    assert list(published.manifest("val").labels) == [399] and published.has("val") and not published.has("train")


def test_an_evaluation_of_published_weights_takes_a_few_class_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their labels are those of the head, and not 0, 1, 2 as they stand there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("mvit_video.build.evaluation.training_state_of", lambda checkpoint: {})
    monkeypatch.setattr("mvit_video.build.evaluation.load_model", lambda config, world: None)
    checkpoint = zoo()["k400_mvitv2_s"].path
    for path in (checkpoint, tmp_path / "few" / "zumba" / "a.mp4", tmp_path / "few" / "air_drumming" / "a.mp4"):
        path.parent.mkdir(parents=True)
        path.touch()
    words = ["+experiment=k400_mvitv2_s", "data/source=folder", f"data.source.val={tmp_path / 'few'}"]
    config: Any = to_object(compose("evaluate", [*words, f"checkpoint={checkpoint}"]))
    trained = load_trained(config, World(rank=0, size=1, device=torch.device("cpu")))
    assert list(trained.split.labels) == [1, 399]
