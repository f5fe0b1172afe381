"""python -m mvit_video.preview, as a user runs it."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import InstantiationException
from PIL import Image

from mvit_video.build.clip_preview import augment_text, clip_text
from mvit_video.build.common import build_model
from mvit_video.build.preview import preview
from mvit_video.config import Preview, VideoAugment, VideoData
from mvit_video.engine.contact_sheet import Layout
from tests import interpreters
from tests.conftest import TWO_BLOCKS, motion_overrides, options


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return interpreters.run("-m", "mvit_video.preview", *arguments)


def preview_options(*overrides: str) -> Preview:
    result = options(*overrides, config_name="preview")
    assert isinstance(result, Preview)
    return result


def test_sheets_of_the_motion_set(motion_root, tmp_path) -> None:
    arguments = motion_overrides(motion_root, tmp_path, "clips=3", "videos=2", "frames=4", "step=2", "animate=true")
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "tiny" / "preview"
    clips = [f"{kind}_clip_{n:02d}.webp" for kind, count in (("test", 6), ("train", 3)) for n in range(1, count + 1)]
    names = ["index.md", "test_01.png", *clips[:6], "train_01.png", *clips[6:]]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert f"written: 11 pictures and {out}/index.md" in done.stderr
    index = (out / "index.md").read_text(encoding="utf-8")
    assert index.startswith("# What the model sees: tiny\n")
    assert "## tiny: training clips from step 2 on" in index
    assert "## tiny: test views of 2 videos of the test split" in index
    assert "step: 2\n" in index
    layout = Layout(height=144, width=144, columns=4, has_pictures=(True,) * 3, caption_lines=3, about_lines=4)
    sheet = np.asarray(Image.open(out / "train_01.png"))
    assert sheet.shape == (layout.page_height, layout.page_width, 3)
    for row in range(3):
        for column in range(4):
            top, left = layout.cell(row, column)
            picture = sheet[top : top + 144, left : left + 144]
            assert (picture.reshape(48, 3, 48, 3, 3) == picture[::3, ::3][:, None, :, None]).all()
            assert picture.std() > 1
    assert not (tmp_path / "tiny" / "checkpoints").exists()


def test_the_same_command_gives_the_same_sheets(motion_root, tmp_path) -> None:
    overrides = motion_overrides(motion_root, tmp_path, "clips=2", "videos=1", "trainer.num_workers=3")
    config = preview_options(*overrides, f"out={tmp_path}/a")
    first = preview(config)
    assert config.trainer.num_workers == 3 and "num_workers: 3" in first[-1].read_text()
    again = preview(preview_options(*overrides, f"out={tmp_path}/b"))
    for one, other in zip(first[:-1], again[:-1], strict=True):
        assert one.read_bytes() == other.read_bytes()
    later = preview(preview_options(*overrides, f"out={tmp_path}/c", "step=3"))
    assert first[0].name == later[0].name and first[0].read_bytes() != later[0].read_bytes()


def test_one_kind_only(motion_root, tmp_path) -> None:
    overrides = motion_overrides(motion_root, tmp_path)
    written = preview(preview_options(*overrides, "clips=0", "videos=1", "split=train"))
    assert [path.name for path in written] == ["test_01.png", "index.md"]
    assert "test views of 1 video of the train split" in written[-1].read_text()
    written = preview(preview_options(*overrides, "clips=1", "videos=0"))
    assert [path.name for path in written] == ["train_01.png", "index.md"]
    assert not (written[0].parent / "test_01.png").exists()


def test_no_model_is_built(motion_root, tmp_path, monkeypatch) -> None:
    from mvit_video import models

    monkeypatch.setattr(models, "create_model", None)  # what model._target_ names, whoever asks for it
    overrides = motion_overrides(motion_root, tmp_path, "clips=1", "videos=0", "data.num_classes=null")
    assert "train_01.png" in [path.name for path in preview(preview_options(*overrides))]
    with pytest.raises(InstantiationException, match="Expected a callable target"):
        build_model(preview_options(*overrides))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["clips=0"], "no value yet[^$]*data.source.val=..."),
        (["videos=0"], "no value yet[^$]*data.source.train=..."),
        (["data.source.train=x"], "no value yet[^$]*data.source.val=..."),
        (["data.source.train=x", "videos=0", "clips=0"], "clips=0 and videos=0: nothing to show"),
        (["data.source.train=x", "videos=0", "rank=2", "processes=2"], "rank=2: the ranks of processes=2 run from 0"),
        (["data.source.train=x", "videos=0", "step=-1"], "step=-1: must not be negative"),
        (["data.source.train=x", "videos=0", "frames=0"], "frames=0: must be at least 1"),
        (["data.source.train=x", "data.source.val=y", "split=all"], "split=all: must be one of train, val, test"),
    ],
)
def test_impossible_options(more, message) -> None:
    with pytest.raises(ValueError, match=message):
        preview_options("+experiment=finetune_folder", "weights=x", *more)


def test_only_the_splits_that_are_shown_need_a_place() -> None:
    training = preview_options("+experiment=finetune_folder", "weights=x", "data.source.train=x", "videos=0")
    validation = preview_options("+experiment=finetune_folder", "weights=x", "data.source.val=x", "clips=0")
    assert (training.videos, validation.clips) == (0, 0)


def test_errors_are_one_line(tmp_path) -> None:
    done = command("+experiment=finetune_folder", "weights=x", f"data.source.train={tmp_path}/no", "videos=0")
    assert done.returncode == 1
    assert f"{tmp_path}/no: the folder of videos does not exist" in done.stderr and "Traceback" not in done.stderr


def test_more_than_a_split_holds_for_one_step_is_refused(motion_root, tmp_path) -> None:
    overrides = motion_overrides(motion_root, tmp_path, "processes=8", "videos=0")
    with pytest.raises(ValueError, match="has 32 videos, fewer than one step takes: 8 videos x 8 processes"):
        preview(preview_options(*overrides))


def test_the_options_in_words() -> None:
    data = VideoData(num_frames=16, sampling_rate=4, target_fps=30, crop_size=224)
    assert clip_text(data) == "16 frames, one in 4 at 30 frames/s  ·  224 x 224 pixels"
    data.sampling = "segments"
    assert clip_text(data).startswith("16 frames, one of each segment at 30 frames/s")
    augment = VideoAugment(randaugment="rand-m7", erase_prob=0.25, mixup_alpha=0.8, cutmix_alpha=1.0, smoothing=0.1)
    assert augment_text(augment) == (
        "crop of 8 to 100 % of the frame  ·  flip 0.5  ·  rand-m7  ·  erasing 0.25  ·  mixup 0.8, cutmix 1  ·  "
        "smoothing 0.1"
    )
    augment.mix_prob, augment.crop, augment.randaugment = 0, "jitter", None
    assert augment_text(augment) == (
        "crop from a short side of 256 to 320  ·  flip 0.5  ·  no RandAugment  ·  erasing 0.25  ·  "
        "mixup 0, cutmix 0  ·  smoothing 0.1"
    )


def test_default_folder_is_in_the_run() -> None:
    config = preview_options("+experiment=motion_mvitv2", "name=x")
    assert config.out is None and config.run_dir == Path("runs/x")


def test_clips_can_be_shown_unmixed(motion_root, tmp_path) -> None:
    mixed = ["augment.mixup_alpha=0.8", "augment.cutmix_alpha=1", "augment.mix_prob=1", "videos=0", "clips=4"]
    overrides = motion_overrides(motion_root, tmp_path, *mixed)
    assert "mixed with" in preview(preview_options(*overrides))[-1].read_text()
    page = preview(preview_options(*overrides, "mix=false"))[-1].read_text()
    assert "mixed with" not in page and "mixup 0, cutmix 0" in page
    plain = preview(preview_options(*overrides, "augment.mix_prob=0", f"out={tmp_path}/plain"))
    assert plain[0].read_bytes() == (tmp_path / "tiny/preview/train_01.png").read_bytes()


def test_a_picture_of_each_class(motion_root, tmp_path) -> None:
    overrides = motion_overrides(motion_root, tmp_path, "videos=0", "per_class=true", "augment.mix_prob=1")
    written = preview(preview_options(*overrides))
    rows = [line for line in written[-1].read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    assert [re.findall(r"\((\d)\)", row)[0] for row in rows] == [str(label) for label in range(8)]
    assert "a training clip of each class" in written[-1].read_text()
    # Another epoch has another order, and so other videos first.
    later = preview(preview_options(*overrides, "step=4", f"out={tmp_path}/later"))
    assert later[0].read_bytes() != written[0].read_bytes()


def test_a_class_is_shown_by_a_video_that_can_be_read(motion_root, tmp_path, caplog) -> None:
    """All videos of class 1 and all but the last of class 0 are broken."""
    lines = (motion_root / "train.csv").read_text().splitlines()
    of_0 = [number for number, line in enumerate(lines) if line.endswith(" 0")]
    of_1 = [number for number, line in enumerate(lines) if line.endswith(" 1")]
    good = lines[of_0[-1]].rsplit(maxsplit=1)[0]
    for number in (*of_0[:-1], *of_1):
        broken = tmp_path / f"broken_{number}.mp4"
        broken.write_bytes(b"")
        lines[number] = f"{broken} {lines[number].rsplit(maxsplit=1)[1]}"
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    plain = [o for o in motion_overrides(motion_root, tmp_path) if not o.startswith("data.source.")]
    source = [f"data.source.train={tmp_path / 'train.csv'}", f"data.source.root={motion_root}"]
    page = preview(preview_options(*plain, "data/source=list", *source, "videos=0", "per_class=true"))[-1].read_text()
    assert f"`{motion_root / good}`" in page and "Could not be read:" in page
    rows = [line for line in page.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == 7
    assert "no training video to show of class 1" in caplog.text


def test_a_preview_settles_the_batch_size(motion_root, tmp_path) -> None:
    auto = ["trainer.batch_size=auto", "trainer.global_batch=16", "processes=2", "videos=0", "clips=1"]
    config = preview_options(*motion_overrides(motion_root, tmp_path, *auto))
    config.model = {**TWO_BLOCKS, "depth": 1, "stage_starts": []}
    page = preview(config)[-1].read_text()
    assert "batch of 8 x 1 clips" in page
