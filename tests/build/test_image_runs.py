"""Images through the same trainer, loader, checkpoints and commands as videos."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from mvit_video import build
from mvit_video.build.common import build_source
from mvit_video.build.image_classification import ImageClassification
from mvit_video.build.plan import print_plan
from mvit_video.build.preview import preview
from mvit_video.build.stored_options import stored_groups
from mvit_video.distributed.process_group import World
from mvit_video.engine.checkpoints import load_latest
from tests import image_library, interpreters
from tests.build.image_options import SHORT, small_images
from tests.conftest import TWO_BLOCKS, drawn_pictures, evaluate_options, options
from tests.images.files import png_header
from tests.paths import ROOT

WORLD = World(rank=0, size=1, device=torch.device("cpu"))
TRAIN, VAL = image_library.images(4), image_library.images(2, first=100)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature ImageNet: train and val, a folder per wnid."""
    folder = tmp_path_factory.mktemp("imagenet")
    image_library.write_folders(folder / "train", TRAIN)
    image_library.write_folders(folder / "val", VAL)
    return folder


def sources(folder: Path, imagenet: Path) -> dict[str, Sequence[str]]:
    """The options of each form of the same set."""
    lists = [image_library.write_list(folder / f"{split}.txt", c) for split, c in (("train", TRAIN), ("val", VAL))]
    shards, parquet = folder / "shards", folder / "parquet"
    for split, content in (("train", TRAIN), ("val", VAL)):
        image_library.write_shards(shards / split, content, prefix=split)
        image_library.write_parquet(parquet / split, content, prefix=split)
    splits = [f"data.source.{split}={{}}/{split}" for split in ("train", "val")]
    return {
        "imagenet": [f"data.source.folder={imagenet}"],
        "image_folder": [split.format(imagenet) for split in splits],
        "image_list": [f"data.source.{path.stem}={path}" for path in lists] + [f"data.source.root={folder}"],
        "image_shards": [split.format(shards) for split in splits],
        "image_parquet": [split.format(parquet) for split in splits],
    }


def test_every_form_of_imagenet_gives_equal_samples_and_trains(imagenet: Path, tmp_path: Path) -> None:
    builder = ImageClassification()
    samples: dict[str, list[torch.Tensor]] = {}
    for name, given in sources(tmp_path, imagenet).items():
        overrides = [*SHORT, "model=mvitv2_shapes", f"data/source={name}", *given, f"output_dir={tmp_path / name}"]
        config = options(*overrides, "data.num_classes=3", "trainer.max_steps=1")
        split = builder.read_split(config, build_source(config.data, WORLD), "train")
        dataset = builder.train_loader(config, split, WORLD).dataset
        made = [dataset[0, 0, index] for index in range(len(split))]
        assert [sample.label for sample in made] == [label for _, label in TRAIN.values()]
        samples[name] = [sample.clips for sample in made]
        if name in ("imagenet", "image_folder"):
            continue  # trained on by other tests, or listed like them
        metrics = build.train(config)
        state = load_latest(tmp_path / name / "tiny/checkpoints")
        assert state is not None
        assert state["step"] == 1
        assert metrics["num_images"] == len(VAL)
    for name, clips in samples.items():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(clips, samples["imagenet"], strict=True)), name


def test_the_published_model_takes_a_step(imagenet: Path, tmp_path: Path) -> None:
    more = (f"data.source.folder={imagenet}", "data.num_classes=3", f"output_dir={tmp_path}", "trainer.max_steps=1")
    more += ("optim.name=sgd", "optim.momentum=0", "optim.nesterov=false")  # or moments of 184 MB are written twice
    metrics = build.train(options(*SHORT, *more, "trainer.batch_size=2", "trainer.checkpoint_async=false"))
    assert 0 <= metrics["top1"] <= 100
    state = load_latest(tmp_path / "tiny/checkpoints")
    assert state is not None
    assert sum(tensor.numel() for tensor in state["model"].values()) > 23e6


@pytest.fixture(scope="module")
def trained(imagenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs on the miniature ImageNet; the folder of the runs."""
    out = tmp_path_factory.mktemp("runs")
    with drawn_pictures():
        build.train(options(*small_images(imagenet, out, "trainer.eval_every=2")))
    return out


def test_the_record_of_a_run_has_the_words_of_images(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "tiny/metrics.jsonl").read_text().splitlines()]
    assert {"images_per_s", "failed_images", "top1"} <= set(rows[0])
    scores = [row for row in rows if row["kind"] == "eval"]
    assert {"top1", "top5", "mean_class_top1", "num_images"} <= set(scores[-1])
    assert (trained / "tiny/curves.png").stat().st_size > 1000
    assert (trained / "tiny/checkpoints/best.pt").is_file()


def test_an_evaluation_takes_the_runs_options_and_others_of_images(
    imagenet: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [f"run={trained / 'tiny'}", "data.crop_ratio=0", f"output={tmp_path}"]
    groups = stored_groups(words)
    assert "data/source=imagenet" in groups
    assert any(word.startswith("data=") for word in groups)
    assert any(word.startswith("augment=") for word in groups)
    assert "task=image_classification" in groups
    assert stored_groups(["+experiment=in1k_mvitv2_t", *words]) == []
    assert stored_groups([f"run='{trained / 'tiny'}'"]) == groups
    assert stored_groups([f"run={trained / 'tiny'},other"]) == groups
    assert stored_groups(["run=null", "checkpoint=weights.pth"]) == []
    arguments = ["evaluate", *words, "task.classes=present"]
    code = f"import sys; sys.argv = {arguments!r}\nfrom mvit_video.evaluate import main\nmain()"
    done = interpreters.run("-c", code, cwd=ROOT, check=True, timeout=120)
    results = json.loads((tmp_path / "results.json").read_text())
    assert "data.crop_ratio: 0.875 -> 0" in done.stderr + done.stdout
    assert (results["crop_ratio"], results["crop_size"], results["num_images"]) == (0, 32, len(VAL))
    assert results["reading"]["orientation"] == "ignore"
    assert "task.classes: all -> present" in done.stderr + done.stdout


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_a_run_that_does_not_exist_is_named_before_an_option_of_images(command: str, tmp_path: Path) -> None:
    done = interpreters.run("-m", f"mvit_video.{command}", "run=none", "data.crop_ratio=0", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("run=none: neither none nor runs/none holds the config.yaml of a run")
    assert "crop_ratio" not in done.stderr


def test_an_audit_of_images_is_refused(trained: Path) -> None:
    done = interpreters.run("-m", "mvit_video.audit", f"run={trained / 'tiny'}", cwd=trained)
    assert done.returncode == 1
    assert "an audit compares labelled videos, and the task ImageClassification reads something else" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_right_labels_and_classes_present(imagenet: Path, trained: Path, tmp_path: Path) -> None:
    labels = tmp_path / "real.json"
    every = list(image_library.NAMES)
    labels.write_text(json.dumps([every, every, every, [], every, every]))
    checkpoint = trained / "tiny/checkpoints/best.pt"
    more = (f"checkpoint={checkpoint}", f"output={tmp_path}", f"data.source.label_sets={labels}")
    build.evaluate(evaluate_options(*small_images(imagenet, trained, *more, "task.classes=present")))
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["top1"], results["num_images"], results["num_left_out"]) == (100.0, 5, 1)
    assert results["several_right_labels"]


def test_results_among_other_classes_are_another_protocol(imagenet: Path, tmp_path: Path) -> None:
    first, second, third = image_library.NAMES
    split = tmp_path / "val"
    image_library.write_folders(split, image_library.images(2, classes=1))
    config: Any = evaluate_options(*small_images(imagenet, tmp_path, f"data.source.test={split}"))
    manifest = ImageClassification().read_split(config, build_source(config.data, WORLD), "test")
    records = []
    for other in (second, third):
        (tmp_path / "names.txt").write_text(f"{first}\n{other}\n")
        task = ImageClassification(classes=str(tmp_path / "names.txt"))
        records.append(task.evaluation(config, manifest, WORLD, frame_order="forward").about())
    assert [record["classes_to_choose_from"] for record in records] == [2, 2]
    assert [record["allowed_classes"] for record in records] == [[first, second], [first, third]]
    assert (
        "allowed_classes"
        not in ImageClassification().evaluation(config, manifest, WORLD, frame_order="forward").about()
    )


def test_what_is_for_videos_is_refused_for_images(imagenet: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has images, and the task is for videos"):
        build.train(options(*small_images(imagenet, tmp_path, "task=video_classification")))
    with pytest.raises(ValueError, match=r"augment=\.\.\. is for videos: give augment=imagenet"):
        build.train(options(*small_images(imagenet, tmp_path, "augment=finetune")))
    for classes, way_out in (("4", "complete it"), ("2", "take out what does not belong to them")):
        with pytest.raises(ValueError, match=rf"has 3 classes: {way_out}, or set data\.num_classes=3"):
            build.train(options(*small_images(imagenet, tmp_path, f"data.num_classes={classes}")))
    more = ("data.source.folder=null", f"data.source.val={imagenet}/val", "data.num_classes=2000")
    alone: Any = evaluate_options(*small_images(imagenet, tmp_path, *more))
    with pytest.raises(
        ValueError, match=r"or data\.source\.class_names_file=\.\.\., which say all classes, or set data\.num_cl"
    ):
        ImageClassification().read_split(alone, build_source(alone.data, WORLD), "val")
    with pytest.raises(ValueError, match=r"model\.num_frames=8: an image has one frame"):
        build.train(options(*small_images(imagenet, tmp_path, "model.num_frames=8")))
    with pytest.raises(ValueError, match="frame_order=reversed: an image has one frame"):
        evaluation: Any = evaluate_options(*small_images(imagenet, tmp_path, "frame_order=reversed"))
        split = ImageClassification().read_split(evaluation, build_source(evaluation.data, WORLD), "val")
        ImageClassification().evaluation(evaluation, split, WORLD, frame_order="reversed")


def test_broken_images_are_replaced_counted_and_budgeted(
    imagenet: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    image_library.write_folders(folder / "train", TRAIN)
    image_library.write_folders(folder / "val", VAL)
    files = sorted((folder / "train").rglob("*.JPEG"))
    files[0].write_bytes(files[0].read_bytes()[:300])
    sorted((folder / "val").rglob("*.JPEG"))[0].write_bytes(b"")
    with caplog.at_level(logging.INFO):
        metrics = build.train(options(*small_images(folder, tmp_path / "few")))
    assert metrics["num_failed"] == 1
    assert "6 images per optimizer step" in caplog.text
    assert "train split: 12 images, 3 classes" in caplog.text
    assert " videos" not in caplog.text
    listed = (tmp_path / "few/tiny/failed_images.0.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in listed] == [str(files[0])]
    for place, content in enumerate((b"", b"text", png_header(50000, 50000), files[5].read_bytes()[:200]), start=1):
        files[place].write_bytes(content)
    with pytest.raises(RuntimeError, match="of the 12 training images could not be decoded"):
        build.train(options(*small_images(folder, tmp_path / "many")))


@pytest.mark.slow
def test_killed_resumed_and_shared_by_two_ranks_it_is_the_same_run(imagenet: Path, tmp_path: Path) -> None:
    script = ("-m", "tests.build.image_ranks", str(imagenet), str(tmp_path))
    done = interpreters.run(*script, cwd=ROOT, check=True, timeout=300)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"]
    assert found["resumed"] == 0.0
    assert found["shared"] < 1e-5
    one, two = found["evaluations"]
    assert one["num_images"] == len(VAL)
    assert one == two


def test_a_preview_shows_images(imagenet: Path, tmp_path: Path) -> None:
    for more in ((), ("per_class=true",)):
        overrides = small_images(imagenet, tmp_path, f"out={tmp_path / 'sheets'}", "clips=6", "videos=3", *more)
        config: Any = options(*overrides, config_name="preview")
        written = preview(config)
        assert [path.name for path in written] == ["train_01.png", "test_01.png", "index.md"]
        page = written[-1].read_text()
        assert "n01440764" in page
        assert "image 0 of the split" in page
        assert "video" not in page.split("## Options")[0]


def test_a_plan_counts_images(imagenet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config: Any = options(*small_images(imagenet, Path("runs"), "machine=cpu"), config_name="plan")
    config.model = {**TWO_BLOCKS, "name": "mvitv2_shapes", "depth": 1, "stage_starts": [], "num_classes": 3}
    print_plan(config)
    printed = capsys.readouterr().out
    assert "12 images" in printed
    assert "GFLOP per image" in printed
    assert "clip" not in printed


def test_what_is_stored_of_images_is_read_by_an_evaluation_composed_for_videos(trained: Path) -> None:
    stored = OmegaConf.load(trained / "tiny/config.yaml")
    assert "num_frames" not in stored.data
    assert "crop_ratio" in stored.data
