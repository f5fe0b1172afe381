from pathlib import Path

import pytest

from mvit_video.video.location import VideoLocation, join_location


@pytest.mark.parametrize(
    ("base", "place", "expected"),
    [
        ("", "a.mp4", "a.mp4"),
        ("", "", ""),
        ("/data", "x/a.mp4", "/data/x/a.mp4"),
        ("/data", "", "/data"),
        ("/data", "/a.mp4", "/a.mp4"),
        ("/data", "s3://bucket/a.mp4", "s3://bucket/a.mp4"),
        ("s3://bucket", "x/a.mp4", "s3://bucket/x/a.mp4"),
        ("s3://bucket/", "a.mp4", "s3://bucket/a.mp4"),
        ("s3://bucket/", "", "s3://bucket/"),
        ("s3://bucket", "/a.mp4", "/a.mp4"),
        ("memory://", "a.mp4", "memory://a.mp4"),
    ],
)
def test_places_start_from_a_folder_or_url(base: str, place: str, expected: str) -> None:
    assert join_location(base, place) == expected


def test_media_of_a_path_is_the_whole_file() -> None:
    location = VideoLocation.of(Path("x") / "a.mp4")
    assert location == VideoLocation(name="x/a.mp4", url="x/a.mp4", start=0, size=None, mtime_ns=None, index=None)
    assert VideoLocation.of(location) is location
    assert not location.remote
    assert VideoLocation.of("s3://bucket/a.mp4").remote
