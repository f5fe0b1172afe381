"""Training and evaluation as functions: `mvit_video.train` and `mvit_video.evaluate`, without a command line."""

import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from mvit_video.config import Evaluate, Train
from mvit_video.config.check import to_object
from mvit_video.config.compose import Composition, compose_options, quoted
from mvit_video.config.summary import summary_text
from mvit_video.runtime.run_record import best_validation, read_validations

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run after `train`.

    Attributes:
        name: of the run.
        run_dir: its folder, absolute: config.yaml, metrics.jsonl, curves.png, checkpoints and so on.
        best_metric: by which the best checkpoint is chosen; None for a job that was only submitted.
        best: its best value over all validations; None if there was none.
        best_step: optimizer step of that validation.
        metrics: of the last validation, by name; empty if there was none.
    """

    name: str
    run_dir: Path
    best_metric: str | None = None
    best: float | None = None
    best_step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint, or the newest of a run that was never validated.

        Raises:
            ValueError: there is none yet.
        """
        from mvit_video.build.stored_options import best_checkpoint

        return best_checkpoint(self.run_dir)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl: "kind" is "train" or "eval", "step" and "time" stand beside the values."""
        from mvit_video.engine.tracking import read_metrics

        path = self.run_dir / "metrics.jsonl"
        return [dict(record) for record in read_metrics(path)] if path.exists() else []

    def load_model(self) -> "nn.Module":
        """The model with the weights of `checkpoint`, on the CPU, in evaluation mode.

        It takes normalised clips, float32 (B, 3, T, H, W).
        """
        from mvit_video.build.common import build_model, load_weights
        from mvit_video.runtime.env import own_state

        config, _ = _evaluation_options({"run": str(self.run_dir)}, None, None)
        assert config.checkpoint is not None  # taken from the run
        with own_state():
            model = build_model(config)
            load_weights(model, config.checkpoint, new_head=False)
        return model.eval()


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What `evaluate` found.

    Attributes:
        folder: where results.json, predictions.jsonl and confusion.png lie, absolute.
        results: the content of results.json: accuracies, and how they came about.
    """

    folder: Path
    results: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """The scores and counts among the results: "video_top1", "num_videos" and so on, accuracies in per cent."""
        found = self.results.items()
        return {name: value for name, value in found if isinstance(value, float) or name.startswith("num_")}

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """The lines of predictions.jsonl, one for each video."""
        path = self.folder / "predictions.jsonl"
        # Not splitlines: names of files may hold the line separators of Unicode.
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def train(
    experiment: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    output_dir: PathLike | None = None,
    weights: PathLike | None = None,
    config_dir: PathLike | None = None,
) -> TrainedRun:
    """Train as `python -m mvit_video.train` does, and go on with the run of that name if there is one.

        run = mvit_video.train("finetune_folder", {"data.source.train": "birds/train"}, name="birds")

    With several GPUs, or processes, Python starts again in each: then the call stands under
    `if __name__ == "__main__":`, as everything that starts processes. Where no logging is set up, the log goes to
    standard error.

    Args:
        experiment: file in conf/experiment, such as "finetune_folder"; None: the defaults of conf/config.yaml.
        options: what differs, by the names of docs/options.md: {"optim.lr": 1e-4} or {"optim": {"lr": 1e-4}}. A group
            takes the name of a choice, {"model": "slow_r50"}, a class, {"model": MyNet}, or a class with arguments,
            {"model": {"_target_": MyNet, "width": 8}}.
        name: of the run.
        output_dir: folder of all runs.
        weights: what to start from: a published name such as "k400_mvitv2_s", a URL, a file, or the folder of a run.
        config_dir: folder of further YAML files, as --config-dir.

    Raises:
        ValueError: an option is unknown, missing or impossible, the data is not as it should be, or the run began
            otherwise.
        RuntimeError: the run was stopped and saved (runtime.interruption.Interrupted), another process trains it, or it
            failed.
    """
    given = with_arguments(options, name=name, output_dir=output_dir, weights=weights)
    composition = compose_options("config", experiment=experiment, options=given, config_folder=config_dir)
    config = to_object(composition.config)
    log_here()
    _say(composition, config)
    from mvit_video.build.stored_options import fetch_weights
    from mvit_video.build.training import train_to_end
    from mvit_video.cluster.launch import launch

    if config.weights is not None:
        fetch_weights(config.weights)
    run_dir = config.run_dir.absolute()  # the program may go to another folder afterwards
    outcome = launch(train_to_end, config)
    if outcome is None:  # submitted to a cluster
        return TrainedRun(name=config.name, run_dir=run_dir)
    validations = read_validations(run_dir)
    best = best_validation(validations, outcome.best_metric)
    last = validations[-1] if validations else {}
    return TrainedRun(
        name=config.name,
        run_dir=run_dir,
        best_metric=outcome.best_metric,
        best=None if best is None else best.value,
        best_step=None if best is None else best.step,
        metrics={key: value for key, value in last.items() if key not in ("kind", "step", "time")},
    )


def evaluate(
    run: TrainedRun | PathLike | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    checkpoint: PathLike | None = None,
    experiment: str | None = None,
    split: Literal["train", "val", "test"] | None = None,
    output_dir: PathLike | None = None,
    config_dir: PathLike | None = None,
) -> EvaluationResult:
    """Evaluate as `python -m mvit_video.evaluate` does.

        result = mvit_video.evaluate("birds")
        result = mvit_video.evaluate(checkpoint="k400.pyth", experiment="k400_mvitv2_s", options={...})

    Args:
        run: a run, its name or its folder: its options and its best checkpoint count.
        options: what differs, see `train`.
        checkpoint: weights instead of the run's best: a published name, a URL or a file.
        experiment: whose options count for weights that hold none.
        split: what is evaluated; None: the test split, or the validation split of a source without one.
        output_dir: folder of all runs, where a name is looked for.
        config_dir: see `train`.

    Raises:
        ValueError: there is nothing to evaluate, or it does not fit together; see `train`.
    """
    where = run.run_dir if isinstance(run, TrainedRun) else run
    given = with_arguments(options, run=where, checkpoint=checkpoint, split=split, output_dir=output_dir)
    log_here()
    config, composition = _evaluation_options(given, experiment, config_dir)
    from mvit_video.build.evaluation import evaluate_to_folder
    from mvit_video.cluster.launch import launch

    found = launch(evaluate_to_folder, config)
    if found is None:
        raise ValueError(
            f"launcher={composition.now.choices.get('launcher')}: the evaluation was submitted and its results come "
            "later, to the folder of the run; launcher=local waits for them"
        )
    folder, results = found
    return EvaluationResult(folder=folder.absolute(), results=results)


def _evaluation_options(
    given: Mapping[str, Any], experiment: str | None, config_dir: PathLike | None
) -> tuple[Evaluate, Composition]:
    from mvit_video.build.stored_options import stored_groups, take_stored_options

    # Images and detectors have other groups of options than videos.
    words = [
        f"{key}={quoted(os.fspath(value))}" for key, value in given.items() if isinstance(value, str | os.PathLike)
    ]
    implied = {} if experiment else dict(word.split("=", 1) for word in stored_groups(words))
    composition = compose_options(
        "evaluate", experiment=experiment, options={**implied, **given}, config_folder=config_dir
    )
    take_stored_options(composition.config, [key for key in composition.given if key not in implied])
    config = to_object(composition.config)
    assert isinstance(config, Evaluate)
    return config, composition


def with_arguments(options: Mapping[str, Any] | None, **arguments: Any) -> dict[str, Any]:
    """Options with the arguments that have a value.

    Raises:
        ValueError: one of them is given twice.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    twice = sorted(set(given) & set(options or {}))
    if twice:
        raise ValueError(f"{', '.join(twice)}: given as an argument and among the options; give it once")
    return {**(options or {}), **given}


def _say(composition: Composition, config: Train) -> None:
    text = summary_text(
        composition.now,
        experiment=composition.experiment,
        same_groups=composition.same_groups,
        run_dir=str(config.run_dir),
    )
    logger.info("%s", text.replace("on the command line ", "").replace(" on the command line", ""))


def log_here() -> None:
    """Show the log of a program that has set up none."""
    if not logging.getLogger().handlers:
        from mvit_video.runtime.logs import configure_logging

        configure_logging()


def make_callable(module: str, function: Callable[..., Any]) -> None:
    """Let a module be called as `function`.

    `mvit_video.train` is the module of a command and the name under which people call it in Python. Were the package's
    attribute the function, the first import of the module would replace it; so both are one object.
    """
    here = sys.modules[module]

    class CallableModule(ModuleType):
        __call__ = staticmethod(function)

    here.__class__ = CallableModule
    here.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
