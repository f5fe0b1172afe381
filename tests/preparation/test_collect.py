import pytest

from mvit_video.data.datasets.columns import LabelSets
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments
from mvit_video.preparation.collect import collect


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("segments of videos", {"segments": Segments([(0.0, 1.0)])}),
        ("several labels a video", {"label_sets": LabelSets([(0, 1)])}),
        ("folders of pictures", {"frame_rate": 12.0}),
    ],
)
def test_what_an_index_cannot_hold_is_refused(kind: str, columns: dict) -> None:
    manifest = Manifest(("a.mp4",), (0,), ("x", "y"), "t.csv", **columns)
    with pytest.raises(
        ValueError, match=f"split train: t.csv has {kind}, which an index cannot hold"
    ):
        collect({"train": manifest})
