"""read_image gives the picture that a person sees, or one error that names the file: for every kind of file."""

import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mvit_video.images import IMAGE_EXTENSIONS, ImageDecodeError, decoding, read_image
from mvit_video.images.formats import FORMATS
from mvit_video.runtime.decode_error import DecodeError
from tests.images.files import encoded, png_header, png_of_sixteen_bits, scene, with_orientation


def read(data: bytes, **options: object) -> np.ndarray:
    """The picture of bytes called "a.jpg", without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_image(data, **{"name": "a.jpg", "orientation": "apply", **options}).numpy()  # type: ignore[arg-type]


def test_a_file_and_its_bytes_give_the_same_picture_as_pillow(tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(encoded(scene(), "JPEG", quality=90))
    picture = read_image(path, orientation="ignore")
    assert picture.dtype == torch.uint8 and picture.shape == (48, 64, 3) and picture.is_contiguous()
    assert np.array_equal(picture.numpy(), np.asarray(Image.open(path)))
    assert torch.equal(picture, read_image(path.read_bytes(), orientation="ignore"))
    picture.zero_()  # it belongs to the caller


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 2, "quality": 30}])
def test_every_kind_of_jpeg_equals_pillow(options):
    data = encoded(scene(49, 67), "JPEG", **options)
    assert np.array_equal(read(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels(kind):
    assert np.array_equal(read(encoded(scene(), kind)), np.asarray(scene()))


def test_an_icon_is_an_image():
    icon = scene(32, 32)
    assert np.array_equal(read(encoded(icon, "ICO", sizes=[(32, 32)])), np.asarray(icon))


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "JPEG2000", "AVIF"])
def test_other_formats_show_the_scene(kind):
    shown = read(encoded(scene(), kind)).astype(int)
    assert np.abs(shown - np.asarray(scene()).astype(int)).mean() < 12


def test_the_content_decides_about_the_format_and_not_the_name():
    assert np.array_equal(read(encoded(scene(), "PNG"), name="n02105855_2933.JPEG"), np.asarray(scene()))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_or_ignored(kind, orientation):
    data = with_orientation(scene(), orientation, kind)
    plain = Image.open(io.BytesIO(data)).convert("RGB")
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(read(data, orientation="ignore"), np.asarray(plain))
    assert np.array_equal(read(data, orientation="apply"), np.asarray(upright))


def test_the_orientation_of_a_tiff_is_part_of_its_picture():
    data = with_orientation(scene(), 6, "TIFF")
    turned = np.rot90(np.asarray(scene()), -1)
    assert np.array_equal(read(data, orientation="apply"), turned)
    assert np.array_equal(read(data, orientation="ignore"), turned)


def test_broken_exif_does_not_keep_a_picture_from_being_read():
    data = encoded(scene(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00\x01")
    assert np.array_equal(read(data), np.asarray(Image.open(io.BytesIO(data))))
    data = with_orientation(scene(), 6).replace(b"Exif\x00\x00", b"Exif\x00\x00??", 1)
    assert read(data).shape == (48, 64, 3)


def test_an_orientation_that_is_none_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert read(encoded(scene(), "JPEG", exif=exif)).shape == (48, 64, 3)


def test_grey_and_black_and_white():
    grey = scene().convert("L")
    assert np.array_equal(read(encoded(grey, "PNG")), np.asarray(grey.convert("RGB")))
    assert np.array_equal(read(encoded(grey, "JPEG"))[..., 0], read(encoded(grey, "JPEG"))[..., 2])
    bits = grey.convert("1")
    assert np.array_equal(read(encoded(bits, "PNG")), np.asarray(bits.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(kind):
    ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    shown = read(encoded(Image.fromarray(ramp), kind))
    assert shown.shape == (48, 64, 3)
    assert np.array_equal(shown[..., 1], np.rint(ramp / 257).astype(np.uint8))


def test_sixteen_bits_of_colour_are_scaled():
    colours = np.asarray(scene()).astype(np.uint16) * 257
    assert np.array_equal(read(png_of_sixteen_bits(colours)), np.asarray(scene()))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_32_bits_have_no_agreed_range(mode):
    data = encoded(scene().convert("L").convert(mode), "TIFF")
    message = rf"^a\.jpg: has pixels of 32 bits \(mode {mode}\).*save it with 8 or 16 bits"
    with pytest.raises(ImageDecodeError, match=message):
        read(data)


def test_a_build_of_pillow_without_a_format_reads_the_others(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    decoding.readable_formats.cache_clear()
    assert "AVIF" not in decoding.readable_formats()
    assert read(encoded(scene(), "PNG")).shape == (48, 64, 3)
    with pytest.raises(ImageDecodeError, match=r"in no format that is read \(JPEG, PNG"):
        read(b"nothing at all")
    decoding.readable_formats.cache_clear()


def test_cmyk_is_pillows_conversion():
    data = encoded(scene().convert("CMYK"), "JPEG", quality=95)
    assert np.array_equal(read(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert np.abs(read(data).astype(int) - np.asarray(scene())).mean() < 4


def test_a_palette_gives_its_colours():
    picture = scene().convert("P", palette=Image.Palette.ADAPTIVE)
    for kind in ("PNG", "GIF", "BMP"):
        assert np.array_equal(read(encoded(picture, kind)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_shows_white_and_not_what_is_hidden_there(mode):
    picture = scene().convert("RGBA")
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, 32:] = 0
    alpha[0, 0] = 128
    picture.putalpha(Image.fromarray(alpha))
    data = encoded(picture.convert("LA"), "PNG") if mode == "LA" else encoded(picture, "PNG")
    if mode == "PA":
        data = encoded(picture.quantize(64), "PNG")
    shown = read(data)
    assert (shown[:, 32:] == 255).all()
    assert not (shown[:, :32] == 255).all()
    assert shown[0, 0].max() > shown[0, 1].max() or mode == "PA"  # half of it is white


def test_a_transparent_colour_shows_white():
    pixels = np.asarray(scene()).copy()
    pixels[:, 32:] = (1, 2, 3)
    for data in (
        encoded(Image.fromarray(pixels), "PNG", transparency=(1, 2, 3)),
        encoded(Image.fromarray(np.where(pixels[..., 0] == 1, 7, 9).astype(np.uint8)), "PNG", transparency=7),
    ):
        shown = read(data)
        assert (shown[:, 32:] == 255).all() and not (shown[:, :32] == 255).any(axis=2).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_several_pictures_the_first_is_taken(kind):
    first, second = Image.new("RGB", (32, 24), (200, 30, 30)), Image.new("RGB", (32, 24), (10, 10, 220))
    shown = read(encoded(first, kind, save_all=True, append_images=[second]))
    assert shown.shape == (24, 32, 3)
    assert np.abs(shown.astype(int) - (200, 30, 30)).max() < 25


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
def test_a_truncated_file_is_an_error_that_names_it(kind, part):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(ImageDecodeError, match=r"^a\.jpg: ") as caught:
        read(data[: int(len(data) * part)])
    assert caught.value.path == "a.jpg" and len(caught.value.reason) > 10


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html>", r"in no format that is read .*begins with b'<!DOCTYPE ht'"),
        (b"\xff\xd8\xff", r"in no format|cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "in no format that is read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIF .* save it as JPEG or PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "in no format that is read"),
    ],
)
def test_what_is_no_image_is_an_error(data, reason):
    with pytest.raises(ImageDecodeError, match=rf"^a\.jpg: .*({reason})"):
        read(data)


def test_bytes_in_disorder_never_crash():
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = np.frombuffer(encoded(scene(), kind), np.uint8)
        for _ in range(20):
            data = whole.copy()
            data[rng.integers(0, len(data), 12)] = rng.integers(0, 256, 12)
            try:
                picture = read(data.tobytes(), max_pixels=10**6)
            except ImageDecodeError as error:
                assert error.path == "a.jpg"
            else:
                assert picture.ndim == 3 and picture.shape[2] == 3


def test_a_bomb_is_refused_by_its_header():
    with pytest.raises(ImageDecodeError, match=r"^a\.jpg: its header states 40000x30000 pixels, more than max_pixels="):
        read(png_header(30_000, 40_000))
    data = encoded(scene(), "PNG")
    assert read(data, max_pixels=48 * 64).shape == (48, 64, 3)
    with pytest.raises(ImageDecodeError, match=r"64x48 pixels, more than max_pixels=3071; raise the limit"):
        read(data, max_pixels=48 * 64 - 1)


def test_a_higher_limit_than_pillows_counts(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read(encoded(scene(), "PNG"), max_pixels=10_000).shape == (48, 64, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_place_without_a_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ImageDecodeError, match=r"gone\.jpg: cannot be read: No such file"):
        read_image(tmp_path / "gone.jpg", orientation="apply")
    with pytest.raises(ImageDecodeError, match="cannot be read: Is a directory"):
        read_image(tmp_path, orientation="apply")
    with pytest.raises(ImageDecodeError, match="cannot be read: embedded null"):
        read_image("a\0b", orientation="apply")


def test_the_error_survives_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(ImageDecodeError("a.jpg", "broken")))
    assert isinstance(error, DecodeError) and (error.path, error.reason, str(error)) == (
        "a.jpg",
        "broken",
        "a.jpg: broken",
    )


def test_scaled_decoding_keeps_the_short_side_and_nearly_the_picture():
    smooth = scene(384, 512)
    data = encoded(smooth, "JPEG", quality=95)
    assert read(data, min_side=385).shape == (384, 512, 3)
    assert read(data, min_side=384).shape == (384, 512, 3)
    half = read(data, min_side=192)
    assert half.shape == (192, 256, 3)
    assert read(data, min_side=97).shape == (192, 256, 3)
    assert read(data, min_side=96).shape == (96, 128, 3)
    assert read(data, min_side=1).shape == (48, 64, 3)
    # Nearly the mean over 2x2 pixels; where there are edges inside of a block, it differs.
    boxes = np.asarray(Image.open(io.BytesIO(data)).reduce(2)).astype(int)
    difference = np.abs(half.astype(int) - boxes)
    assert difference.mean() < 1 and np.quantile(difference, 0.95) <= 4 and difference.max() > 10
    # Another format has no scaled decoding.
    assert read(encoded(smooth, "PNG"), min_side=96).shape == (384, 512, 3)


def test_scaled_decoding_is_hardly_seen_in_a_crop_that_is_made_smaller():
    coarse = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    photograph = Image.fromarray(coarse).resize((1280, 960), Image.Resampling.BICUBIC)
    data = encoded(photograph, "JPEG", quality=90)
    whole, half = Image.fromarray(read(data)), Image.fromarray(read(data, min_side=480))
    assert half.size == (640, 480)
    for left, top, side in ((0, 0, 960), (301, 77, 517), (640, 330, 448)):
        view = whole.resize((224, 224), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        box = (left / 2, top / 2, (left + side) / 2, (top + side) / 2)
        other = half.resize((224, 224), Image.Resampling.BICUBIC, box=box)
        difference = np.abs(np.asarray(view).astype(int) - np.asarray(other))
        assert difference.mean() < 1.5 and difference.max() <= 12


def test_scaled_decoding_turns_the_picture_too():
    data = with_orientation(scene(384, 512), 6)
    assert read(data, min_side=96).shape == (128, 96, 3)
    assert read(data, min_side=96, orientation="ignore").shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orientation": "yes"}, "orientation='yes': must be 'apply' or 'ignore'"),
        ({"min_side": 0}, "min_side=0: both must be 1 or more"),
        ({"max_pixels": 0}, "max_pixels=0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        read(b"", **options)


def test_every_extension_belongs_to_a_format_that_is_read():
    Image.init()
    known = {extension for extension, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO", "DIB")}
    assert set(IMAGE_EXTENSIONS) <= known
