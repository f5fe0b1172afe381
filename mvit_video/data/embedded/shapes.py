"""The embedded data set `shapes`: four kinds of figures as real JPEG files, one folder per class.

A picture shows one figure at a random place, turned by a random angle, of a random size and colour, on a textured
ground. Half of the pictures show a bright figure on a dark ground, half a dark one on a bright ground, in every class:
on average no pixel is brighter in one class than in another, so a linear model on pixels stays near chance. The
textures of the test set do not occur in training. Outlines and textures are those of `motion`.

    <root>/{train,test}/{bar,disc,...}/00012.jpg
    <root>/shapes.json      the spec and the size of each file; last of all, so its presence means a complete set

    python -m mvit_video.data.embedded.shapes OUT [--train-images 3000 --test-images 600 --seed 0]
"""

import io
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvit_video.data.embedded.motion_scenes import TEXTURES, Poses, Split, Sprite, paint_sprite
from mvit_video.data.embedded.set_on_disk import (
    check_size,
    first_missing,
    image_set_command,
    lacking,
    only_writer,
    write_bytes,
)

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 2  # raised by any change that alters a file
RECORD_NAME, LOCK_NAME = "shapes.json", "shapes.lock"
SPLITS: tuple[Split, ...] = ("train", "test")
# Class name -> outline of motion_scenes.
OUTLINE_OF = {"bar": "bar", "disc": "disc", "star": "star4", "triangle": "triangle"}
CLASS_NAMES = tuple(OUTLINE_OF)
SHORT_SIDE, LONG_SIDE = 36, 40
RADII = (8.0, 13.0)  # of a figure, in pixels
INSIDE = 0.6  # a figure's centre keeps this share of its radius from the edge of the picture
DARK, BRIGHT = (10.0, 105.0), (150.0, 245.0)  # of each colour channel
TEXTURE_CONTRAST = 25.0  # largest difference of the ground's two colours, in each channel


@dataclass(frozen=True)
class ShapesSpec:
    """What determines the set to the last pixel.

    quality: of the JPEG files; larger is larger and better.
    """

    train_images: int = 3000
    test_images: int = 600
    seed: int = 0
    quality: int = 90

    def __post_init__(self) -> None:
        step = len(CLASS_NAMES)
        why = f"for {step} classes with equally many images"
        check_size(self, ("train_images", "test_images"), step=step, why=why)
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality={self.quality} must lie in 1..95; 90 is the default")

    def images(self, split: Split) -> int:
        """Number of images of a split."""
        return self.train_images if split == "train" else self.test_images


def render_shapes(rng: np.random.Generator, *, outline: str, split: Split) -> NDArray[np.uint8]:
    """A picture of a figure, uint8 (H, W, 3): place, size, angle, colours and ground are random.

    Args:
        rng: of all draws.
        outline: of the figure, from motion_scenes.
        split: whose textures the ground has.
    """
    long_side = int(rng.integers(SHORT_SIDE, LONG_SIDE, endpoint=True))
    height, width = (SHORT_SIDE, long_side) if rng.random() < 0.5 else (long_side, SHORT_SIDE)
    figure, ground = (BRIGHT, DARK) if rng.random() < 0.5 else (DARK, BRIGHT)
    picture = _ground(rng, split, height=height, width=width, levels=ground)[None]
    colour = rng.uniform(*figure, 3).astype(np.float32)
    sprite = Sprite(
        shape=outline,
        base_angle=rng.uniform(0, 2 * math.pi),
        colors=np.stack([colour, colour]),
        striped=False,
        stripe=1.0,
        split=0.0,
    )
    size = rng.uniform(*RADII)
    radius, x, y = (
        np.array([value])
        for value in (size, *(rng.uniform(INSIDE * size, side - INSIDE * size) for side in (width, height)))
    )
    paint_sprite(picture, sprite, Poses(x=x, y=y, radius=radius, angle=np.zeros(1)))
    return picture[0].astype(np.uint8).transpose(1, 2, 0)


def _ground(
    rng: np.random.Generator, split: Split, *, height: int, width: int, levels: tuple[float, float]
) -> NDArray[np.floating]:
    """A texture of two similar colours, and noise: float32 (3, H, W) in 0..255, the first colour within `levels`."""
    colour = rng.uniform(*levels, 3)
    difference = rng.uniform(-TEXTURE_CONTRAST, TEXTURE_CONTRAST, 3)
    texture = list(TEXTURES[split].values())[int(rng.integers(len(TEXTURES[split])))]
    picture = colour + difference * texture(rng, height, width)[..., None] + rng.normal(0, 5, (height, width, 3))
    return np.ascontiguousarray(np.clip(picture, 0, 255).transpose(2, 0, 1), dtype=np.float32)


def generate_shapes(root: str | Path, spec: ShapesSpec) -> Path:
    """Write the set under `root`, unless it is there; the pictures depend on `spec` alone. Returns `root`.

    A set that is there is recognised by its record and by the size of every file. One that was interrupted or damaged
    is written again; a second process that asks for the same set waits for the first.

    Raises:
        ValueError: `root` holds a set of another spec or generator version.
    """
    root = Path(root)
    if _lacking(root, spec) is None:
        return root
    root.mkdir(parents=True, exist_ok=True)
    with only_writer(root / LOCK_NAME):
        lacking = _lacking(root, spec)
        if lacking is not None:
            logger.info("writing the shapes to %s: %s", root, lacking)
            # From here to the end the set is incomplete, whatever was there before.
            (root / RECORD_NAME).unlink(missing_ok=True)
            sizes = {path: size for split in SPLITS for path, size in _write_split(root, split, spec)}
            record = {"version": GENERATOR_VERSION, "spec": asdict(spec), "bytes": sizes}
            write_bytes(root / RECORD_NAME, json.dumps(record, indent=0).encode())
            logger.info("%d images, %.1f MB, in %s", len(sizes), sum(sizes.values()) / 1e6, root)
    return root


def _write_split(root: Path, split: Split, spec: ShapesSpec) -> list[tuple[str, int]]:
    """Write the files of a split; (path below the root, bytes) of each."""
    for name in CLASS_NAMES:
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.iterdir():  # of a killed writer, or damaged; the lock says that none is at work
            leftover.unlink()
    written = []
    for number in range(spec.images(split)):
        name = CLASS_NAMES[number % len(CLASS_NAMES)]
        rng = np.random.default_rng([spec.seed, SPLITS.index(split), number])
        buffer = io.BytesIO()
        picture = Image.fromarray(render_shapes(rng, outline=OUTLINE_OF[name], split=split))
        picture.save(buffer, "JPEG", quality=spec.quality)
        path = f"{split}/{name}/{number:05d}.jpg"
        write_bytes(root / path, buffer.getvalue())
        written.append((path, buffer.tell()))
    return written


def _lacking(root: Path, spec: ShapesSpec) -> str | None:
    """What keeps `root` from holding this very set, whole, or None. Raises ValueError if it holds another one."""
    folders = [f"{split}/{name}" for split in SPLITS for name in CLASS_NAMES]
    return lacking(
        root, "shapes", version=GENERATOR_VERSION, spec=spec, missing=lambda found: first_missing(found, root, folders)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: generate the set into a directory."""
    image_set_command("shapes", ShapesSpec, generate_shapes, arguments)


if __name__ == "__main__":
    main()
