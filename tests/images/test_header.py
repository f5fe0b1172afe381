"""Sizes of image files by their headers."""

import pytest
from PIL import Image

from mvit_video.images.decoding import read_image
from mvit_video.images.formats import ImageDecodeError
from mvit_video.images.header import image_size


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", ["apply", "ignore"])
@pytest.mark.parametrize("turn", [1, 3, 6])
def test_the_size_is_that_of_the_decoded_picture(tmp_path, kind, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert image_size(path, orientation=orientation) == read_image(path, orientation=orientation).shape[:2]


def test_a_file_without_a_header_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"nothing")
    with pytest.raises(ImageDecodeError, match=r"a\.jpg.* has no readable header"):
        image_size(path, orientation="apply")
