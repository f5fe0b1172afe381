"""Durations, sizes and counts as people write them."""

from mvit_video.runtime.formatting import count_text, duration_text, size_text


def test_numbers_in_words() -> None:
    assert [duration_text(s) for s in (0, 59, 61, 3600, 90061)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h 0 min",
        "25 h 1 min",
    ]
    assert [size_text(s) for s in (999, 1500, 2.5e6, 3e9, 4e12)] == [
        "999 bytes",
        "1.5 kB",
        "2.5 MB",
        "3.0 GB",
        "4.00 TB",
    ]
    assert [count_text(1, "video"), count_text(2, "video"), count_text(0, "class")] == [
        "1 video",
        "2 videos",
        "0 classes",
    ]
