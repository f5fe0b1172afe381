"""Which image files are read, and the error for one that cannot be."""

from mvit_video.runtime.decode_error import DecodeError

# Pillow knows many more formats, among them such as run other programs (EPS) or that any file may pass for (TGA).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
# The usual ones first.
IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jpe", ".jfif", ".mpo", ".apng", ".avif",
    ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".dib", ".ico",
)  # fmt: skip


class ImageDecodeError(DecodeError):
    """An image file that cannot be read; it has `path` and `reason`."""
