"""The embedded scenes: exact masks and boxes of what can be seen, and combinations that training never shows."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvit_video.data.detection.scenes_source import ScenesSource
from mvit_video.data.embedded import scenes
from mvit_video.data.embedded.scenes import CLASS_NAMES, HUES, ScenesSpec, annotation, generate_scenes, render_scene

SPEC = ScenesSpec(train_images=6, test_images=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_scenes(tmp_path_factory.mktemp("scenes"), SPEC)


def test_the_masks_in_the_files_are_what_can_be_seen(root: Path) -> None:
    source = ScenesSource(root=str(root), train_images=6, test_images=3)
    source.prepare()
    assert source.has("val")
    manifest = source.manifest("train")
    assert (len(manifest), manifest.class_names, manifest.has_masks) == (6, CLASS_NAMES, True)
    for row in range(6):
        picture, figures = render_scene(np.random.default_rng([0, 0, row]), split="train")
        with Image.open(manifest.paths[row]) as file:
            assert file.format == "JPEG"
            assert np.abs(np.asarray(file).astype(int) - picture).mean() < 6
        found = manifest.instances(row)
        assert found.masks is not None
        masks = found.masks.bitmaps()
        assert (masks == np.stack([figure.mask for figure in figures])).all()
        assert found.labels.tolist() == [figure.label for figure in figures]
        assert masks.sum(0).max() == 1, "what hides a figure is not the figure's"
        for mask, box, area in zip(masks, found.boxes, found.areas):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert area == mask.sum() >= scenes.LEAST_PIXELS


def test_a_figure_in_front_hides_what_is_behind_it() -> None:
    hidden = 0
    for number in range(6):
        _, figures = render_scene(np.random.default_rng([0, 0, number]), split="train")
        boxes = [annotation(figure)["bbox"] for figure in figures]
        hidden += sum(
            not (x + w <= left or left + width <= x or y + h <= top or top + height <= y)
            for place, (x, y, w, h) in enumerate(boxes)
            for left, top, width, height in boxes[:place]
        )
    assert hidden > 3


def test_the_test_set_has_the_combinations_that_training_lacks() -> None:
    def combinations(split: scenes.Split) -> set[tuple[int, int]]:
        drawn = [scenes._combination(np.random.default_rng([7, number]), split) for number in range(150)]
        return set(drawn)

    train, test = combinations("train"), combinations("test")
    assert not train & test
    assert train | test == {(label, hue) for label in range(len(CLASS_NAMES)) for hue in range(HUES)}
    assert {label for label, _ in test} == set(range(len(CLASS_NAMES)))


def test_a_whole_set_is_left_alone_and_a_damaged_one_written_again(tmp_path: Path) -> None:
    spec = ScenesSpec(train_images=1, test_images=1)
    generate_scenes(tmp_path, spec)
    picture, record = tmp_path / "test/00000.jpg", tmp_path / "annotations/test.json"
    content, times = picture.read_bytes(), record.stat().st_mtime_ns
    generate_scenes(tmp_path, spec)
    assert record.stat().st_mtime_ns == times
    picture.write_bytes(b"")
    (tmp_path / "train/left_over.part").touch()
    generate_scenes(tmp_path, spec)
    assert picture.read_bytes() == content
    assert not (tmp_path / "train/left_over.part").exists()
    (tmp_path / "scenes.json").write_text("{")
    generate_scenes(tmp_path, spec)
    assert json.loads((tmp_path / "scenes.json").read_text())["version"] == scenes.GENERATOR_VERSION
    with pytest.raises(ValueError, match=r"another scenes set, with seed 0 \(asked for: 1\)"):
        generate_scenes(tmp_path, ScenesSpec(train_images=1, test_images=1, seed=1))


def test_the_command_refuses_a_set_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scenes.main([str(tmp_path), "--test-images", "0"])
    assert "test_images=0 must be a positive multiple of 1" in capsys.readouterr().err
    scenes.main([str(tmp_path), "--train-images", "1", "--test-images", "1"])
    assert (tmp_path / "scenes.json").exists()
    with pytest.raises(ValueError, match=r"quality=0 must lie in 1\.\.95"):
        ScenesSpec(quality=0)
