"""scripts/run_pages.py: which commands it finds, what their stage holds, how it judges their ends; two of them run."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import run_pages
import torch
from gpu import null_gpu
from pages import execute, small
from pages.commands import Command, commands_of, pages
from pages.reasons import NOT_ON_ONE_NULL_GPU, NOT_ON_THE_NULL_GPU, NOT_RUN, reason
from pages.runs import MADE_BY, NEEDS
from pages.stage import copy_of, flat_validation, write_stage
from pages.weights import published_names, write_weights

from mvit_video import weights as weights_command
from mvit_video.models import from_checkpoint
from mvit_video.models.weights.zoo import zoo
from tests.composing import compose
from tests.paths import ROOT

COMMANDS = [command for page in pages() for command in commands_of(page)]
# What commands make on the stage, and words that only look like places.
MADE = r"(runs|k400/prepared|flowers/prepared|birds_out|birds_for_the_hub|someone|data/(motion|shapes))(/|$)"
MADE_FILES = (
    r"(birds\.(safetensors|onnx|pth)|k400_mvitv2_s\.(pth|pt2|safetensors)|a\.jpg|k400_maskfeat_s_pretrained\.pyth)$"
)
NO_PLACES = r"/dev/|\w+://|(mask|imagenet-1k)/"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The stage of all pages, and the cache of made-up weights beside it."""
    folder = tmp_path_factory.mktemp("pages")
    write_stage(folder / "stage")
    write_weights(folder / "torch", folder / "stage", published_names(COMMANDS))
    before = torch.hub._hub_dir
    torch.hub.set_dir(folder / "torch" / "hub")
    yield folder / "stage"
    torch.hub._hub_dir = before


def test_commands_are_found_as_they_are_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        textwrap.dedent("""\
        Say `python -m mvit_video.runs --best video_top1`, `python -m mvit_video.plan`, or `python -m mvit_video.predict
        garden.mp4`; `python -m mvit_video.evaluate run=NAME` and `python -m mvit_video.train ...` stand for others.

        ```bash
        # a comment
        python -m mvit_video.train \\
            name=birds

        python -m mvit_video.runs  --best video_top1
        ```

        ```python
        import torch

        print(1)
        ```

        ```yaml
        name: birds
        ```
        """)
    )
    found = commands_of(page)
    assert [(one.line, one.title) for one in found] == [
        (1, "python -m mvit_video.runs --best video_top1"),
        (1, "python -m mvit_video.predict garden.mp4"),
        (6, "python -m mvit_video.train name=birds"),
        (13, "python: print(1)"),
    ]
    assert found[2].text == "python -m mvit_video.train \\\n    name=birds"
    assert found[3].text == "import torch\n\nprint(1)\n"


def test_every_page_is_looked_at_and_most_commands_run() -> None:
    assert {page.relative_to(ROOT).parts[0] for page in pages()} >= {"README.md", "docs", "scripts"}
    assert sum(reason(command) is None for command in COMMANDS) > 80


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_every_reason_is_of_a_command(pattern: str) -> None:
    """Of one that no pattern before it matches."""
    assert any(reason(command) == NOT_RUN[pattern] for command in COMMANDS)
    assert any(re.search(pattern, f"{command.page}: {command.title}") for command in COMMANDS)


@pytest.mark.parametrize("pattern", NOT_ON_THE_NULL_GPU | NOT_ON_ONE_NULL_GPU)
def test_what_the_null_gpu_cannot_run_runs_elsewhere(pattern: str) -> None:
    named = [one for one in COMMANDS if re.search(pattern, one.title) and reason(one) is None]
    everywhere = NOT_ON_THE_NULL_GPU.get(pattern)
    assert named and all(reason(one, null_gpus=2) == everywhere for one in named)
    assert all(reason(one, null_gpus=1) == (everywhere or NOT_ON_ONE_NULL_GPU[pattern]) for one in named)


@pytest.mark.parametrize(("arguments", "count"), [(["--null-gpu"], 1), (["--null-gpus", "2"], 2)])
def test_commands_run_in_the_surroundings_of_the_null_gpu(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], count: int
) -> None:
    def seen(chosen: list[Command], folder: Path, *, null_gpus: int) -> Iterator[execute.Outcome]:
        assert os.environ["LD_PRELOAD"] == "null" and os.environ["NULL_GPU_COUNT"] == str(count) == str(null_gpus)
        yield execute.Outcome(chosen[0], "ran")

    for name in ("LD_PRELOAD", "NULL_GPU_COUNT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(null_gpu, "environment", lambda changes: {"LD_PRELOAD": "null", **changes})
    monkeypatch.setattr(run_pages, "outcomes", seen)
    assert run_pages.main([*arguments, "--only", "mvit_video.runs"]) == 0


def test_where_there_is_no_null_gpu_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(changes: dict[str, str]) -> dict[str, str]:
        raise null_gpu.NullGPUError("the null GPU needs gcc")

    monkeypatch.setattr(null_gpu, "environment", missing)
    assert run_pages.main(["--null-gpu", "--only", "mvit_video.runs"]) == 2
    assert capsys.readouterr().err == "the null GPU needs gcc\n"


def test_runs_are_made_for_pages_that_name_them() -> None:
    for page, names in NEEDS.items():
        text = "".join(command.text for command in COMMANDS if command.page == page)
        for name in names:
            assert name in MADE_BY and name.removesuffix("-fold-0") in text
    assert {name for names in NEEDS.values() for name in names} == MADE_BY.keys()


def places(command: Command) -> Iterator[str]:
    """The words of a command, and the values of its options, that look like files and folders."""
    if command.kind == "python":
        yield from re.findall(r'"([\w./]+\.(?:mp4|jpg|pth|pyth|onnx)|birds/\w+)"', command.text)
        return
    for word in shlex.split(command.text.replace("\\\n", " "), comments=True):
        value = word.rpartition("=")[2].strip("'")
        if re.match(r"(mvit_video|examples)\.\w+$", value):
            continue
        if re.fullmatch(r"[\w.{}*/-]+", value) and ("/" in value or re.search(r"\.\D\w{1,4}$", value)):
            yield value


def test_the_stage_has_what_the_commands_name(stage: Path) -> None:
    lacking = set()
    for command in COMMANDS:
        if reason(command) is not None and "launcher=slurm" not in command.text:
            continue
        for place in places(command):
            pattern = re.sub(r"\{0000\.\.1023\}", "1023", place)
            if re.search(rf"^({MADE}|{MADE_FILES}|{NO_PLACES})", place.removeprefix("./")) or "data/source" in place:
                continue
            if not any(stage.glob(pattern)):
                lacking.add(f"{command.page}:{command.line}: {place}")
    assert not lacking
    assert not (stage / "imagenet" / "val").joinpath("n01440764").is_file()


def test_the_two_forms_of_a_validation_split(stage: Path, tmp_path: Path) -> None:
    copy_of(stage, tmp_path / "copy")
    val = tmp_path / "copy" / "imagenet" / "val"
    assert all(entry.is_dir() for entry in val.iterdir())
    flat_validation(tmp_path / "copy", flat=True)
    assert len(list(val.glob("ILSVRC2012_val_*.JPEG"))) == 6
    assert all(entry.is_dir() for entry in (stage / "imagenet" / "val").iterdir())


def test_made_up_weights_are_taken_for_the_published_ones(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = published_names(COMMANDS)
    assert {"k400_mvitv2_s", "in1k_mvitv2_t", "in21k_mvitv2_l", "coco_mask_rcnn_mvitv2_t"} <= set(names)
    assert weights_command.main(["k400_mvitv2_s"]) == 0
    assert f"{stage.parent}/torch/hub/checkpoints/MViTv2_S_16x4_k400_f302660347.pyth (here)" in capsys.readouterr().out
    for name in names:
        model = from_checkpoint(name)
        config = model.config
        if zoo()[name].task != "detection":
            assert config.depth == 4 and config.num_classes in (174, 400, 1000, 19_168)
    (stage / "made").mkdir()
    with pytest.raises(ValueError, match=r"k400_mvitv2_s\.torchvision: the hash of its file is published"):
        write_weights(stage / "made", stage, ["k400_mvitv2_s.torchvision"])


def test_options_are_lowered_once() -> None:
    recipe = ("+experiment=k400_mvitv2_l", "data.source.train=a", "data.source.val=b")
    lowered = small.lower_options(compose("config", recipe))
    assert (lowered.data.crop_size, lowered.data.num_frames, lowered.schedule.epochs) == (64, 40, 2)
    assert lowered.augment.jitter == small.JITTER
    assert small.lower_options(lowered) == lowered


def test_modules_are_changed_when_a_process_of_the_stage_imports_them(tmp_path: Path) -> None:
    code = "from mvit_video.prediction.live_source import live_source as f; print(f('rtsp://camera.example/stream'))"
    variables = execute.environment(tmp_path, hub="http://127.0.0.1:1")
    done = subprocess.run([sys.executable, "-c", code], env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert "name='rtsp://camera.example/stream', target='growing.ts'" in done.stdout, done.stderr


def run(text: str, folder: Path, *, limit_s: float = 60) -> execute.Outcome:
    (folder / "stage").mkdir()
    variables = execute.environment(folder, hub="http://127.0.0.1:1")
    return execute.run(Command("page.md", 1, text), folder / "stage", variables, limit_s=limit_s)


@pytest.mark.parametrize(
    ("text", "ended", "why"),
    [
        ("echo one two", "ran", ""),
        ("echo none; exit 3", "failed", "exit code 3"),
        ("echo 'Traceback (most recent call last):'", "failed", "a traceback"),
    ],
)
def test_how_a_command_ended(text: str, ended: str, why: str, tmp_path: Path) -> None:
    outcome = run(text, tmp_path)
    assert (outcome.ended, outcome.why) == (ended, why) and outcome.output
    assert why in run_pages.line_of(outcome) and "page.md:1" in run_pages.line_of(outcome)


def test_a_command_that_does_not_end(tmp_path: Path) -> None:
    assert run("sleep 100", tmp_path, limit_s=0.1).why == "still running after 0 s"


@pytest.mark.parametrize(
    ("code", "checkpoint", "why"),
    [(75, True, ""), (75, False, "no checkpoint after SIGTERM"), (0, True, "exit code 0 after SIGTERM, not 75")],
)
def test_a_long_training_is_asked_to_stop(code: int, checkpoint: bool, why: str, tmp_path: Path) -> None:
    text = f"""
        trap 'exit {code}' TERM
        mkdir -p runs/long/checkpoints
        {"touch runs/long/checkpoints/step_00000010.pt" if checkpoint else ""}
        echo '{{"event": "steps", "total": 100, "time": 1}}' > runs/long/journal.jsonl
        echo '{{"kind": "train", "step": 10}}' > runs/long/metrics.jsonl
        while true; do sleep 0.05; done
    """
    outcome = run(text, tmp_path)
    assert (outcome.ended, outcome.why) == ("failed" if why else "stopped", why)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("python -m mvit_video.train +experiment=k400_mvitv2_s data.source.train=a", "k400_mvitv2_s"),
        ("python -m mvit_video.train +experiment=finetune_folder \\\n    name=birds weights=a", "birds"),
        ("python -m mvit_video.train --multirun +experiment=finetune_folder name=birds", None),
        ("python -m mvit_video.evaluate run=birds", None),
    ],
)
def test_which_run_a_command_trains(text: str, name: str | None) -> None:
    assert run_pages.trained_run(Command("page.md", 1, text)) == name


def test_a_page_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pages.main(["docs/none.md"]) == 2
    assert "docs/none.md is no page with commands; those are README.md, docs/" in capsys.readouterr().err
    assert run_pages.main(["--list", "--only", "/dev/video0", "docs/predict.md"]) == 0
    assert "[not run: needs a camera" in capsys.readouterr().out
