"""What a user sees when a configuration is wrong: the key, the rule and the way out, before anything is read."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import get_object

from mvit_video import config
from mvit_video.config import registry
from mvit_video.interop import baselines
from tests import interpreters
from tests.conftest import options

MOTION = "+experiment=motion_mvitv2"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.batch_size=0", "trainer.batch_size=0: must be at least 1"),
        ("optim.lr=0", "optim.lr=0.0: must be greater than 0"),
        ("augment.flip=1.5", "augment.flip=1.5: is a probability or a share, from 0 to 1"),
        ("model.drop_path=1", "model.drop_path=1.0: must be at least 0 and below 1"),
        ("optim.weight_decay=-1", "optim.weight_decay=-1.0: must not be negative"),
        ("optim.name=lion", "optim.name=lion: must be one of adamw, sgd"),
        ("data.test_spatial_views=2", "data.test_spatial_views=2: must be one of 1, 3"),
        ("trainer.precision=fp16", "trainer.precision=fp16: must be one of auto, fp32, bf16"),
        ("schedule.warmup_epochs=99", "schedule.warmup_epochs=99.0: must be less than schedule.epochs=12.0"),
        ("data.test_short_side=40", "data.test_short_side=40: must hold a crop of data.crop_size=48"),
        ("augment.jitter=[60,49]", "augment.jitter=.60, 49.: needs two values above 0, the lesser first"),
        ("augment.jitter=[40,60]", "augment.jitter=.40, 60.: no short side may be under data.crop_size=48"),
        ("data.std=[0,1,1]", "data.std=.0.0, 1.0, 1.0.: needs three values, for R, G and B above 0"),
        ("data.layout=yuv", "data.layout=yuv: must be one of rgb, yuv420"),
        ("augment.device=gpu", "augment.device=gpu: must be one of worker, model"),
        ("data.worker_timeout_s=-1", "data.worker_timeout_s=-1.0: must not be negative"),
        ("data.video_time_limit_s=0", "data.video_time_limit_s=0.0: must be greater than 0"),
        ("data.prefetch=0", "data.prefetch=0: must be at least 1"),
        ("optim.layer_decay=0", "optim.layer_decay=0.0: must be above 0 and at most 1"),
        ("optim.layer_decay=0.75", "optim.layer_decay=0.75: is for starting from weights; give weights=PATH"),
        ("data.holdout=1", "data.holdout=1.0: must be above 0 and below 1"),
        ("data.folds=1", "data.folds=1: must be at least 2"),
        ("data.folds=5", "data.fold=null: with data.folds=5 it runs from 0 to 4"),
        ("data.fold=0", "data.fold=0: needs the number of folds; give data.folds=5, or leave data.fold out"),
        ("data.group_pattern=x", "data.group_pattern=x: has no effect without data.holdout or data.folds"),
        ("+model.droppath=0.1", "model.droppath: unknown option; did you mean 'drop_path'. The options are: name"),
    ],
)
def test_impossible_values(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(MOTION, override)


def test_layout_and_backend_must_go_together() -> None:
    with pytest.raises(ValueError, match=r"data\.layout=yuv420: needs data\.backend=pyav, decord makes RGB alone"):
        options(MOTION, "data.layout=yuv420", "data.backend=decord")


def test_a_validation_split_is_cut_off_in_one_way() -> None:
    with pytest.raises(ValueError, match=r"data\.holdout=0\.2: not together with data\.folds=5; give one of them"):
        options(MOTION, "data.holdout=0.2", "data.folds=5", "data.fold=0")
    with pytest.raises(ValueError, match=r"data\.fold=5: with data\.folds=5 it runs from 0 to 4"):
        options(MOTION, "data.folds=5", "data.fold=5")
    with pytest.raises(ValueError, match=r"data\.group_pattern=\(: is no regular expression \(.*\); correct it"):
        options(MOTION, "data.holdout=0.2", "data.group_pattern='('")
    cut = options(MOTION, "data.folds=5", "data.fold=4", "data.group_pattern='_g(.)_'")
    assert (cut.data.folds, cut.data.fold, cut.data.group_pattern) == (5, 4, "_g(.)_")


def test_a_table_holds_every_split_or_one() -> None:
    table = [MOTION, "data/source=table"]
    with pytest.raises(ValueError, match=r"data\.source\.val=v\.csv: not together with data\.source\.table=t\.csv"):
        options(*table, "data.source.table=t.csv", "data.source.val=v.csv")
    with pytest.raises(ValueError, match=r"no value yet.*\n  data\.source\.train="):
        options(*table)
    assert options(*table, "data.source.table=t.csv").data.source.table == "t.csv"


def test_a_folder_of_imagenet_holds_every_split() -> None:
    imagenet = ["+experiment=in1k_mvitv2_t"]
    assert options(*imagenet, "data.source.folder=in").data.source == config.image_sources.ImageNetSource(folder="in")
    with pytest.raises(ValueError, match=r"no value yet[^$]*data\.source\.train="):
        options(*imagenet)
    with pytest.raises(
        ValueError, match=r"data\.source\.synsets=s\.txt: has no effect without data\.source\.val_labels"
    ):
        options(*imagenet, "data.source.folder=in", "data.source.synsets=s.txt")
    table = [*imagenet, "data/source=image_table", "data.source.table=t.csv"]
    with pytest.raises(ValueError, match=r"data\.source\.val=v\.csv: not together with data\.source\.table=t\.csv"):
        options(*table, "data.source.val=v.csv")


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"flip=2[^$]*\n.*batch_size=0"):
        options(MOTION, "trainer.batch_size=0", "augment.flip=2")


def test_values_still_to_be_given_are_listed_together() -> None:
    with pytest.raises(ValueError, match=r"no value yet[^$]*data.source.train=...\n  data.source.train_root=..."):
        options("+experiment=k400_mvitv2_s")


def test_any_data_set_trains_from_its_index() -> None:
    index = ["data/source=index", "data.source.train=k400/train.index"]
    result = options("+experiment=k400_mvitv2_s", *index, "data.source.root=/fast/k400")
    assert result.data.source == config.IndexSource(train="k400/train.index", root="/fast/k400")
    with pytest.raises(ValueError, match=r"no value yet[^$]*data.source.train=..."):
        options("+experiment=k400_mvitv2_s", "data/source=index")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["+experiment=motion_mvitv2", "optim.lrr=1"],
            ["optim.lrr: unknown option; did you mean 'lr'?", "weight_decay"],
        ),
        (["+experiment=motion_mvitv2", "optim.lr=fast"], ["optim.lr=fast: must be a number (above 0)"]),
        (["+experiment=k400"], ["experiment=k400: unknown", "k400_mvitv2_s"]),
        (
            ["--config-dir=CONF", "+experiment=typo"],
            ["experiment/typo.yaml: schedule.epoch: unknown option", "'epochs'"],
        ),
        (["+experiment=motion_mvitv2", "trainer.accumulate=0"], ["trainer.accumulate=0: must be at least 1"]),
    ],
)
def test_mistakes_end_the_command_with_a_message(arguments: list[str], said: list[str], tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/typo.yaml").write_text("# @package _global_\nname: typo\nschedule:\n  epoch: 3\n")
    arguments = [argument.replace("CONF", str(tmp_path)) for argument in arguments]
    result = command("mvit_video.train", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for text in said:
        assert text in result.stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {"experiment"}


def test_help_and_cfg_answer_without_torch(tmp_path: Path) -> None:
    """Importing torch alone takes seconds; these must answer at once; one after the other in one process."""
    job = ["+experiment=k400_mvitv2_s", "--cfg", "job"]
    named = [(name, words) for name in ("train", "evaluate", "preview") for words in (["--help"], job)]
    commands = [(f"mvit_video.{name}", words) for name, words in named]
    code = f"""
import runpy, sys
for module, arguments in {commands!r}:
    sys.argv = ["x", *arguments]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        assert not end.code
    assert "torch" not in sys.modules, (module, arguments)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("randaugment: rand-m7-n4-mstd0.5-inc1") == 3
    assert "animate: false" in result.stdout


@pytest.mark.parametrize(
    "schema",
    [
        config.ListSource,
        config.KineticsSource,
        config.Ssv2Source,
        config.FolderSource,
        config.LabeledVideoPathsSource,
        config.IndexSource,
        config.MotionSource,
        config.Baseline,
    ],
)
def test_a_schema_has_the_arguments_of_what_it_configures(schema: type) -> None:
    fields = {field.name for field in dataclasses.fields(schema)} - {"_target_"}
    target = get_object(schema._target_)  # type: ignore[attr-defined]
    assert fields == set(inspect.signature(target).parameters)


def test_the_model_schema_names_fields_of_the_model() -> None:
    from mvit_video.models import get_config

    fields = {field.name for field in dataclasses.fields(config.MViT)} - {"_target_", "name"}
    known = {field.name for field in dataclasses.fields(get_config("mvitv2_s_16x4"))}
    assert fields <= known


def test_there_is_a_model_file_for_every_model() -> None:
    from mvit_video.models import list_models
    from mvit_video.models.detection import list_detectors

    folder = Path(config.config_dir())
    files = {path.stem for path in (folder / "model").glob("*.yaml")}
    known = {*list_models(), *baselines.list_baselines()}
    published = {*list_detectors()}  # Mask R-CNN of L and H has no recipe
    assert known <= files
    # The others are what an experiment makes of one of them.
    experiments = "\n".join(path.read_text("utf-8") for path in (folder / "experiment").glob("*.yaml"))
    others = files - known - published
    assert [name for name in others if f"override /model: {name}\n" not in experiments] == []


def command(module: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command of the package as a user would, from another folder."""
    return interpreters.run("-m", module, *arguments, cwd=cwd)


def test_the_yaml_files_of_a_wheel_and_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel carries them inside of the package; a checkout has them beside it."""
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "mvit_video/config/registry.py"))
    with pytest.raises(FileNotFoundError, match=r"no configuration folder at .*: reinstall mvit_video"):
        config.config_dir()
    for folder in (tmp_path / "conf", tmp_path / "mvit_video/conf"):
        folder.mkdir(parents=True)
        assert config.config_dir() == str(folder)


@pytest.mark.parametrize("name", ["''", ".", "..", "a/b", "../out"])
def test_a_name_is_one_folder(name: str) -> None:
    with pytest.raises(ValueError, match="it must be a plain name without slashes, such as birds"):
        options(MOTION, f"name={name}")
