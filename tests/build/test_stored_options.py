"""An evaluation takes its options from the run or the checkpoint; the command line changes single ones, and says so."""

import logging
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from mvit_video.build import stored_options
from mvit_video.build.prediction_options import find_weights
from mvit_video.build.run_identity import RunIdentity, begin_or_go_on
from mvit_video.build.stored_options import (
    beside_weights,
    best_checkpoint,
    fetch_weights,
    find_run,
    stored_groups,
    take_stored_options,
    weights_file,
)
from mvit_video.config import Evaluate
from mvit_video.config.check import to_object
from mvit_video.config.sources import missing_locations
from mvit_video.distributed.process_group import World
from tests.composing import compose
from tests.conftest import options

WORLD = World(rank=0, size=1, device=torch.device("cpu"))
# What a user has who trained on a folder of their own: other frames, size and views than any experiment.
TRAINED = (
    "+experiment=finetune_folder", "weights=w.pyth", "data.source.train=t", "data.source.val=v", "data.num_frames=8",
    "data.crop_size=112", "data.test_short_side=128", "data.test_temporal_views=2", "data.num_classes=5", "name=mine",
    "optim.layer_decay=1", "trainer.precision=fp32",
)  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    config = options(*TRAINED, f"output_dir={tmp_path}")
    identity = RunIdentity.of(class_names=["a"], items_per_step=1, data={})
    begin_or_go_on(config, identity, WORLD)
    folder = tmp_path / "mine" / "checkpoints"
    folder.mkdir()
    text = OmegaConf.to_yaml(OmegaConf.structured(config))
    state = {"format": 1, "step": 7, "model": {"w": torch.ones(1)}, "ema": None, "config": text, "class_names": ["a"]}
    torch.save(state, folder / "best.pt")
    return tmp_path


def evaluated(*overrides: str) -> DictConfig:
    """The options of `python -m mvit_video.evaluate` with these words, as the command makes them."""
    config = compose("evaluate", overrides)
    keys = [override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))]
    take_stored_options(config, keys)
    return config


def checked(config: DictConfig) -> Evaluate:
    result = to_object(config)
    assert isinstance(result, Evaluate)
    return result


def test_places_that_a_source_may_leave_open_stay_open(tmp_path: Path) -> None:
    """A folder of videos is not: it must be named."""
    given = ("data.source.train=t.json", "data.source.val=v.json", "optim.layer_decay=1")
    config = options("+experiment=finetune_detection", "name=mine", *given, f"output_dir={tmp_path}")
    begin_or_go_on(config, RunIdentity.of(class_names=["a"], items_per_step=1, data={}), WORLD)
    (tmp_path / "mine" / "checkpoints").mkdir()
    text = OmegaConf.to_yaml(OmegaConf.structured(config))
    state = {"format": 1, "step": 7, "model": {"w": torch.ones(1)}, "ema": None, "config": text, "class_names": ["a"]}
    torch.save(state, tmp_path / "mine" / "checkpoints" / "best.pt")
    words = ["run=mine", f"output_dir={tmp_path}"]
    config = compose("evaluate", [*stored_groups(words), *words])
    take_stored_options(config, ["run", "output_dir"])
    assert config.data.source.val == "v.json" and missing_locations(config.data.source, ["val"]) == set()
    assert missing_locations(compose("evaluate", ["data/source=folder"]).data.source, ["val"]) == {"val"}


@pytest.mark.parametrize("how", ["run", "path", "checkpoint", "folder", "checkpoints", "name"])
def test_everything_comes_from_the_run(runs: Path, how: str) -> None:
    words = {
        "run": ["run=mine", f"output_dir={runs}"],
        "path": [f"run={runs}/mine"],
        "checkpoint": [f"checkpoint={runs}/mine/checkpoints/best.pt", "name=x"],
        "folder": [f"checkpoint={runs}/mine"],
        "checkpoints": [f"checkpoint={runs}/mine/checkpoints"],
        "name": ["name=mine", f"output_dir={runs}"],
    }[how]
    config = checked(evaluated(*words))
    data, model = config.data, config.model
    assert (data.num_frames, data.crop_size, data.test_short_side, data.test_temporal_views) == (8, 112, 128, 2)
    assert (model["name"], model["num_frames"], model["crop_size"], model["num_classes"]) == (
        "mvitv2_s_16x4", 8, 112, 5,
    )  # fmt: skip
    assert (data.source["train"], config.trainer.precision) == ("t", "fp32")
    assert config.checkpoint == f"{runs}/mine/checkpoints/best.pt"
    if how != "checkpoint":
        assert config.run_dir == runs / "mine"


def test_the_command_line_changes_single_options_and_says_so(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config = checked(evaluated("run=mine", f"output_dir={runs}", "data.num_frames=16", "data.source.val=other"))
    assert (config.data.num_frames, config.model["num_frames"], config.data.source["val"]) == (16, 16, "other")
    assert config.data.crop_size == 112
    assert "data.num_frames: 8 -> 16" in caplog.text and "data.source.val: v -> other" in caplog.text
    assert "crop_size" not in caplog.text


def test_a_group_on_the_command_line_replaces_the_runs(runs: Path) -> None:
    config = checked(evaluated("run=mine", f"output_dir={runs}", "data/source=list", "data.source.val=list.csv"))
    assert config.data.source["_target_"].endswith("ListSource") and config.data.source["val"] == "list.csv"
    assert config.data.num_frames == 8


def test_an_experiment_does_not_outvote_the_run(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    words = [f"checkpoint={runs}/mine/checkpoints/best.pt", "+experiment=k400_mvitv2_s", "data.source.val=other"]
    config = checked(evaluated(*words))
    assert (config.data.num_frames, config.data.crop_size, config.data.test_temporal_views) == (8, 112, 2)
    said = caplog.text.split("the run has values of its own where the experiment has others: ")[1]
    assert "data.num_frames" in said and "data.crop_size" in said


def test_weights_without_options_are_evaluated_by_the_command_line(tmp_path: Path) -> None:
    torch.save({"model_state": {"w": torch.ones(1)}}, tmp_path / "w.pyth")
    config = evaluated("+experiment=k400_mvitv2_s", f"checkpoint={tmp_path}/w.pyth", "data.source.val=v")
    assert config.data.num_frames == 16


def test_a_forced_run_is_what_it_last_went_on_with(runs: Path) -> None:
    (runs / "mine" / "checkpoints" / "step_00000007.pt").touch()
    config = options(*TRAINED, f"output_dir={runs}", "data.num_frames=4", "resume=force")
    begin_or_go_on(config, RunIdentity.of(class_names=["a"], items_per_step=1, data={}), WORLD)
    checkpoint = runs / "mine" / "checkpoints" / "best.pt"
    state = torch.load(checkpoint, weights_only=True)
    torch.save({**state, "config": OmegaConf.to_yaml(OmegaConf.structured(config))}, checkpoint)
    assert evaluated("run=mine", f"output_dir={runs}").data.num_frames == 4


def test_a_run_that_is_not_there(runs: Path) -> None:
    with pytest.raises(ValueError, match=r"run=mime: neither mime nor .*mime holds.*did you mean 'mine'\? The runs in"):
        find_run("mime", output_dir=str(runs))
    with pytest.raises(ValueError, match="there are no runs in nowhere"):
        find_run("mime", output_dir="nowhere")


def test_a_run_without_checkpoint(runs: Path) -> None:
    (runs / "mine" / "checkpoints" / "best.pt").unlink()
    with pytest.raises(ValueError, match="mine has no checkpoint yet: train it first, or give the path of a file"):
        best_checkpoint(runs / "mine")


def test_no_file_at_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"checkpoint=gone\.pt: there is no such file, folder or published weights; .*run=NAME"
    ):
        evaluated("+experiment=k400_mvitv2_s", "checkpoint=gone.pt", "data.source.val=v")


def test_nothing_given() -> None:
    with pytest.raises(ValueError, match="nothing to evaluate is given: give run=NAME_OR_PATH, or checkpoint=PATH"):
        evaluated()


def test_an_option_of_another_version_is_named(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = runs / "mine" / "checkpoints" / "best.pt"
    state = torch.load(checkpoint, weights_only=True)
    text = state["config"].replace("  num_frames: 8\n", "  num_frames: 8\n  from_the_future: 1\n")
    torch.save({**state, "config": text}, checkpoint)
    assert evaluated("run=mine", f"output_dir={runs}").data.num_frames == 8
    assert "['data.from_the_future'] are unknown to this version and left out" in caplog.text


def test_a_checkpoint_alone_has_the_name_of_its_run(runs: Path, tmp_path: Path) -> None:
    assert checked(evaluated(f"checkpoint={runs}/mine/checkpoints/best.pt")).run_dir == runs / "mine"
    (tmp_path / "elsewhere").mkdir()
    alone = (runs / "mine" / "checkpoints" / "best.pt").rename(tmp_path / "elsewhere" / "weights.pt")
    assert checked(evaluated(f"checkpoint={alone}")).name == "mine"


def test_the_checkpoint_of_another_run_is_refused(runs: Path) -> None:
    (runs / "other").mkdir()
    (runs / "other" / "config.yaml").touch()
    for checkpoint in ("other", "other/checkpoints/best.pt"):
        with pytest.raises(ValueError, match=r"run=mine with checkpoint=.*: the checkpoint is of another run, .*other"):
            evaluated("run=mine", f"output_dir={runs}", f"checkpoint={runs}/{checkpoint}")
    assert evaluated("run=mine", f"output_dir={runs}", f"checkpoint={runs}/mine").checkpoint.endswith("best.pt")


def test_weights_may_be_those_of_a_run(runs: Path, tmp_path: Path) -> None:
    best = runs / "mine" / "checkpoints" / "best.pt"
    assert weights_file(str(runs / "mine")) == weights_file(str(best.parent)) == weights_file(str(best)) == str(best)
    with pytest.raises(
        ValueError,
        match=r"gone: there is no such file, folder or published.*are taken from /.*a run is given by its directory",
    ):
        weights_file("gone")
    with pytest.raises(ValueError, match=r"is a folder, and holds no config\.yaml of a run"):
        weights_file(str(tmp_path))


def test_a_run_says_which_checkpoint_is_taken(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    evaluated("run=mine", f"output_dir={runs}")
    assert "its best checkpoint is taken, best.pt" in caplog.text


def test_converted_weights_hold_no_way_to_read_videos(tmp_path: Path) -> None:
    text = '{"model": {"_target_": "mvit_video.models.MViTConfig"}}'
    torch.save({"model": {"w": torch.ones(1)}, "config": text}, tmp_path / "w.pt")
    config = evaluated("+experiment=k400_mvitv2_s", f"checkpoint={tmp_path}/w.pt", "data.source.val=v")
    assert config.name == "k400_mvitv2_s" and config.data.num_frames == 16


def test_relative_places_of_a_run_are_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "v").mkdir()
    monkeypatch.chdir(tmp_path)
    begin_or_go_on(options(*TRAINED), RunIdentity.of(class_names=["a"], items_per_step=1, data={}), WORLD)
    folder = tmp_path / "runs" / "mine" / "checkpoints"
    folder.mkdir()
    torch.save({"format": 1, "step": 1, "model": {"w": torch.ones(1)}, "class_names": ["a"]}, folder / "best.pt")
    assert evaluated("run=mine").data.source.val == "v"
    monkeypatch.chdir(tmp_path / "elsewhere")
    source = evaluated("run=../runs/mine").data.source
    assert (source.val, source.train) == (str(tmp_path / "v"), "t")  # t is nowhere
    assert f"data.source.val: relative, and taken from {tmp_path}, where the run was started" in caplog.text
    assert evaluated("run=../runs/mine", "data.source.val=v").data.source.val == "v"  # the command line's own
    other = evaluated("run=../runs/mine", "data/source=ssv2", "data.source.val=v").data.source
    assert other.val == "v" and OmegaConf.is_missing(other, "root")


@pytest.mark.parametrize("place", ["best.pt", "checkpoints/best.pt"])
def test_a_checkpoint_is_found_in_the_run(runs: Path, place: str) -> None:
    config = evaluated("run=mine", f"output_dir={runs}", f"checkpoint={place}")
    assert config.checkpoint == f"{runs}/mine/checkpoints/best.pt"


def test_a_mistyped_name_of_weights_is_refused_before_a_run_begins() -> None:
    with pytest.raises(ValueError, match=r"weights=in1k_mvitv2_ss: .*did you mean in1k_mvitv2_s .* a run is given by"):
        fetch_weights("in1k_mvitv2_ss")
    fetch_weights("elsewhere/best.pt")  # a path may exist on the nodes of a cluster alone


def test_a_folder_with_the_name_of_a_run_is_not_the_run(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos in birds/, and the run that was trained on them in runs/birds."""
    run = next(path.parent for path in sorted(runs.glob("*/config.yaml")))
    (tmp_path / "elsewhere" / run.name / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = OmegaConf.create({"weights": run.name, "run": None, "checkpoint": None, "output_dir": str(runs)})
    find_weights(config)
    assert (Path(config.run), config.checkpoint) == (run, None)
    config = OmegaConf.create({"weights": str(run), "run": None, "checkpoint": None, "output_dir": str(runs)})
    find_weights(config)
    assert (config.run, config.checkpoint) == (None, str(run))


def test_a_file_is_read_once_and_another_in_its_place_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = stored_options.read_weights_file
    monkeypatch.setattr(stored_options, "read_weights_file", lambda path: (reads.append(path), read(path))[1])
    path = tmp_path / "best.pt"
    for step in (1, 2):
        state = {"step": step, "model": {"weight": torch.zeros(1)}, "class_names": ["a", "b"], "config": "a: 1"}
        torch.save(state, tmp_path / "new.pt")
        (tmp_path / "new.pt").replace(path)
        for _ in range(2):
            held = beside_weights(path)
            assert held.training["step"] == step and held.tensors == {} and held.config is not None
            held.training["step"] = 0  # of the caller alone
    assert reads == [path, path]
