"""The embedded data set `scenes`: pictures of several figures that hide parts of each other, with boxes and masks.

Each figure has one of five outlines, its class, and one of six hues. Two hues of every class occur in the test set
alone, and the test set has no others: what is found there is a combination of outline and hue that was never trained
on. So are the textures of the ground. A mask is what can be seen of a figure, to the pixel, and the box its extent.

    <root>/{train,test}/00012.jpg
    <root>/annotations/{train,test}.json    COCO's format, masks as run lengths
    <root>/scenes.json      the spec and the size of each file; last of all, so its presence means a complete set

    python -m mvit_video.data.embedded.scenes OUT [--train-images 1200 --test-images 200 --seed 0]
"""

import colorsys
import io
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvit_video.data.embedded.motion_scenes import OUTLINES, TEXTURES, Poses, Split, Sprite, paint_sprite
from mvit_video.data.embedded.set_on_disk import (
    check_size,
    first_missing,
    image_set_command,
    lacking,
    only_writer,
    write_bytes,
)

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 1  # raised by any change that alters a file
RECORD_NAME, LOCK_NAME = "scenes.json", "scenes.lock"
SPLITS: tuple[Split, ...] = ("train", "test")
# Class name -> outline of motion_scenes.
OUTLINE_OF = {"bar": "bar", "disc": "disc", "square": "square", "star": "star5", "triangle": "triangle"}
CLASS_NAMES = tuple(OUTLINE_OF)
HUES = 6
SHORT_SIDE, LONG_SIDE = 96, 120
FIGURES = (2, 5)  # in a picture
RADII = (10.0, 24.0)  # of a figure, in pixels
LEAST_VISIBLE = 0.3  # share of every figure that is not hidden, nor outside of the picture
LEAST_PIXELS = 60
TEXTURE_CONTRAST = 30.0  # largest difference of the ground's two colours, in each channel


@dataclass(frozen=True)
class ScenesSpec:
    """What determines the set to the last pixel.

    quality: of the JPEG files; larger is larger and better.
    """

    train_images: int = 1200
    test_images: int = 200
    seed: int = 0
    quality: int = 92

    def __post_init__(self) -> None:
        check_size(self, ("train_images", "test_images"), step=1, why="of pictures")
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality={self.quality} must lie in 1..95; 92 is the default")

    def images(self, split: Split) -> int:
        """Number of images of a split."""
        return self.train_images if split == "train" else self.test_images


@dataclass(frozen=True)
class Figure:
    """A figure of a scene.

    Attributes:
        label: index in CLASS_NAMES.
        hue: 0 to HUES - 1.
        mask: bool (H, W), what can be seen of it.
    """

    label: int
    hue: int
    mask: NDArray[np.bool_]


def is_for_test(label: int, hue: int) -> bool:
    """Whether figures of this class and hue are kept for the test set."""
    return (label + hue) % 3 == 0


def render_scene(rng: np.random.Generator, *, split: Split) -> tuple[NDArray[np.uint8], list[Figure]]:
    """A picture, uint8 (H, W, 3), and its figures, the hindmost first.

    Args:
        rng: of all draws.
        split: whose textures and combinations it has.
    """
    long_side = int(rng.integers(SHORT_SIDE, LONG_SIDE, endpoint=True))
    height, width = (SHORT_SIDE, long_side) if rng.random() < 0.4 else (long_side, SHORT_SIDE)
    picture = _ground(rng, split, height=height, width=width)[None]
    areas: list[int] = []  # of the figures, with what is hidden
    figures: list[Figure] = []
    wanted = int(rng.integers(*FIGURES, endpoint=True))
    for _ in range(20 * wanted):
        if len(figures) == wanted:
            break
        label, hue = _combination(rng, split)
        sprite, poses = _sprite(rng, label, hue), _place(rng, height, width)
        full = _inside(sprite, poses, height, width)
        masks = [*(figure.mask & ~full for figure in figures), full]
        area = _full_area(sprite, poses)
        if any(_is_too_hidden(mask, size) for mask, size in zip(masks, [*areas, area])):
            continue
        paint_sprite(picture, sprite, poses)
        areas.append(area)
        named = [*((figure.label, figure.hue) for figure in figures), (label, hue)]
        figures = [Figure(*name, mask) for name, mask in zip(named, masks)]
    return picture[0].astype(np.uint8).transpose(1, 2, 0), figures


def _combination(rng: np.random.Generator, split: Split) -> tuple[int, int]:
    label = int(rng.integers(len(CLASS_NAMES)))
    hues = [hue for hue in range(HUES) if is_for_test(label, hue) == (split == "test")]
    return label, hues[int(rng.integers(len(hues)))]


def _sprite(rng: np.random.Generator, label: int, hue: int) -> Sprite:
    """A figure of one colour of the hue, half of it darker, at a random angle."""
    share = (hue + rng.uniform(-0.25, 0.25)) / HUES
    bright = colorsys.hsv_to_rgb(share % 1.0, rng.uniform(0.55, 0.95), rng.uniform(0.7, 1.0))
    colour = 255 * np.array(bright, np.float32)
    return Sprite(
        shape=OUTLINE_OF[CLASS_NAMES[label]],
        base_angle=rng.uniform(0, 2 * math.pi),
        colors=np.stack([colour, colour * np.float32(rng.uniform(0.75, 1.0))]),
        striped=False,
        stripe=1.0,
        split=rng.uniform(-0.2, 0.2),
    )


def _place(rng: np.random.Generator, height: int, width: int) -> Poses:
    size = math.exp(rng.uniform(math.log(RADII[0]), math.log(RADII[1])))
    radius, x, y = (
        np.array([value]) for value in (size, *(rng.uniform(0.4 * size, side - 0.4 * size) for side in (width, height)))
    )
    return Poses(x=x, y=y, radius=radius, angle=np.zeros(1))


def _inside(sprite: Sprite, poses: Poses, height: int, width: int) -> NDArray[np.bool_]:
    """bool (height, width): the pixels of which a figure covers at least half, as `paint_sprite` does."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    across, down = x - np.float32(poses.x[0]), y - np.float32(poses.y[0])
    cos, sin = math.cos(sprite.base_angle), math.sin(sprite.base_angle)
    u, v = cos * across + sin * down, cos * down - sin * across
    outline = next(outlines[sprite.shape] for outlines in OUTLINES.values() if sprite.shape in outlines)
    inside: NDArray[np.bool_] = np.hypot(u, v) <= poses.radius[0] * outline(np.arctan2(v, u))
    return inside


def _full_area(sprite: Sprite, poses: Poses) -> int:
    """Pixels of a figure that nothing hides, also outside of the picture."""
    side = 2 * int(poses.radius[0]) + 4
    centred = Poses(x=poses.x % 1 + side // 2, y=poses.y % 1 + side // 2, radius=poses.radius, angle=poses.angle)
    return int(_inside(sprite, centred, side + 2, side + 2).sum())


def _is_too_hidden(mask: NDArray[np.bool_], area: int) -> bool:
    visible = int(mask.sum())
    return visible < LEAST_PIXELS or visible < LEAST_VISIBLE * area


def _ground(rng: np.random.Generator, split: Split, *, height: int, width: int) -> NDArray[np.floating]:
    """A texture of two similar greyish colours, and noise: float32 (3, H, W) in 0..255."""
    colour = rng.uniform(40, 215) + rng.uniform(-20, 20, 3)
    difference = rng.uniform(-TEXTURE_CONTRAST, TEXTURE_CONTRAST, 3)
    texture = list(TEXTURES[split].values())[int(rng.integers(len(TEXTURES[split])))]
    picture = colour + difference * texture(rng, height, width)[..., None] + rng.normal(0, 5, (height, width, 3))
    return np.ascontiguousarray(np.clip(picture, 0, 255).transpose(2, 0, 1), dtype=np.float32)


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths of a mask (H, W): column by column, the first run outside of the mask."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def annotation(figure: Figure) -> dict[str, Any]:
    """The class, box, mask and area of a figure in COCO's format."""
    rows, columns = np.flatnonzero(figure.mask.any(axis=1)), np.flatnonzero(figure.mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "category_id": figure.label + 1,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(figure.mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(figure.mask.shape), "counts": run_lengths(figure.mask)},
    }


def generate_scenes(root: str | Path, spec: ScenesSpec) -> Path:
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
            logger.info("writing the scenes to %s: %s", root, lacking)
            # From here to the end the set is incomplete, whatever was there before.
            (root / RECORD_NAME).unlink(missing_ok=True)
            sizes = {path: size for split in SPLITS for path, size in _write_split(root, split, spec)}
            record = {"version": GENERATOR_VERSION, "spec": asdict(spec), "bytes": sizes}
            write_bytes(root / RECORD_NAME, json.dumps(record, indent=0).encode())
            logger.info("%d files, %.1f MB, in %s", len(sizes), sum(sizes.values()) / 1e6, root)
    return root


def _write_split(root: Path, split: Split, spec: ScenesSpec) -> list[tuple[str, int]]:
    """Write the files of a split; (path below the root, bytes) of each."""
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for leftover in (root / split).iterdir():  # of a killed writer, or damaged; the lock says that none is at work
        leftover.unlink()
    written: list[tuple[str, int]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(spec.images(split)):
        picture, figures = render_scene(np.random.default_rng([spec.seed, SPLITS.index(split), number]), split=split)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=spec.quality, subsampling=0)
        name = f"{number:05d}.jpg"
        write_bytes(root / split / name, buffer.getvalue())
        written.append((f"{split}/{name}", buffer.tell()))
        height, width = picture.shape[:2]
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
        annotations += [
            {"id": len(annotations) + 1 + place, "image_id": number + 1, **annotation(figure)}
            for place, figure in enumerate(figures)
        ]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASS_NAMES)]
    content = json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode()
    write_bytes(root / "annotations" / f"{split}.json", content)
    return [*written, (f"annotations/{split}.json", len(content))]


def _lacking(root: Path, spec: ScenesSpec) -> str | None:
    """What keeps `root` from holding this very set, whole, or None. Raises ValueError if it holds another one."""
    folders = (*SPLITS, "annotations")
    return lacking(
        root, "scenes", version=GENERATOR_VERSION, spec=spec, missing=lambda found: first_missing(found, root, folders)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: generate the set into a directory."""
    image_set_command("scenes", ScenesSpec, generate_scenes, arguments)


if __name__ == "__main__":
    main()
