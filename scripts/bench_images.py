"""Images per second and core: decoding, by library, and how far each is from Pillow's pixels.

    python scripts/bench_images.py                      # generated pictures
    python scripts/bench_images.py photos/*.jpg --markdown
    python scripts/bench_images.py --loader             # whole loaders beside timm's and torchvision's

One thread; the time is the process's own CPU time, of decoding the best of several rounds, so that other work on the
machine counts little. Every library decodes the same bytes to uint8 RGB. Libraries that are not installed are left out,
by name.
"""

import argparse
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_data_files import texture
from PIL import Image

from mvit_video.images import read_image

Decoder = Callable[[bytes], np.ndarray]
MIN_SIDE = 256


@dataclass(frozen=True)
class Kind:
    """Generated pictures: name, size, options of Pillow's encoder."""

    name: str
    height: int
    width: int
    options: dict[str, object]


KINDS = (
    Kind("500x375, quality 96, 4:4:4", 375, 500, {"quality": 96, "subsampling": 0}),
    Kind("500x375, quality 90, 4:2:0", 375, 500, {"quality": 90}),
    Kind("500x375, progressive", 375, 500, {"quality": 90, "progressive": True}),
    Kind("2000x1500, quality 90, 4:2:0", 1500, 2000, {"quality": 90}),
)


@dataclass(frozen=True)
class Measured:
    """What one library does with some files.

    Attributes:
        per_second: images a second of CPU time.
        error: largest difference from Pillow's pixels; None where the size differs.
    """

    per_second: float
    error: int | None


def generated(kind: Kind, count: int) -> list[bytes]:
    """JPEG files of textures with the detail of photographs."""
    files = []
    for seed in range(count):
        pixels = texture(kind.height, kind.width, np.random.default_rng(seed)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", **kind.options)
        files.append(file.getvalue())
    return files


def pillow(data: bytes) -> np.ndarray:
    """As torchvision's and timm's data sets do, to an array."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def ours(data: bytes) -> np.ndarray:
    return read_image(data, orientation="ignore").numpy()


def ours_scaled(data: bytes) -> np.ndarray:
    return read_image(data, orientation="ignore", min_side=MIN_SIDE).numpy()


def decoders() -> tuple[dict[str, Decoder], list[str]]:
    """The decoders by name, and those that are not installed."""
    found: dict[str, Decoder] = {"Pillow": pillow, "mvit_video": ours, f"mvit_video, min_side={MIN_SIDE}": ours_scaled}
    absent = []
    for name, make in (
        ("torchvision.io", _torchvision),
        ("torchcodec", _torchcodec),
        ("OpenCV", _opencv),
        ("simplejpeg", _simplejpeg),
    ):
        try:
            found[name] = make()
        except (ImportError, AttributeError, RuntimeError, OSError):
            absent.append(name)
    return found, absent


def _torchvision() -> Decoder:
    from torchvision.io import ImageReadMode, decode_jpeg

    return lambda data: (
        decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), ImageReadMode.RGB).permute(1, 2, 0).numpy()
    )


def _torchcodec() -> Decoder:
    from torchcodec.decoders import decode_jpeg

    return lambda data: decode_jpeg(data).permute(1, 2, 0).numpy()


def _opencv() -> Decoder:
    import cv2

    cv2.setNumThreads(1)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def _simplejpeg() -> Decoder:
    import simplejpeg

    return simplejpeg.decode_jpeg


def measure(files: Sequence[bytes], readers: dict[str, Decoder], *, rounds: int) -> dict[str, Measured]:
    """Each library on the same files, in turn, so that all see the machine at the same times."""
    best = dict.fromkeys(readers, float("inf"))
    for _ in range(rounds):
        for name, decode in readers.items():
            start = time.process_time()
            for data in files:
                decode(data)
            best[name] = min(best[name], (time.process_time() - start) / len(files))
    return {name: Measured(1 / best[name], _error(files, decode)) for name, decode in readers.items()}


def _error(files: Sequence[bytes], decode: Decoder) -> int | None:
    largest = 0
    for data in files:
        expected, found = pillow(data), decode(data)
        if expected.shape != found.shape:
            return None
        largest = max(largest, int(np.abs(expected.astype(int) - found.astype(int)).max()))
    return largest


def table(name: str, files: Sequence[bytes], results: dict[str, Measured], *, markdown: bool) -> str:
    """The results of one kind of files."""
    size = sum(map(len, files)) / len(files) / 1000
    rows = [("decoder", "images/s and core", "over Pillow", "largest difference from Pillow")]
    for reader, one in results.items():
        error = "another size" if one.error is None else str(one.error)
        rows.append((reader, f"{one.per_second:.0f}", f"{one.per_second / results['Pillow'].per_second:.2f}", error))
    title = f"{name}, {len(files)} files of {size:.0f} kB"
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([f"{title}:", "", lines[0], "|---|---|---|---|", *lines[1:], ""])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join([title, *("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows), ""])


def loaders(given: argparse.Namespace) -> str:
    """The table of the loaders; they need timm, which decoding does not."""
    import bench_images_loader

    kind = KINDS[1]
    files = [path.read_bytes() for path in given.files] or generated(kind, given.count)
    if len(files) % given.batch:
        raise SystemExit(f"--batch {given.batch} with {len(files)} files: give a batch that divides their number")
    with tempfile.TemporaryDirectory() as folder:
        bench_images_loader.write_folder(files, Path(folder))
        work = bench_images_loader.jobs(Path(folder), batch=given.batch, crop=given.crop)
        results = bench_images_loader.measure(work, images=len(files), rounds=given.rounds)
    title = "the given files" if given.files else kind.name
    return f"{title}, {len(files)} files\n\n{bench_images_loader.table(results, markdown=given.markdown)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="JPEG files to decode instead of generated ones")
    parser.add_argument("--count", type=int, help="generated files of each kind (8; for loaders four batches)")
    parser.add_argument("--rounds", type=int, default=7, help="the best of so many rounds counts")
    parser.add_argument("--markdown", action="store_true", help="print tables for docs/benchmarks.md")
    parser.add_argument("--loader", action="store_true", help="measure loaders (bench_images_loader.py), with timm")
    parser.add_argument("--crop", type=int, help="side of the loaders' views instead of the recipe's 224 pixels")
    parser.add_argument("--batch", type=int, default=16, help="images in a batch of the loaders")
    given = parser.parse_args(arguments)
    if given.count is None:
        given.count = 4 * given.batch if given.loader else 8
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torchvision says at every call that its decoders are deprecated
    if given.loader:
        print(loaders(given))
        return
    readers, absent = decoders()
    if given.files:
        sets = {"the given files": [path.read_bytes() for path in given.files]}
    else:
        sets = {kind.name: generated(kind, given.count) for kind in KINDS}
    for name, files in sets.items():
        print(table(name, files, measure(files, readers, rounds=given.rounds), markdown=given.markdown))
    if absent:
        print(f"not installed: {', '.join(absent)}")


if __name__ == "__main__":
    main()
