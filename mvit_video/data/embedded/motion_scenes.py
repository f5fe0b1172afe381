"""Scenes of the embedded data set `motion`: a textured sprite that moves, turns or grows before a textured background.

A scene is drawn in two steps, so that its geometry can be tested without a picture: `sample_scene` draws every random
choice into a frozen `Scene`, `render_scene` turns it into frames and uses no randomness. Motion is defined in seconds,
not in frames, and is cyclic with a uniform starting phase: neither the frame rate, nor the first frame, nor any other
single frame says which way time runs. Coordinates are pixels, x to the right and y downwards, angles in radians.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test"]
Kind = Literal["move_right", "move_down", "rotate_cw", "grow"]
FloatArray = NDArray[np.floating]

KINDS: tuple[Kind, ...] = get_args(Kind)
# Pair p holds the classes 2p (as rendered) and 2p + 1 (the same frames in reverse order).
PAIRS: tuple[tuple[str, str], ...] = (
    ("move_right", "move_left"),
    ("move_down", "move_up"),
    ("rotate_cw", "rotate_ccw"),
    ("grow", "shrink"),
)
CLASS_NAMES: tuple[str, ...] = tuple(name for pair in PAIRS for name in pair)

SHORT_SIDE = 80
LONG_SIDES = range(82, 97, 2)  # even, as 4:2:0 chroma asks
FRAME_RATES = (12, 15, 20, 24, 25, 30)
SECONDS = (1.3, 2.2)
CYCLES_PER_SECOND = (0.35, 0.7)
FRAMES_AT_A_TIME = 16
MARGIN = 10  # background beyond the frame, for camera shake


@dataclass(frozen=True)
class Sprite:
    """A two-tone figure; its tones are split across the body axis, which makes turning visible for every outline."""

    shape: str
    base_angle: float
    colors: FloatArray  # (2, 3), RGB in 0..255
    striped: bool
    stripe: float  # stripe width, in radii
    split: float  # where the tones meet, in radii from the centre


@dataclass(frozen=True)
class Distractor:
    """A small sprite that swings about its place: its motion looks the same in both directions of time."""

    sprite: Sprite
    x: float
    y: float
    radius: float
    amplitude: float  # pixels
    rate: float  # swings per second
    phase: float
    direction: float


@dataclass(frozen=True)
class MotionPath:
    """Where the sprite is and how large: `radius` serves moving and turning, `radii` (smallest, largest) growing."""

    center: tuple[float, float]  # x, y
    radius: float
    radii: tuple[float, float]
    rate: float  # cycles per second
    phase: float  # in [0, 1), at the first frame as rendered


@dataclass(frozen=True)
class Scene:
    """Everything `render_scene` needs. `shake` and `wobble` are (T, 2) offsets in pixels, x first."""

    kind: Kind
    height: int
    width: int
    fps: int
    frames: int
    texture: str
    background: FloatArray  # (3, H + 2 * MARGIN, W + 2 * MARGIN)
    sprite: Sprite
    distractors: tuple[Distractor, ...]
    path: MotionPath
    shake: FloatArray
    wobble: FloatArray


@dataclass(frozen=True)
class Poses:
    """Sprite centre, radius and angle in every frame, each (T,), before camera shake."""

    x: FloatArray
    y: FloatArray
    radius: FloatArray
    angle: FloatArray

    def seen(self, part: slice, shake: FloatArray) -> "Poses":
        """The poses of some of the frames, as a camera displaced by `shake` (T, 2) shows them."""
        return Poses(self.x[part] - shake[:, 0], self.y[part] - shake[:, 1], self.radius[part], self.angle[part])


# --- outlines: angle -> radius of the figure in that direction, at most 1 ---


def _fraction(value: FloatArray) -> FloatArray:
    return value - np.floor(value)  # as value % 1, in a third of the time


def _polygon(angle: FloatArray, corners: int) -> FloatArray:
    sector = 2 * math.pi / corners
    return math.cos(sector / 2) / np.cos(sector * _fraction(angle / sector) - sector / 2)


def _star(angle: FloatArray, points: int, waist: float) -> FloatArray:
    sector = 2 * math.pi / points
    return waist + (1 - waist) * np.abs(2 * _fraction(angle / sector) - 1)


Outline = Callable[[FloatArray], FloatArray]
OUTLINES: dict[Split, dict[str, Outline]] = {
    "train": {
        "disc": np.ones_like,
        "square": lambda a: _polygon(a, 4),
        "triangle": lambda a: _polygon(a, 3),
        "star5": lambda a: _star(a, 5, 0.45),
        "bar": lambda a: np.minimum(1, 0.5 / np.maximum(np.abs(np.sin(a)), 0.1)),
    },
    "test": {
        "hexagon": lambda a: _polygon(a, 6),
        "ellipse": lambda a: 0.55 / np.sqrt(1 - 0.7 * np.cos(a) ** 2),
        "star4": lambda a: _star(a, 4, 0.4),
        "limacon": lambda a: 0.62 + 0.38 * np.cos(a),
        "trefoil": lambda a: 0.75 + 0.25 * np.cos(3 * a),
    },
}
_OUTLINE_BY_NAME = {name: outline for family in OUTLINES.values() for name, outline in family.items()}


# --- textures: (rng, height, width) -> blend weight of the second background colour, (H, W), about 0..1 ---


def _upsample(grid: FloatArray, height: int, width: int) -> FloatArray:
    """Bilinear interpolation of a small (h, w, C) grid to (height, width, C)."""
    y = np.linspace(0, grid.shape[0] - 1.001, height)
    x = np.linspace(0, grid.shape[1] - 1.001, width)
    row, column = y.astype(int), x.astype(int)
    down, right = (y - row)[:, None, None], (x - column)[None, :, None]
    rows = grid[row] * (1 - down) + grid[row + 1] * down
    return rows[:, column] * (1 - right) + rows[:, column + 1] * right


def _smooth_noise(rng: np.random.Generator, cells: int, height: int, width: int) -> FloatArray:
    return _upsample(rng.random((cells + 1, cells + 1, 1)), height, width)[..., 0]


def _value_noise(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    octaves = [weight * _smooth_noise(rng, cells, height, width) for cells, weight in ((4, 0.5), (9, 0.3), (20, 0.2))]
    total = octaves[0] + octaves[1] + octaves[2]
    return (total - total.min()) / (np.ptp(total) + 1e-6)


def _stripes(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    y, x = np.mgrid[0:height, 0:width]
    direction, period, offset = rng.uniform(0, math.pi), rng.uniform(7, 22), rng.uniform(0, 6)
    along = x * math.cos(direction) + y * math.sin(direction)
    return 0.5 + 0.5 * np.sin(along * 2 * math.pi / period + offset)


def _checker(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    y, x = np.mgrid[0:height, 0:width]
    side, right, down = rng.uniform(8, 20), rng.random(), rng.random()
    tiles = (np.floor(x / side + right) + np.floor(y / side + down)) % 2
    return 0.8 * tiles + 0.2 * _smooth_noise(rng, 5, height, width)


def _voronoi(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)[..., None]
    cells = int(rng.integers(12, 30))
    seed_y, seed_x, weight = rng.uniform(0, height, cells), rng.uniform(0, width, cells), rng.random(cells)
    distance = (y - seed_y.astype(np.float32)) ** 2 + (x - seed_x.astype(np.float32)) ** 2
    return weight[distance.argmin(axis=-1)]


def _plasma(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    y, x = np.mgrid[0:height, 0:width]
    waves = zip(rng.uniform(-0.4, 0.4, 4), rng.uniform(-0.4, 0.4, 4), rng.uniform(0, 6, 4))
    total = np.zeros((height, width))
    for right, down, offset in waves:
        total += np.sin(x * right + y * down + offset)
    return total / 8 + 0.5


def _dots(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    y, x = np.mgrid[0:height, 0:width]
    side = rng.uniform(8, 18)
    dots = (x % side - side / 2) ** 2 + (y % side - side / 2) ** 2 < (0.32 * side) ** 2
    return 0.8 * dots + 0.2 * _smooth_noise(rng, 4, height, width)


Texture = Callable[[np.random.Generator, int, int], FloatArray]
TEXTURES: dict[Split, dict[str, Texture]] = {
    "train": {"value_noise": _value_noise, "stripes": _stripes, "checker": _checker},
    "test": {"voronoi": _voronoi, "plasma": _plasma, "dots": _dots},
}


# --- drawing the random choices of a scene ---


def _sample_size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width: a third square, the rest with one longer side, more often the width."""
    if rng.random() < 0.34:
        return SHORT_SIDE, SHORT_SIDE
    wide = rng.random() < 0.6
    long_side = int(rng.choice(LONG_SIDES))
    return (SHORT_SIDE, long_side) if wide else (long_side, SHORT_SIDE)


def sample_background(rng: np.random.Generator, split: Split, height: int, width: int) -> tuple[str, FloatArray]:
    """Name of the texture and a (3, height, width) picture in 0..255: two colours, slow colour noise, pixel noise."""
    base = rng.uniform(60, 190, 3)
    other = np.clip(base + rng.uniform(-45, 45, 3), 0, 255)
    name = list(TEXTURES[split])[int(rng.integers(len(TEXTURES[split])))]
    blend = TEXTURES[split][name](rng, height, width)
    picture = base + (other - base) * blend[..., None] + _upsample(rng.normal(0, 10, (7, 7, 3)), height, width)
    picture += rng.normal(0, 5, picture.shape)
    return name, np.ascontiguousarray(np.clip(picture, 0, 255).transpose(2, 0, 1), dtype=np.float32)


def _sample_sprite(rng: np.random.Generator, split: Split, background: FloatArray) -> Sprite:
    """A sprite whose two tones differ from each other and from the mean (3,) of the background."""
    shape = list(OUTLINES[split])[int(rng.integers(len(OUTLINES[split])))]
    base_angle = rng.uniform(0, 2 * math.pi)
    while True:
        colors = rng.uniform(20, 235, (2, 3))
        to_background = np.abs(colors - background).sum(axis=1).min()
        if np.abs(colors[0] - colors[1]).sum() > 200 and to_background > 110:
            break
    return Sprite(
        shape=shape,
        base_angle=base_angle,
        colors=colors.astype(np.float32),
        striped=bool(rng.integers(3) == 1),
        stripe=rng.uniform(0.35, 0.6),
        split=rng.uniform(-0.2, 0.2),
    )


def _sample_distractor(
    rng: np.random.Generator, split: Split, background: FloatArray, height: int, width: int, difficulty: float
) -> Distractor:
    return Distractor(
        sprite=_sample_sprite(rng, split, background),
        x=rng.uniform(0.05, 0.95) * width,
        y=rng.uniform(0.05, 0.95) * height,
        radius=rng.uniform(0.05, 0.09) * SHORT_SIDE,
        amplitude=rng.uniform(0, 1.5) * difficulty,
        phase=rng.uniform(0, 2 * math.pi),
        rate=rng.uniform(0.5, 1.5),
        direction=rng.uniform(0, 2 * math.pi),
    )


def _sample_path(rng: np.random.Generator, height: int, width: int) -> MotionPath:
    rate, phase = rng.uniform(*CYCLES_PER_SECOND), rng.random()
    radius = rng.uniform(0.19, 0.28) * SHORT_SIDE
    x = width / 2 + rng.uniform(-0.12, 0.12) * SHORT_SIDE
    y = height / 2 + rng.uniform(-0.12, 0.12) * SHORT_SIDE
    radii = rng.uniform(0.11, 0.15) * SHORT_SIDE, rng.uniform(0.38, 0.48) * SHORT_SIDE
    return MotionPath(center=(x, y), radius=radius, radii=radii, rate=rate, phase=phase)


def _sample_jitter(rng: np.random.Generator, frames: int, fps: int, *, tau: float, amplitude: float) -> FloatArray:
    """Smooth zero-mean noise (frames, 2) that turns every `tau` seconds, whatever the frame rate."""
    knots = max(3, int(frames / fps / tau) + 2)
    values = rng.normal(0, 1, (knots + 1, 2))
    time = np.minimum(np.arange(frames) / fps / tau, knots - 1e-3)
    knot = time.astype(int)
    blend = (time - knot)[:, None]
    blend = blend * blend * (3 - 2 * blend)
    noise = values[knot] * (1 - blend) + values[knot + 1] * blend
    return (noise - noise.mean(axis=0)) * amplitude


def sample_scene(rng: np.random.Generator, *, kind: Kind, split: Split, difficulty: float = 1.0) -> Scene:
    """Draw a scene of one kind of motion, with the shapes and textures of one split.

    `difficulty` scales what disturbs the motion: camera shake, wobble of the sprite, swing of the distractors.
    """
    height, width = _sample_size(rng)
    fps = int(rng.choice(FRAME_RATES))
    frames = round(rng.uniform(*SECONDS) * fps)
    texture, background = sample_background(rng, split, height + 2 * MARGIN, width + 2 * MARGIN)
    mean_color = background.mean(axis=(1, 2))
    sprite = _sample_sprite(rng, split, mean_color)
    shake = _sample_jitter(rng, frames, fps, tau=0.2, amplitude=rng.uniform(0.15, 0.6) * difficulty)
    wobble = _sample_jitter(rng, frames, fps, tau=0.3, amplitude=rng.uniform(0, 0.6) * difficulty)
    distractors = tuple(
        _sample_distractor(rng, split, mean_color, height, width, difficulty) for _ in range(int(rng.integers(1, 3)))
    )
    return Scene(
        kind=kind,
        height=height,
        width=width,
        fps=fps,
        frames=frames,
        texture=texture,
        background=background,
        sprite=sprite,
        distractors=distractors,
        path=_sample_path(rng, height, width),
        # One pixel is kept for interpolation: the camera never looks beyond the painted margin.
        shake=np.clip(shake, 1.01 - MARGIN, MARGIN - 1.01),
        wobble=wobble,
    )


# --- geometry ---


def phases(scene: Scene) -> FloatArray:
    """Phase of the motion in every frame as rendered, (T,), growing; its whole part counts the cycles."""
    return scene.path.phase + scene.path.rate * np.arange(scene.frames) / scene.fps


def sprite_poses(scene: Scene) -> Poses:
    """Where the sprite is in every frame as rendered (the forward class), with its wobble, without camera shake.

    Moving crosses the frame from wholly outside to wholly outside and starts again; turning makes one turn a cycle;
    growing runs from the smallest to the largest radius at a constant relative rate.
    """
    path, phase = scene.path, phases(scene)
    part = phase % 1
    x: FloatArray = path.center[0] + scene.wobble[:, 0]
    y: FloatArray = path.center[1] + scene.wobble[:, 1]
    radius: FloatArray = np.full(scene.frames, path.radius)
    angle: FloatArray = np.zeros(scene.frames)
    if scene.kind == "move_right":
        x = part * (scene.width + 2 * path.radius) - path.radius
    elif scene.kind == "move_down":
        y = part * (scene.height + 2 * path.radius) - path.radius
    elif scene.kind == "rotate_cw":
        radius = 1.4 * radius
        angle = 2 * math.pi * phase  # y points down, so a growing angle turns clockwise on the screen
    else:
        smallest, largest = path.radii
        radius = smallest * (largest / smallest) ** part
    return Poses(x=x, y=y, radius=radius, angle=angle)


def distractor_poses(scene: Scene, item: Distractor) -> Poses:
    """Where a distractor is in every frame, without camera shake."""
    swing = item.amplitude * np.sin(2 * math.pi * item.rate * np.arange(scene.frames) / scene.fps + item.phase)
    return Poses(
        x=item.x + swing * math.cos(item.direction),
        y=item.y + swing * math.sin(item.direction),
        radius=np.full(scene.frames, item.radius),
        angle=np.zeros(scene.frames),
    )


# --- pixels; colour planes come before height and width, which numpy handles several times faster than after ---


def paint_sprite(frames: FloatArray, sprite: Sprite, poses: Poses) -> None:
    """Paint a sprite onto a few consecutive frames (T, 3, H, W), in place, its edges smoothed over one pixel."""
    reach = int(poses.radius.max()) + 3
    left, top = np.floor(poses.x).astype(int) - reach, np.floor(poses.y).astype(int) - reach
    steps = np.arange(2 * reach + 1)
    across = ((left - poses.x)[:, None] + steps)[:, None, :].astype(np.float32)
    down = ((top - poses.y)[:, None] + steps)[:, :, None].astype(np.float32)
    radius, turn = poses.radius.astype(np.float32)[:, None, None], poses.angle + sprite.base_angle
    cos, sin = (f(turn).astype(np.float32)[:, None, None] / radius for f in (np.cos, np.sin))
    u, v = cos * across + sin * down, cos * down - sin * across  # body axes, in radii

    edge = _OUTLINE_BY_NAME[sprite.shape](np.arctan2(v, u)) - np.sqrt(u * u + v * v)
    cover = np.clip(edge * radius + 0.5, 0, 1)[:, None]
    tone = np.clip((u - sprite.split) * radius + 0.5, 0, 1)[:, None]
    first, second = sprite.colors[:, :, None, None]
    color = second + (first - second) * tone
    if sprite.striped:
        color *= 1 - 0.5 * _fraction(0.5 * np.floor(v / sprite.stripe))[:, None]  # every other stripe at 3/4
    for index, (x, y) in enumerate(zip(left.tolist(), top.tolist())):
        # A corner beyond the frame is cut from the sprite's box; wholly outside leaves an empty patch.
        patch = frames[index, :, max(y, 0) : max(y + len(steps), 0), max(x, 0) : max(x + len(steps), 0)]
        height, width = patch.shape[1:]
        inside = (index, slice(None), slice(max(-y, 0), max(-y, 0) + height), slice(max(-x, 0), max(-x, 0) + width))
        patch += (color[inside] - patch) * cover[inside]


def _crop_background(background: FloatArray, height: int, width: int, x: float, y: float) -> FloatArray:
    """The (3, height, width) window of the background whose corner is at (x, y), bilinear between pixels."""
    left, top = int(x), int(y)
    right, down = x - left, y - top
    window = background[:, top : top + height + 1, left : left + width + 1]
    rows = window[:, :-1] * (1 - down) + window[:, 1:] * down
    return rows[:, :, :-1] * (1 - right) + rows[:, :, 1:] * right


def render_scene(scene: Scene) -> NDArray[np.uint8]:
    """Frames of a scene, uint8 (T, H, W, 3) RGB, in the order of the forward class."""
    # Plain floats: a float64 scalar would turn the float32 pictures into float64.
    corners = (MARGIN + scene.shake).tolist()
    painted = [(item.sprite, distractor_poses(scene, item)) for item in scene.distractors]
    painted.append((scene.sprite, sprite_poses(scene)))
    video = np.empty((scene.frames, scene.height, scene.width, 3), np.uint8)
    # Few frames at a time: fewer numpy calls than one by one, and they stay in the cache.
    for start in range(0, scene.frames, FRAMES_AT_A_TIME):
        part = slice(start, start + FRAMES_AT_A_TIME)
        crops = [_crop_background(scene.background, scene.height, scene.width, x, y) for x, y in corners[part]]
        frames = np.stack(crops)
        for sprite, poses in painted:
            paint_sprite(frames, sprite, poses.seen(part, scene.shake[part]))
        # All that is blended lies in 0..255, so the sum does too.
        video[part] = frames.astype(np.uint8).transpose(0, 2, 3, 1)
    return video
