"""The published recipes take optimisation steps of the full models on real clips, laid out as the data sets are."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import pytest

from mvit_video import build
from mvit_video.engine.tracking import read_metrics
from tests.conftest import options
from tests.paths import SHARED_CLIPS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED_CLIPS.is_dir(), reason="the real clips are not beside this checkout"),
]
CLIPS = {
    "playing basketball": "basketball_test_video_structuralize.mp4",
    "applying eye makeup": "ucf101_apply_eye_makeup_test.avi",
}
FAST = [
    "trainer.device=cpu",
    "trainer.precision=auto",
    "trainer.num_workers=0",
    "trainer.threads=1",
    "trainer.log_every=1",
    # The whole model on a tenth of the positions: on some processors the full clip takes minutes.
    "data.num_frames=8",
    "data.crop_size=96",
]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]


def test_kinetics(tmp_path: Path) -> None:
    rows = ["label,youtube_id,time_start,time_end,split"]
    for number, (label, name) in enumerate(CLIPS.items()):
        folder = tmp_path / "videos" / label.replace(" ", "_")
        folder.mkdir(parents=True)
        shutil.copy(SHARED_CLIPS / name, folder / f"video{number:06d}_000003_000013{Path(name).suffix}")
        rows.append(f"{label},video{number:06d},3,13,train")
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    config = options(
        "+experiment=k400_mvitv2_s",
        f"data.source.train={tmp_path / 'train.csv'}",
        f"data.source.train_root={tmp_path / 'videos'}",
        "data.num_classes=2",
        "trainer.batch_size=2",
        "trainer.max_steps=1",
        f"output_dir={tmp_path / 'runs'}",
        *FAST,
    )
    build.train(config)
    (value,) = losses(tmp_path / "runs/k400_mvitv2_s")
    assert 0.5 < value < 3


def test_ssv2(tmp_path: Path) -> None:
    """webm files at 12 frames per second, templates with placeholders, labels as strings of numbers."""
    (tmp_path / "videos").mkdir()
    entries = []
    for number, name in enumerate(["k400_arm_wrestling_demo.mp4", "kinetics_flipping_a_pancake.mkv"]):
        _to_webm(SHARED_CLIPS / name, tmp_path / "videos" / f"{number + 1}.webm")
        template = ("Pushing [something] from left to right", "Turning [something] upside down")[number]
        entries.append({"id": str(number + 1), "label": "x", "template": template, "placeholders": ["a cup"]})
    (tmp_path / "train.json").write_text(json.dumps(entries))
    labels = {"Pushing something from left to right": "0", "Turning something upside down": "1"}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    config = options(
        "+experiment=ssv2_mvitv2_s",
        f"data.source.train={tmp_path / 'train.json'}",
        f"data.source.labels={tmp_path / 'labels.json'}",
        f"data.source.root={tmp_path / 'videos'}",
        "data.num_classes=2",
        "trainer.batch_size=2",
        "trainer.max_steps=1",
        f"output_dir={tmp_path / 'runs'}",
        *FAST,
    )
    build.train(config)
    assert len(losses(tmp_path / "runs/ssv2_mvitv2_s")) == 1


def _to_webm(source: Path, target: Path, *, frames: int = 48) -> None:
    with av.open(str(source)) as clip, av.open(str(target), "w") as out:
        stream = out.add_stream("libvpx-vp9", rate=12, options={"cpu-used": "8", "deadline": "realtime"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number, frame in enumerate(clip.decode(video=0)):
            if number == frames:
                break
            picture = frame.reformat(320, 240, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 12)
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
