"""Contact sheets: every picture where the layout says, pixel for pixel; captions legible and never cut off."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvit_video.data.augmentation.transforms import normalize_clips
from mvit_video.engine import contact_sheet
from mvit_video.engine.contact_sheet import (
    ABOUT,
    DETAILS,
    HEADING,
    MARK,
    TITLE,
    Layout,
    Row,
    Sheet,
    boxed_letters,
    columns_that_fit,
    denormalize_clips,
    enlargement,
    fit,
    frame_durations,
    printable,
    save_animation,
    save_picture,
    shorten,
    spread,
    text_length,
)


def pictures(rng: np.random.Generator, count: int = 3, height: int = 20, width: int = 30) -> np.ndarray:
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def ink(page: np.ndarray, top: int, left: int, height: int, width: int) -> int:
    """Dark pixels of a region: letters."""
    return int((page[top : top + height, left : left + width].max(axis=2) < 180).sum())


@pytest.mark.parametrize("enlarge", [1, 3])
def test_every_picture_is_where_the_layout_says(enlarge: int) -> None:
    rng = np.random.default_rng(0)
    clips = [pictures(rng), pictures(rng)]
    rows = [
        Row(("a", "file", "facts"), clips[0], ["0", "5", "9"]),
        Row(("b", "file", "facts"), None, problem="it is broken"),
        Row(("c", "file", "facts"), clips[1], ["0", "5", "9"]),
    ]
    sheet = Sheet("heading", rows, columns=3, about=("one", "two"), notes=("note",), enlarge=enlarge)
    page, layout = np.asarray(sheet.draw()), sheet.layout()
    assert page.shape == (layout.page_height, layout.page_width, 3)
    for row, clip in ((0, clips[0]), (2, clips[1])):
        for column in range(3):
            top, left = layout.cell(row, column)
            shown = page[top : top + 20 * enlarge, left : left + 30 * enlarge]
            for down in range(enlarge):
                for across in range(enlarge):
                    np.testing.assert_array_equal(shown[down::enlarge, across::enlarge], clip[column])


def test_places_by_hand() -> None:
    layout = Layout(height=100, width=200, columns=5, has_pictures=(True, False, True), caption_lines=3, about_lines=2)
    head = 24 + HEADING.line + 2 * ABOUT.line + 26
    caption = TITLE.line + 2 * DETAILS.line + 6
    assert layout.cell(0, 0) == (head + caption, 24)
    assert layout.cell(0, 4) == (head + caption, 24 + 4 * 206)
    second = head + caption + 100 + MARK.line + 26
    assert layout.row_top(1) == second
    assert layout.row_top(2) == second + caption + 92 + 26
    assert layout.page_width == 24 + 5 * 206 - 6 + 24
    assert layout.page_height == layout.row_top(3) + 24
    assert Layout(height=9, width=9, columns=1, has_pictures=()).page_width == 900  # room for captions


def test_captions_marks_notes_and_reasons_are_written() -> None:
    clip = np.full((2, 120, 120, 3), 255, np.uint8)
    rows = [Row(("title", "file", "facts"), clip, ["7", "8"]), Row(("t", "f", "x"), None, problem="no such file")]
    sheet = Sheet("heading", rows, columns=2, about=("about",), notes=("a note",))
    page, layout = np.asarray(sheet.draw()), sheet.layout()
    assert ink(page, 24, 24, HEADING.line, 300) > 100
    assert ink(page, 24 + HEADING.line, 24, ABOUT.line, 300) > 50
    top = layout.row_top(0)
    for line in range(3):
        assert ink(page, top + (TITLE.line + (line - 1) * DETAILS.line if line else 0), 24, DETAILS.line, 300) > 50
    for column in range(2):
        below, left = layout.cell(0, column)
        assert ink(page, below + 120, left, MARK.line, 20) > 5
    box, left = layout.cell(1, 0)
    assert ink(page, box, left, 92, 400) > 200
    assert ink(page, layout.row_top(2), 24, ABOUT.line, 300) > 50
    blank = Sheet("", [Row((), None)], columns=1).draw()
    assert ink(np.asarray(blank), 0, 0, 60, 900) == 0


def test_no_line_leaves_the_page() -> None:
    rows = [Row(("Ж" * 400, "/data/" + "folder/" * 90 + "clip.mp4", "x" * 400), np.zeros((1, 8, 8, 3), np.uint8))]
    page = np.asarray(Sheet("W" * 300, rows, columns=1, about=("é" * 300,)).draw())
    assert page.shape[1] == 900
    assert ink(page, 0, 0, page.shape[0], 22) == 0 and ink(page, 0, 880, page.shape[0], 20) == 0


def test_shortened_in_the_middle() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghij", 7) == "abc…hij"
    assert shorten("abcdefghij", 6) == "abc…ij"
    assert shorten("abcdefghij", 2) == "ab"
    assert all(len(shorten("abcdefghij", limit)) == limit for limit in range(11))
    assert fit("abcdefghij", 7, len) == "abc…hij"
    assert fit("abcdefghij", 10, len) == "abcdefghij"
    assert fit("abc", 0, len) == ""
    path = fit("/data/kinetics/train/abseiling/xyz.mp4", 200, lambda text: text_length(text, DETAILS))
    assert text_length(path, DETAILS) <= 200 and path.startswith("/data") and path.endswith("xyz.mp4")


def test_letters_without_a_font_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert boxed_letters(["größer, à la crêpière", "баскетбол", "καλά"]) == ""
    assert boxed_letters(["x\ue000 \U00010fff"]) == ""  # not printable, so replaced before they are drawn
    usual = contact_sheet._font_file("é", False)
    assert usual.endswith("DejaVuSans.ttf")
    has_it = "/fonts/other.ttf"
    monkeypatch.setattr(contact_sheet, "_letters", lambda file: frozenset({0x6253} if file == has_it else {0x41}))
    contact_sheet._font_file.cache_clear()
    try:
        assert boxed_letters(["打A"]) == "打"
    finally:
        contact_sheet._font_file.cache_clear()


def test_another_font_steps_in_for_letters_that_the_usual_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager

    class Entry:
        fname = "/fonts/other.ttf"

    class LastResort:
        fname = "/fonts/LastResortHE-Regular.ttf"

    real = contact_sheet._letters
    extra = {Entry.fname: frozenset({0x6253}), LastResort.fname: frozenset(range(0x6000, 0x7000))}
    monkeypatch.setattr(contact_sheet, "_letters", lambda file: extra[file] if file in extra else real(file))
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [LastResort, Entry])
    contact_sheet._font_file.cache_clear()
    try:
        assert contact_sheet._font_file("打", False) == Entry.fname
        assert boxed_letters(["打球"]) == "球"
    finally:
        contact_sheet._font_file.cache_clear()


def test_what_cannot_be_printed_is_replaced() -> None:
    assert printable("a\nb\x00c") == "a\ufffdb\ufffdc"
    assert printable("name\udcff.mp4") == "name\ufffd.mp4"  # a byte of a file name that is not UTF-8
    assert printable("größer 打篮球") == "größer 打篮球"


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("statistics", [([0.45] * 3, [0.225] * 3), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
def test_normalisation_is_undone_to_the_level(order, statistics) -> None:
    mean, std = statistics
    levels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 2, 16, 8, 3)  # every level in every channel
    clips = torch.cat([levels, levels.flip(0, 1)])
    shown = denormalize_clips(
        normalize_clips(clips, mean=mean, std=std, channel_order=order), mean=mean, std=std, channel_order=order
    )
    np.testing.assert_array_equal(shown, clips.numpy())


def test_values_beyond_the_grey_levels_are_cut_off() -> None:
    clips = torch.tensor([-100.0, 0.0, 100.0]).view(1, 3, 1, 1, 1)
    shown = denormalize_clips(clips, mean=[0.5] * 3, std=[0.25] * 3)
    assert shown.tolist() == [[[[[0, 128, 255]]]]]


def test_spread() -> None:
    assert spread(16, 4) == [0, 5, 10, 15]
    assert spread(16, 1) == [8]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(8, 8) == list(range(8))
    assert spread(300_000, 2) == [0, 299_999]


def test_sizes_of_pictures() -> None:
    assert [enlargement(side) for side in (224, 112, 96, 48, 8)] == [1, 1, 2, 3, 14]
    assert [columns_that_fit(width) for width in (224, 312, 144, 5000)] == [8, 5, 12, 1]


def test_pace_of_animations() -> None:
    assert frame_durations([0, 3, 6], 30.0) == [100, 100, 100]
    assert frame_durations([10, 14, 18, 23], 25.0) == [160, 160, 200, 200]
    assert frame_durations([4], 25.0) == [40]
    assert frame_durations([5, 5, 0], 25.0) == [20, 20, 20]  # a repeated last frame; never backwards in time
    assert frame_durations([0, 1000], 1.0) == [2000, 2000]


def test_files_are_written_whole(tmp_path: Path) -> None:
    clip = pictures(np.random.default_rng(1), count=4, height=64, width=48)
    save_picture(Image.fromarray(clip[0]), tmp_path / "a.png")
    save_animation(clip, tmp_path / "a.webp", milliseconds=[100, 100, 50, 50])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.webp"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), clip[0])
    with Image.open(tmp_path / "a.webp") as moving:
        assert (moving.n_frames, moving.size) == (4, (48, 64))
