from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mvit_video.data.datasets.array_views import FloatArrayView
from mvit_video.data.datasets.fingerprint import fingerprint
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import WHOLE, Segments

PLAIN = Manifest(("/data/cat/a.mp4", "/data/cat/b.mp4", "/data/dog/a.mp4"), (0, 0, 1), ("cat", "dog"), "list.csv")
RICH = replace(
    PLAIN,
    segments=Segments([(0, 1.5), (2, 3), (0, 9)]),
    groups=["one", "one", "two"],
    label_sets=LabelSetArrayView([(0,), (0, 1), (1,)]),
    frame_rate=12.0,
)
BOTH = pytest.mark.parametrize("manifest", [PLAIN, RICH], ids=["plain", "rich"])


def changed(manifest: Manifest, **columns: Any) -> bool:
    return fingerprint(replace(manifest, **columns)) != fingerprint(manifest)


def test_the_fingerprint_of_a_list_of_files_stays() -> None:
    assert fingerprint(PLAIN) == "c21e38591546b2da"


@BOTH
def test_the_folder_and_the_source_do_not_count(manifest: Manifest) -> None:
    moved = [path.replace("/data/", "/mnt/elsewhere/") for path in manifest.paths]
    assert not changed(manifest, paths=moved, source="other.csv", left_out={"hidden": ("._a.mp4",)})


@BOTH
def test_names_labels_and_order_count(manifest: Manifest) -> None:
    assert changed(manifest, class_names=("cat", "wolf"))
    assert changed(manifest, labels=(0, 1, 1))
    assert changed(manifest, paths=["/data/cat/a.mp4", "/data/cat/c.mp4", "/data/dog/a.mp4"])
    assert fingerprint(manifest.subset(np.array([1, 0, 2]))) != fingerprint(manifest)
    assert fingerprint(manifest.subset(np.array([0, 1]))) != fingerprint(manifest)


@BOTH
def test_weights_count_because_epochs_draw_by_them(manifest: Manifest) -> None:
    assert changed(manifest, weights=FloatArrayView([1.0, 2.0, 3.0]))
    weighted = replace(manifest, weights=FloatArrayView([1.0, 2.0, 3.0]))
    assert changed(weighted, weights=FloatArrayView([3.0, 2.0, 1.0]))
    assert not changed(weighted, weights=FloatArrayView([1.0, 2.0, 3.0]))


@BOTH
def test_the_order_of_the_classes_counts(manifest: Manifest) -> None:
    assert fingerprint(manifest.with_classes(("dog", "cat"))) != fingerprint(manifest)
    assert fingerprint(manifest.with_classes(("cat", "dog"))) == fingerprint(manifest)


@pytest.mark.parametrize(
    "columns",
    [
        {"segments": Segments([(0, 1.5), (2, 3.25), (0, 9)])},
        {"segments": Segments([(2, 3), (0, 1.5), (0, 9)])},
        {"groups": ["one", "two", "two"]},
        {"label_sets": LabelSetArrayView([(0,), (0,), (1,)])},
        {"label_sets": LabelSetArrayView([(0, 1), (0,), (1,)])},
        {"frame_rate": 30.0},
    ],
)
def test_segments_groups_label_sets_and_frame_rate_count(columns: dict[str, Any]) -> None:
    name = next(iter(columns))
    assert changed(RICH, **columns)
    assert changed(RICH, **{name: None})
    assert changed(PLAIN, **columns)


def test_segments_that_are_whole_files_are_files() -> None:
    assert not changed(PLAIN, segments=Segments([WHOLE, WHOLE, WHOLE]))
