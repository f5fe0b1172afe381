import dataclasses
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from mvit_video.data.embedded import motion
from mvit_video.data.embedded.motion import MotionSet, MotionSpec, generate_motion
from mvit_video.data.embedded.motion_scenes import (
    CLASS_NAMES,
    KINDS,
    OUTLINES,
    TEXTURES,
    Kind,
    Scene,
    Split,
    phases,
    render_scene,
    sample_scene,
    sprite_poses,
)
from mvit_video.data.embedded.set_on_disk import only_writer

SMALL = MotionSpec(train_videos=16, test_videos=8)
SMALLEST = MotionSpec(train_videos=8, test_videos=8)


def draw(index: int, *, kind: Kind | None = None, split: Split = "train", difficulty: float = 1.0) -> Scene:
    rng = np.random.default_rng([0, 0, index])
    return sample_scene(rng, kind=kind or KINDS[index % 4], split=split, difficulty=difficulty)


def bare_scene(kind: Kind, *, shape: str = "disc") -> Scene:
    """One sprite, half red and half blue, on plain grey, in the middle of its cycle: nothing else moves."""
    scene = draw(5, kind=kind, difficulty=0.0)
    sprite = dataclasses.replace(
        scene.sprite, shape=shape, striped=False, split=0.0, colors=np.array([[255, 0, 0], [0, 0, 255]], np.float32)
    )
    path = dataclasses.replace(scene.path, phase=0.3, rate=0.4 * scene.fps / scene.frames)  # phases 0.3 to 0.7
    grey = np.full_like(scene.background, 128)
    return dataclasses.replace(scene, sprite=sprite, path=path, background=grey, distractors=())


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def listed(root: Path, split: str) -> list[tuple[str, int]]:
    lines = (root / f"{split}.csv").read_text().splitlines()
    return [(path, int(label)) for path, label in (line.split(" ") for line in lines)]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> MotionSet:
    return generate_motion(tmp_path_factory.mktemp("motion") / "set", SMALL, workers=1, progress=False)


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> MotionSet:
    """For tests that generate one like it."""
    return generate_motion(tmp_path_factory.mktemp("motion") / "set", SMALLEST, workers=1, progress=False)


@pytest.fixture
def copy(smallest: MotionSet, tmp_path: Path) -> Path:
    """A copy of the small set that a test may damage."""
    root = tmp_path / "set"
    for name, content in contents(smallest.root).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


# --- scenes ---


def test_first_scene_is_pinned() -> None:
    scene = draw(0)
    assert (scene.height, scene.width, scene.fps, scene.frames) == (80, 86, 12, 16)
    assert (scene.texture, scene.sprite.shape, len(scene.distractors)) == ("value_noise", "bar", 2)
    assert scene.path.rate == pytest.approx(0.48750626)
    assert scene.path.phase == pytest.approx(0.40606767)
    assert render_scene(scene).mean() == pytest.approx(166.967, abs=0.01)


def test_sizes_rates_and_lengths_vary_within_the_stated_ranges() -> None:
    scenes = [draw(i) for i in range(240)]
    assert {scene.fps for scene in scenes} == {12, 15, 20, 24, 25, 30}
    sizes = Counter((scene.height, scene.width) for scene in scenes)
    assert all(min(size) == 80 and max(size) in {80, *range(82, 97, 2)} for size in sizes)
    assert 0.25 < sizes[80, 80] / 240 < 0.43
    assert any(height > width for height, width in sizes) and any(height < width for height, width in sizes)
    assert all(round(1.3 * scene.fps) <= scene.frames <= round(2.2 * scene.fps) for scene in scenes)
    lengths = [scene.frames for scene in scenes]
    assert min(lengths) < 20 and max(lengths) > 60 and 34 < np.mean(lengths) < 40
    assert all(0.35 <= scene.path.rate <= 0.7 for scene in scenes)


def test_train_and_test_share_no_shape_and_no_texture() -> None:
    assert not set(OUTLINES["train"]) & set(OUTLINES["test"])
    assert not set(TEXTURES["train"]) & set(TEXTURES["test"])
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        scenes = [draw(i, split=split) for i in range(80)]
        shapes = {scene.sprite.shape for scene in scenes}
        assert shapes == set(OUTLINES[split])
        assert {item.sprite.shape for scene in scenes for item in scene.distractors} <= shapes
        assert {scene.texture for scene in scenes} == set(TEXTURES[split])


def test_outlines_stay_within_the_radius() -> None:
    angle = np.linspace(-math.pi, math.pi, 721).astype(np.float32)
    for family in OUTLINES.values():
        for name, outline in family.items():
            radius = outline(angle)
            assert radius.min() > 0, name
            assert radius.max() <= 1.01, name


def test_phase_of_first_frame_is_uniform_in_both_directions() -> None:
    scenes = [draw(i) for i in range(240)]
    first = {"forward": [phases(s)[0] % 1 for s in scenes], "reversed": [phases(s)[-1] % 1 for s in scenes]}
    steps = (np.arange(240) + 0.5) / 240
    for direction, values in first.items():
        # Kolmogorov-Smirnov distance to the uniform distribution; 1.63 / sqrt(n) is its 99 % point.
        assert np.abs(np.sort(values) - steps).max() < 1.63 / math.sqrt(240), direction


def test_difficulty_scales_shake_wobble_and_distractors() -> None:
    still, normal, hard = (draw(2, difficulty=difficulty) for difficulty in (0.0, 1.0, 2.0))
    assert not still.shake.any() and not still.wobble.any() and still.distractors[0].amplitude == 0
    assert np.abs(normal.shake).max() > 0.1 and normal.distractors[0].amplitude > 0
    np.testing.assert_allclose(hard.shake, 2 * normal.shake)
    np.testing.assert_allclose(hard.wobble, 2 * normal.wobble)
    assert hard.distractors[0].amplitude == pytest.approx(2 * normal.distractors[0].amplitude)
    assert hard.path == normal.path


def test_extreme_difficulty_still_renders() -> None:
    scene = draw(1, difficulty=100.0)
    assert np.abs(scene.shake).max() == pytest.approx(8.99)
    assert render_scene(scene).shape == (scene.frames, scene.height, scene.width, 3)


def test_background_stands_still_at_difficulty_zero() -> None:
    scene = draw(4, kind="grow", difficulty=0.0)
    speck = dataclasses.replace(scene.path, center=(-500.0, -500.0))
    frames = render_scene(dataclasses.replace(scene, path=speck))
    assert (frames == frames[0]).all()


# --- directions ---


@pytest.mark.parametrize(("kind", "axis"), [("move_right", "x"), ("move_down", "y")])
def test_moving_geometry(kind: Kind, axis: str) -> None:
    for index in range(12):
        scene = draw(index, kind=kind)
        side = scene.width if axis == "x" else scene.height
        cycle = side + 2 * scene.path.radius
        position = getattr(sprite_poses(scene), axis)
        steps = np.diff(position) % cycle
        np.testing.assert_allclose(steps, cycle * scene.path.rate / scene.fps)
        assert position.min() >= -scene.path.radius and position.max() <= side + scene.path.radius


def test_turning_and_growing_geometry() -> None:
    turning, growing = draw(2, kind="rotate_cw"), draw(3, kind="grow")
    np.testing.assert_allclose(np.diff(sprite_poses(turning).angle), 2 * math.pi * turning.path.rate / turning.fps)
    ratio = np.diff(np.log(sprite_poses(growing).radius))
    smallest, largest = growing.path.radii
    wrapped = ratio % math.log(largest / smallest)
    np.testing.assert_allclose(wrapped, math.log(largest / smallest) * growing.path.rate / growing.fps)


@pytest.mark.parametrize(("kind", "axis"), [("move_right", 2), ("move_down", 1)])
def test_moving_pixels(kind: Kind, axis: int) -> None:
    frames = render_scene(bare_scene(kind)).astype(float)
    weight = np.abs(frames - 128).sum(axis=-1)
    place = np.indices(weight.shape)[axis]
    center = (weight * place).sum(axis=(1, 2)) / weight.sum(axis=(1, 2))
    assert (np.diff(center) > 0.2).all()


def test_turning_pixels_go_clockwise() -> None:
    frames = render_scene(bare_scene("rotate_cw")).astype(float)
    red, blue = np.maximum(frames[..., 0] - 128, 0), np.maximum(frames[..., 2] - 128, 0)
    y, x = np.indices(red.shape[1:])
    right = (red * x).sum(axis=(1, 2)) / red.sum(axis=(1, 2)) - (blue * x).sum(axis=(1, 2)) / blue.sum(axis=(1, 2))
    down = (red * y).sum(axis=(1, 2)) / red.sum(axis=(1, 2)) - (blue * y).sum(axis=(1, 2)) / blue.sum(axis=(1, 2))
    # From x to the right towards y downwards is clockwise on the screen.
    turned = np.diff(np.unwrap(np.arctan2(down, right)))
    assert (turned > 0).all()
    assert turned.sum() == pytest.approx(2 * math.pi * 0.4 * (len(frames) - 1) / len(frames), abs=0.05)


def test_growing_pixels() -> None:
    frames = render_scene(bare_scene("grow")).astype(int)
    area = (np.abs(frames - 128).sum(axis=-1) > 100).sum(axis=(1, 2))
    assert (np.diff(area) > 0).all()


# --- videos ---


def test_layout_lists_and_balance(small: MotionSet) -> None:
    assert small.class_names == CLASS_NAMES
    assert (small.root / "classes.txt").read_text() == (
        "move_right\nmove_left\nmove_down\nmove_up\nrotate_cw\nrotate_ccw\ngrow\nshrink\n"
    )
    assert (small.train_list, small.test_list) == (small.root / "train.csv", small.root / "test.csv")
    train, test = listed(small.root, "train"), listed(small.root, "test")
    assert train[:3] == [
        ("videos/train/00000_forward.mp4", 0),
        ("videos/train/00000_reversed.mp4", 1),
        ("videos/train/00001_forward.mp4", 2),
    ]
    assert Counter(label for _, label in train) == dict.fromkeys(range(8), 2)
    assert Counter(label for _, label in test) == dict.fromkeys(range(8), 1)
    on_disk = {str(path.relative_to(small.root)) for path in small.root.rglob("*.mp4")}
    assert on_disk == {path for path, _ in train + test}


def test_files_are_h264_as_recorded(small: MotionSet) -> None:
    content = json.loads((small.root / "motion.json").read_text())
    assert content["version"] == motion.GENERATOR_VERSION and content["spec"] == dataclasses.asdict(SMALL)
    videos = [dict(zip(content["columns"], row)) for row in content["videos"]]
    assert [(v["path"], v["label"]) for v in videos] == listed(small.root, "train") + listed(small.root, "test")
    for video in videos[::3]:
        with av.open(str(small.root / video["path"])) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
            assert stream.average_rate == video["fps"]
            assert stream.duration is not None and stream.time_base is not None
            assert stream.duration * stream.time_base * video["fps"] == video["frames"]
            frames = list(container.decode(stream))
        assert {frame.pict_type for frame in frames} == {PictureType.I, PictureType.P}
        assert len(frames) == video["frames"]
        assert (frames[0].width, frames[0].height) == (video["width"], video["height"])


def test_videos_of_a_pair_show_the_same_frames_in_opposite_order(small: MotionSet) -> None:
    for scene in range(4):
        forward, backward = (decode(small.root / f"videos/train/{scene:05d}_{d}.mp4") for d in ("forward", "reversed"))
        drawn = render_scene(draw(scene))
        noise = np.abs(forward.astype(int) - backward[::-1]).mean()
        assert noise < 4
        assert np.abs(forward.astype(int) - backward).mean() > 1.5 * noise
        # Chroma at half resolution blurs the edges of saturated colours; hence the mean.
        assert np.abs(forward.astype(int) - drawn).mean() < 5 and np.abs(backward.astype(int) - drawn[::-1]).mean() < 5


def test_encoder_reverses_the_very_same_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[np.ndarray] = []

    def encode(pictures: list[av.VideoFrame], *, fps: int, crf: int) -> bytes:
        given.append(np.stack([picture.to_ndarray() for picture in pictures]))
        return b"video"

    monkeypatch.setattr(motion, "encode_h264", encode)
    (tmp_path / "videos/test").mkdir(parents=True)
    job = motion.SceneJob(root=tmp_path, split="test", scene=3, seed=0, difficulty=1.0, crf=20)
    assert [record.label for record in motion.write_scene(job)] == [6, 7]
    np.testing.assert_array_equal(given[0], given[1][::-1])


def test_same_set_with_any_number_of_workers(smallest: MotionSet, tmp_path: Path) -> None:
    other = generate_motion(tmp_path / "set", SMALLEST, workers=2, progress=False)
    assert contents(other.root) == contents(smallest.root)


def test_seed_and_difficulty_change_the_videos(small: MotionSet, tmp_path: Path) -> None:
    job = motion.SceneJob(root=tmp_path, split="train", scene=0, seed=0, difficulty=0.5, crf=20)
    (tmp_path / "videos/train").mkdir(parents=True)
    written = []
    for change in ({}, {"seed": 1}, {"difficulty": 2.0}, {"crf": 30}):
        motion.write_scene(dataclasses.replace(job, **change))
        written.append((tmp_path / "videos/train/00000_forward.mp4").read_bytes())
    assert written[0] == (small.root / "videos/train/00000_forward.mp4").read_bytes()
    assert len(set(written)) == 4


# --- once, and whole ---


def test_second_call_writes_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    monkeypatch.setattr(motion, "_write_videos", lambda *args, **kwargs: pytest.fail("generated again"))
    assert generate_motion(str(copy), SMALLEST, progress=False).root == copy
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def remove_record(root: Path) -> None:
    (root / "motion.json").unlink()


def cut_record(root: Path) -> None:
    (root / "motion.json").write_text('{"version": 1, "spec"')


def truncate_video(root: Path) -> None:
    os.truncate(root / "videos/train/00003_reversed.mp4", 1000)


def remove_video(root: Path) -> None:
    (root / "videos/test/00000_forward.mp4").unlink()


def remove_list(root: Path) -> None:
    (root / "train.csv").unlink()


def interrupt_early(root: Path) -> None:
    """As a writer leaves it that was killed in the first scenes: a half-written file beside, nothing recorded."""
    remove_record(root)
    for path in sorted(root.rglob("*.mp4"))[3:]:
        path.unlink()
    (root / "videos/train/.00001_reversed.mp4.123").write_bytes(b"half")


@pytest.mark.parametrize(
    "damage", [remove_record, cut_record, truncate_video, remove_video, remove_list, interrupt_early]
)
def test_incomplete_set_is_made_whole(damage: Callable[[Path], None], copy: Path, smallest: MotionSet) -> None:
    damage(copy)
    generate_motion(copy, SMALLEST, workers=1, progress=False)
    assert contents(copy) == contents(smallest.root)


def test_damaged_video_is_named(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    truncate_video(copy)
    generate_motion(copy, SMALLEST, workers=1, progress=False)
    assert "videos/train/00003_reversed.mp4" in caplog.text


def test_failure_leaves_no_record(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truncate_video(copy)

    def fail(job: motion.SceneJob) -> list[motion.VideoRecord]:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(motion, "write_scene", fail)
        with pytest.raises(OSError, match="disk full"):
            generate_motion(copy, SMALLEST, workers=1, progress=False)
    assert not (copy / "motion.json").exists()


def test_killed_generation_is_completed(tmp_path: Path) -> None:
    root, spec = tmp_path / "set", MotionSpec(train_videos=40, test_videos=8)
    command = [sys.executable, "-m", "mvit_video.data.embedded.motion", str(root), "--workers", "2"]
    command += ["--train-videos", "40", "--test-videos", "8"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and not list(root.glob("videos/train/*.mp4")):
        time.sleep(0.005)
    process.kill()
    # The workers hold the other end of the pipe: it closes when the last of them has ended.
    process.communicate(timeout=300)
    assert process.returncode == -9
    assert not (root / "motion.json").exists()
    assert 0 < len(list(root.rglob("*.mp4"))) < 48
    generate_motion(root, spec, workers=1, progress=False)
    assert len(listed(root, "train")) == 40 and len(list(root.rglob("*.mp4*"))) == 48
    assert all(len(decode(root / path)) > 15 for path, _ in listed(root, "train")[::7])


def test_second_process_waits_for_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root, made = tmp_path, []
    spec = MotionSpec(train_videos=8, test_videos=8)
    second = threading.Thread(target=lambda: made.append(generate_motion(root, spec, workers=1, progress=False)))
    with only_writer(root / motion.LOCK_NAME):
        second.start()
        while "another process is writing" not in caplog.text and second.is_alive():
            time.sleep(0.005)
        assert second.is_alive() and not (root / "videos").exists()
    second.join()
    assert len(made) == 1 and len(listed(root, "train")) == 8


def test_a_script_without_guard_is_told_so(tmp_path: Path) -> None:
    """Its worker runs it again, and would wait for the lock of the writer, which waits for the worker."""
    script = tmp_path / "script.py"
    script.write_text(
        "from mvit_video.data.embedded.motion import MotionSpec, generate_motion\n"
        f"generate_motion({str(tmp_path / 'set')!r}, MotionSpec(train_videos=16, test_videos=16), workers=2)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dataclasses.replace(SMALL, seed=3), r"seed 0 \(asked for: 3\); give another directory or delete"),
        (
            dataclasses.replace(SMALL, train_videos=8, crf=23),
            r"train_videos 16 \(asked for: 8\), crf 20 \(asked for: 23\)",
        ),
    ],
)
def test_set_of_another_spec_is_refused(small: MotionSet, spec: MotionSpec, message: str) -> None:
    before = contents(small.root)
    with pytest.raises(ValueError, match=message):
        generate_motion(small.root, spec, progress=False)
    assert contents(small.root) == before


def test_set_of_another_generator_version_is_refused(small: MotionSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motion, "GENERATOR_VERSION", 999)
    with pytest.raises(ValueError, match=r"generator version 1 \(asked for: 999\)"):
        generate_motion(small.root, SMALL, progress=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_videos": 100}, "train_videos=100 must be a positive multiple of 8.*use train_videos=96"),
        ({"test_videos": 0}, "test_videos=0 must be a positive multiple of 8.*use test_videos=8"),
        ({"seed": -1}, "seed=-1 must not be negative"),
        ({"difficulty": -0.5}, "difficulty=-0.5 must be a finite number, 0 or more"),
        ({"difficulty": math.nan}, "difficulty=nan must be a finite number"),
        ({"crf": 52}, r"crf=52 must lie in 0\.\.51"),
    ],
)
def test_impossible_specs_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **values)  # type: ignore[arg-type]


def test_impossible_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers=0 must be 1 or more"):
        generate_motion(tmp_path / "set", SMALL, workers=0)
    assert not (tmp_path / "set").exists()


def test_command_line(small: MotionSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--train-videos", "8", "--test-videos", "8", "--seed", "0", "--difficulty", "0.5", "--workers", "1"]
    motion.main([str(tmp_path / "set"), *options])
    name = "videos/train/00003_reversed.mp4"
    assert (tmp_path / "set" / name).read_bytes() == (small.root / name).read_bytes()
    with pytest.raises(SystemExit):
        motion.main([str(tmp_path / "other"), "--train-videos", "9"])
    assert "use train_videos=8" in capsys.readouterr().err
