"""What all commands share, run in this process with a job that notes its options: help, summary, names of a sweep."""

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mvit_video.cli import fitting, name_suffix, run_command
from mvit_video.config import Train, config_dir

MOTION = "+experiment=motion_mvitv2"
Command = Callable[..., list[Train]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Command]:
    """Runs a command line in an empty folder; the options of every job it starts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MVIT_VIDEO_ALL_OPTIONS", raising=False)
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)

    def run(
        *arguments: str,
        shown: tuple[str, ...] | None = None,
        config_name: str = "config",
        jobs: list[Train] | None = None,
    ) -> list[Train]:
        jobs = [] if jobs is None else jobs
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        run_command(config_name, jobs.append, shown=shown)
        return jobs

    yield run
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Log lines without their time."""
    return re.sub(r"^\d\d:\d\d:\d\d ", "", capsys.readouterr().err, flags=re.MULTILINE)


def test_options_are_a_short_summary(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (options,) = command(MOTION, "model=slow_r50", "optim.lr=2e-3", "name=mine", "optim.no_decay=[]")
    assert options.name == "mine"
    lines = said(capsys).splitlines()
    assert lines[:5] == [
        "I options:",
        "  experiment  motion_mvitv2",
        "  name        runs/mine",
        "  data        motion",
        "  model       slow_r50",
    ]
    assert sorted(lines[6:-1]) == [
        "  model           mvitv2_motion -> slow_r50",
        "  name            motion_mvitv2 -> mine",
        "  optim.lr        0.001 -> 0.002",
        "  optim.no_decay  [rel_pos_h,rel_pos_w,rel_pos_t,cls_token] -> []",
    ]
    assert lines[-1] == "MVIT_VIDEO_ALL_OPTIONS=1 before the command prints every option"


def test_all_options_are_printed_when_asked_for(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVIT_VIDEO_ALL_OPTIONS", "1")
    command(MOTION, shown=("name", "augment"))
    text = said(capsys)
    assert "name: motion_mvitv2" in text
    assert "jitter:" in text
    assert "optim:" not in text


def test_a_sweep_names_its_runs_by_what_is_swept(command: Command) -> None:
    jobs = command("--multirun", MOTION, "optim.lr=1e-3,2e-3", "seed=7")
    assert [job.name for job in jobs] == ["motion_mvitv2-lr-0.001", "motion_mvitv2-lr-0.002"]
    assert [job.optim.lr for job in jobs] == [1e-3, 2e-3]


def test_a_combination_that_fails_takes_no_other_with_it(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    jobs: list[Train] = []
    with pytest.raises(SystemExit) as ended:
        command("--multirun", MOTION, "optim.lr=1e-3,-5,2e-3", jobs=jobs)
    assert ended.value.code == 1
    assert [job.optim.lr for job in jobs] == [1e-3, 2e-3]
    last = said(capsys).splitlines()[-1]
    assert last == "E 1 combination of the sweep failed, as said above (optim.lr=-5); the others had their turn"


@pytest.mark.parametrize("value", ["a", "b"])
def test_long_names_of_a_sweep_fit_a_folder_and_stay_apart(value: str) -> None:
    name = fitting(f"run-{'ä' * 300}{value}")
    assert len(name.encode()) <= 200 and name.startswith("run-ää") and name != fitting(f"run-{'ä' * 300}")
    assert fitting("run-lr-0.1") == "run-lr-0.1"


def test_two_runs_of_a_sweep_never_share_a_folder(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("--multirun", MOTION, "name=a,b", "seed=0,1")
    assert "two combinations of the sweep have the name a: the second would resume" in said(capsys)


@pytest.mark.parametrize(
    ("overrides", "suffix"),
    [
        (["optim.lr=1e-4"], "-lr-0.0001"),
        (["model=x3d_s", "data/source=list"], "-model-x3d_s-source-list"),
        (["optim.name=sgd", "model.name=x"], "-optim.name-sgd-model.name-x"),
        (["model.pool_kernel=[1,3,3]"], "-pool_kernel-1_3_3"),
        (["weights='/x y/a.pt'"], "-weights-x_y_a.pt"),
        (["optim.clip_grad_norm=null"], "-clip_grad_norm-null"),
        (["schedule.end_lr=-1"], "-end_lr--1"),
    ],
)
def test_names_of_a_sweep_can_be_typed(overrides: list[str], suffix: str) -> None:
    """In a shell without quotes, and as a value that Hydra reads back as it is."""
    parser = OverridesParser.create()
    assert name_suffix(parser.parse_overrides(overrides)) == suffix
    assert shlex.quote(f"run{suffix}") == f"run{suffix}"
    assert parser.parse_override(f"name=run{suffix}").value() == f"run{suffix}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+experiment=k400_mvitv2_small"], "experiment=k400_mvitv2_small: unknown; did you mean 'k400_mvitv2_s'? The"),
        (
            [MOTION, "model=x3d"],
            "model=x3d: unknown; did you mean 'x3d_s'? The choices for model are: ",
        ),
        ([MOTION, "data/source=lst"], "data/source=lst: unknown; did you mean 'list'?"),
        (["+experimnt=motion_mvitv2"], "experimnt: unknown option; did you mean the group 'experiment'?"),
        ([MOTION, "optm.lr=1"], "optm: unknown option; did you mean 'optim'?"),
        ([MOTION, "modle=x3d_s"], "modle: unknown option; did you mean 'model'?"),
        ([MOTION, "data/sorce=list"], "data/sorce: unknown; did you mean 'data/source'? The groups are: experiment"),
        (
            ["+experiment=shapes_mvitv2", "data.num_frames=8"],
            "data.num_frames: is an option for videos, and the chosen data is for images: leave it out, or choose a "
            "task=... and a data=... for videos; did you mean 'num_classes'? The options are: ",
        ),
        ([MOTION, "data.foo=1"], "data.foo: unknown option; the options are: source, "),
        (
            [MOTION, "optim.crop_size=96"],
            "optim.crop_size: unknown option; there is model.crop_size and data.crop_size; the options are: ",
        ),
    ],
)
def test_the_nearest_name_is_given(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    assert stop.value.code == 1
    text = said(capsys)
    assert message in text
    assert "_schema" not in text
    if "experimnt" not in arguments[0]:  # a group added with a plus is composed, and refused by the check
        assert text.splitlines()[1:] == ["HYDRA_FULL_ERROR=1 before the command shows where that came from"]


def test_a_run_without_its_key(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    Path("birds").mkdir()
    Path("birds/config.yaml").touch()
    with pytest.raises(SystemExit):
        command("birds")
    assert "; is run=birds, to evaluate this run, or weights=birds, to train from it, meant?" in said(capsys)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("experiment=motion_mvitv2", "experiment=motion_mvitv2: is written with a plus: +experiment=motion_mvitv2"),
        ("optim.lr=fast", "optim.lr=fast: must be a number (above 0); it is: peak learning rate"),
        ("data.num_frames=2.5", "data.num_frames=2.5: must be a whole number (at least 1); it is: frames of a clip"),
        ("optim.betas=3", "optim.betas=3: must be a list of numbers in brackets (two values"),
        ("trainer.deterministic=maybe", "trainer.deterministic=maybe: must be true or false"),
        ("seed=null", "seed=null: must be a whole number"),
        ("data.num_classes=many", "data.num_classes=many: must be a whole number, or null (at least 1)"),
        ("optim=3", "optim=3: optim is a group of options; the choices are: adamw, coco, imagenet, sgd"),
        ("weights", "weights: options are given as key=value, without spaces around the sign"),
        ("name=a=b", "name=a=b: the value holds characters that have a meaning here"),
        ("data.group_pattern=_(x)_", "other kind: \"data.group_pattern='_(x)_'\""),
        ("task.class_weights={ü: 2}", "other kind: \"task.class_weights='{ü: 2}'\""),
        ('task.class_weights={"a": 2}', 'kind: "task.class_weights=\'{\\"a\\": 2}\'"'),
        (
            "task.class_weights={null: 2}",
            "task.class_weights={null: 2}: names such as null, true and 1e5 are text in two",
        ),
        ("+experiment=ssv2_mvitv2_s", "two experiments are given; give one"),
        ("+model=x3d_s", "+model=...: model has a choice already, which model=..., without the plus, replaces"),
        ("+optim.lr=1", "+optim.lr=...: the option is there already; leave the plus out: optim.lr=..."),
        ("~nothing", "~nothing: there is no such option to leave out"),
        ("trainer.batch_size=1,2", "trainer.batch_size=1,2: several values are a sweep, which needs --multirun; a l"),
        ("--nothing", "unrecognized arguments: --nothing"),
    ],
)
def test_what_hydra_refuses_is_said_in_plain_words(
    command: Command, capsys: pytest.CaptureFixture[str], word: str, message: str
) -> None:
    """The message, and nothing of Hydra's own."""
    with pytest.raises(SystemExit):
        command(*([] if word.startswith("experiment=") else [MOTION]), word)
    lines = said(capsys).splitlines()
    assert len(lines) == 2 and message in lines[0]


def test_a_later_combination_of_a_sweep_is_explained_too(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("--multirun", MOTION, "optim.lr=1e-3,fast")
    text = said(capsys)
    assert "optim.lr=fast: must be a number" in text and "Error merging" not in text


def test_hydras_own_words_are_there_for_whoever_wants_them(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(HydraException, match=r"Error merging override optim\.lr=fast"):
        command(MOTION, "optim.lr=fast")


def test_a_mistake_of_the_program_is_shown_as_it_is(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    def job(options: Train) -> None:
        raise KeyError("of the program")

    with pytest.raises(SystemExit):
        command(MOTION)
        run_command("config", job)
    text = said(capsys)
    assert "Traceback" in text and "KeyError: 'of the program'" in text


@pytest.mark.parametrize("name", sorted(path.stem for path in Path(config_dir()).glob("*.yaml")))
def test_help_explains_every_option_and_lists_no_schema(
    command: Command, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert command("--multirun", MOTION, "--help", "optim.lr=0.5", config_name=name) == []
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m mvit_video")
    assert "_schema" not in text
    assert re.search(r"^  augment +coco, [a-z_,\s]*kinetics,\s+motion", text, re.MULTILINE)
    assert re.search(r"^  optim.lr=0.5 +peak learning rate, for reference_batch videos", text, re.MULTILINE)
    assert "\ntrainer: The loop: batch, precision" in text
    assert "  model.num_frames=${data.num_frames}\n" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_key_added_to_nothing_known_is_in_the_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """A user's own model has no schema: its options are listed as they are."""
    command(MOTION, "~model", "+model={_target_:torch.nn.Identity,width:3}", "-h")
    text = capsys.readouterr().out
    assert "model: as its _target_ takes them\n  model.width=3\n" in text


def test_help_into_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m mvit_video.train --help | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() and done.stderr == ""
