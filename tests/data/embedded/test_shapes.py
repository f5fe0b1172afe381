"""The embedded set of shapes: the same files everywhere, whole or written again, learnt from outlines alone."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.sources import ShapesSource
from mvit_video.data.embedded import shapes
from mvit_video.data.embedded.shapes import CLASS_NAMES, OUTLINE_OF, ShapesSpec, generate_shapes, render_shapes

SPEC = ShapesSpec(train_images=12, test_images=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_shapes(tmp_path_factory.mktemp("shapes"), SPEC)


def test_the_files_are_jpeg_in_a_folder_per_class(root: Path) -> None:
    for split, count in (("train", 3), ("test", 1)):
        for name in CLASS_NAMES:
            files = sorted((root / split / name).iterdir())
            assert len(files) == count
            with Image.open(files[0]) as picture:
                assert picture.format == "JPEG"
                assert min(picture.size) == shapes.SHORT_SIDE
    source = ShapesSource(root=str(root), train_images=12, test_images=4)
    source.prepare()
    manifest = source.manifest("train")
    assert (len(manifest), manifest.kind, manifest.class_names) == (12, IMAGES, CLASS_NAMES)
    assert source.has("val")
    assert len(source.manifest("val")) == 4


def test_the_pictures_depend_on_the_spec_alone(root: Path, tmp_path: Path) -> None:
    again = generate_shapes(tmp_path, SPEC)

    def digests(folder: Path) -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.jpg"))]

    assert digests(again) == digests(root)
    assert len(set(digests(root))) == 16
    other = np.random.default_rng([1, 0, 0])
    ours = np.random.default_rng([0, 0, 0])
    assert (
        render_shapes(other, outline="disc", split="train").tobytes()
        != render_shapes(ours, outline="disc", split="train").tobytes()
    )


def test_a_whole_set_is_left_alone_and_a_damaged_one_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_shapes(tmp_path, SPEC)
    damaged = tmp_path / "train" / "disc" / "00001.jpg"
    content = damaged.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "_write_split", lambda *_: pytest.fail("a whole set is written"))
        generate_shapes(tmp_path, SPEC)
    damaged.write_bytes(content[:50])
    (tmp_path / "train" / "disc" / ".00001.jpg.123").write_bytes(b"left by a killed writer")
    generate_shapes(tmp_path, SPEC)
    assert damaged.read_bytes() == content
    assert not list(tmp_path.rglob("*.123"))
    (tmp_path / "shapes.json").write_text("{")
    generate_shapes(tmp_path, SPEC)
    assert json.loads((tmp_path / "shapes.json").read_text())["spec"]["train_images"] == 12


def test_another_set_is_not_taken_for_this_one(root: Path) -> None:
    with pytest.raises(ValueError, match=r"holds another shapes set, with seed 0 \(asked for: 3\)"):
        generate_shapes(root, ShapesSpec(train_images=12, test_images=4, seed=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": 13}, "train_images=13 must be a positive multiple of 4.*use train_images=12"),
        ({"seed": -1}, "seed=-1 must not be negative"),
        ({"quality": 100}, r"quality=100 must lie in 1\.\.95"),
    ],
)
def test_bad_specs_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapesSpec(**changes)


def pictures(name: str, *, seed: int = 0, count: int = 40) -> np.ndarray:
    """Squares of pictures of a class, float64 (N, S, S, 3)."""
    side = shapes.SHORT_SIDE
    rngs = (np.random.default_rng([seed, number]) for number in range(count))
    made = [render_shapes(rng, outline=OUTLINE_OF[name], split="train")[:side, :side] for rng in rngs]
    return np.stack(made).astype(float)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_a_figure_is_bright_on_dark_as_often_as_dark_on_bright(name: str) -> None:
    """What a linear model needs to stay near chance: no pixel is brighter in one class than in another."""
    made = pictures(name, count=80)
    ground = np.median(made.mean(axis=-1), axis=(1, 2))
    assert 25 < (ground > 127.5).sum() < 55
    assert np.abs(made.mean(axis=0) - 127.5).mean() < 20
    contrast = made.mean(axis=-1).max(axis=(1, 2)) - made.mean(axis=-1).min(axis=(1, 2))
    assert contrast.min() > 45


def test_places_sizes_and_angles_say_nothing_on_average() -> None:
    """The classes' mean pictures differ no more than two halves of a class."""
    half, other_half, bars = pictures("disc"), pictures("disc", seed=1), pictures("bar")
    within = np.abs(half.mean(axis=0) - other_half.mean(axis=0)).mean()
    assert np.abs(half.mean(axis=0) - bars.mean(axis=0)).mean() < 1.5 * within


def test_the_textures_of_the_test_set_do_not_occur_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.TEXTURES, "test", {})
    render_shapes(np.random.default_rng(0), outline="disc", split="train")
    with pytest.raises(ValueError, match="high <= 0"):
        render_shapes(np.random.default_rng(0), outline="disc", split="test")
