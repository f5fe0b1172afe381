"""The faster decoder is used where its pixels are Pillow's, and nowhere else."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from mvit_video.images import ImageDecodeError, jpeg, read_image
from tests.images.files import encoded, scene, with_orientation


@pytest.fixture
def fresh_choice():
    """The decoder is chosen anew, before and after the test."""
    jpeg._decoder.cache_clear()
    yield
    jpeg._decoder.cache_clear()


def outcome(data: bytes) -> np.ndarray | str:
    """The picture, or why there is none."""
    try:
        return read_image(data, orientation="ignore", max_pixels=10**7).numpy()
    except ImageDecodeError as error:
        return error.reason


def refuse(*arguments: object) -> torch.Tensor:
    """As a torchvision without libjpeg does."""
    raise RuntimeError("not compiled with libjpeg support")


def test_colour_jpegs_go_through_the_operator(monkeypatch, fresh_choice):
    if not hasattr(torch.ops.image, "decode_jpeg"):
        pytest.skip("this torchvision decodes no images any more")
    data = encoded(scene(), "JPEG")
    expected = read_image(data, orientation="ignore")
    turned = with_orientation(scene(), 6)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("Pillow decoded it"))
    assert torch.equal(read_image(data, orientation="ignore"), expected)
    assert read_image(turned, orientation="apply").shape == (64, 48, 3)
    assert read_image(data, orientation="ignore", min_side=40).shape == (48, 64, 3)  # there is nothing to scale


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("MPO", "RGB")], ids=lambda value: value
)
def test_other_files_are_pillows(kind, mode, monkeypatch):
    monkeypatch.setattr(jpeg, "_decoder", lambda: pytest.fail("not asked for this file"))
    options = {"save_all": True, "append_images": [scene()]} if kind == "MPO" else {}
    assert read_image(encoded(scene().convert(mode), kind, **options), orientation="ignore").shape == (48, 64, 3)


@pytest.mark.parametrize("fault", ["missing", "other pixels", "fails"])
def test_without_a_decoder_that_equals_pillow_all_is_pillows(fault, monkeypatch, fresh_choice):
    if fault == "missing":
        monkeypatch.setattr(jpeg, "_operator", lambda: None)
    elif fault == "other pixels":
        monkeypatch.setattr(jpeg, "_operator", lambda: lambda data, *rest: torch.zeros(3, 37, 53, dtype=torch.uint8))
    else:
        monkeypatch.setattr(jpeg, "_operator", lambda: refuse)
    data = encoded(scene(), "JPEG")
    assert np.array_equal(outcome(data), np.asarray(Image.open(io.BytesIO(data))))
    assert jpeg._decoder() is None


def test_damaged_files_have_one_outcome_with_both(monkeypatch, capfd):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (40, 56, 3), np.uint8))
    files = []
    for options in ({}, {"progressive": True}, {"subsampling": 0, "restart_marker_rows": 1}, {"keep_rgb": True}):
        whole = np.frombuffer(encoded(noise, "JPEG", **options), np.uint8)
        files += [whole[:length].tobytes() for length in rng.integers(3, len(whole), 6)]
        for _ in range(10):
            data = whole.copy()
            data[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
            files.append(data.tobytes())
    fast = [outcome(data) for data in files]
    monkeypatch.setattr("mvit_video.images.decoding.decoded_jpeg", lambda picture, data: None)
    slow = [outcome(data) for data in files]
    assert {type(one) for one in slow} == {str, np.ndarray}
    assert all(type(one) is type(other) and np.array_equal(one, other) for one, other in zip(fast, slow))
    capfd.readouterr()  # libjpeg's own remarks


def _with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG file with one more segment, first."""
    return data[:2] + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + data[2:]


def test_a_usual_file_needs_no_header_of_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch.ops.image, "decode_jpeg"):
        pytest.skip("this torchvision decodes no images any more")
    data = encoded(scene(), "JPEG")
    expected = read_image(data, orientation="apply")
    monkeypatch.setattr(Image, "open", lambda *args, **more: pytest.fail("Pillow has opened the file"))
    for more in (data, _with_segment(data, 0xFE, b"a comment"), _with_segment(data, 0xE2, b"ICC_PROFILE\0")):
        assert torch.equal(read_image(more, orientation="apply"), expected)
    assert torch.equal(read_image(_with_segment(data, 0xE1, b"Exif\0\0"), orientation="ignore"), expected)


@pytest.mark.parametrize(
    ("marker", "content", "max_pixels"),
    [
        (0xE1, b"Exif\0\0", 10**6),  # an orientation may be in it
        (0xE2, b"MPF\0", 10**6),
        (0xEE, b"Adobe\0", 10**6),
        (0xC3, b"\x08\0\x10\0\x10\x03", 10**6),  # another kind of frame
        (0xC0, b"\x08\0\x10\0\x10\x03", 10**6),  # a second frame
        (0xC0, b"\x0c\0\x10\0\x10\x03", 10**6),  # 12 bits
        (0xFE, b"", 10),  # too large
    ],
)
def test_what_is_not_usual_is_left_to_pillow(marker: int, content: bytes, max_pixels: int) -> None:
    data = _with_segment(encoded(scene(), "JPEG"), marker, content)
    assert jpeg.plain_jpeg(data, max_pixels=max_pixels, upright=True) is None
    for broken in (b"", data[:2], data[:20], b"\x89PNG" + data):
        assert jpeg.plain_jpeg(broken, max_pixels=max_pixels, upright=True) is None
