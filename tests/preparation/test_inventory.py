import pytest

from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments
from mvit_video.preparation.inventory import take_inventory


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("segments of videos", {"segments": Segments([(0.0, 1.0)])}),
        ("several labels a video", {"label_sets": LabelSetArrayView([(0, 1)])}),
        ("folders of pictures", {"frame_rate": 12.0}),
    ],
)
def test_what_an_index_cannot_hold_is_refused(kind: str, columns: dict) -> None:
    manifest = Manifest(("a.mp4",), (0,), ("x", "y"), "t.csv", **columns)
    with pytest.raises(ValueError, match=f"split train: t.csv has {kind}, which an index cannot hold"):
        take_inventory({"train": manifest})


def test_what_an_index_does_not_keep_is_said(caplog: pytest.LogCaptureFixture) -> None:
    take_inventory({"train": Manifest(("a.mp4",), (0,), ("x",), "t.csv", groups=["g"])})
    assert "split train: the index will not hold the groups of t.csv" in caplog.text
