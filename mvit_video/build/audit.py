"""An audit, from its options to the page: how far to trust the number of a run."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mvit_video
from mvit_video.auditing.entries import Entries
from mvit_video.auditing.page import WORDS, Section
from mvit_video.auditing.report import PAGE, Audited, Scored, write_report
from mvit_video.auditing.survey import SurveyOptions, survey
from mvit_video.build.clips import video_data
from mvit_video.build.common import process_group_of
from mvit_video.build.evaluation import ELSEWHERE, Trained, load_trained, score_split
from mvit_video.config import Audit, VideoData
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.distributed.process_group import World
from mvit_video.engine.task import Evaluation
from mvit_video.runtime.env import describe_environment
from mvit_video.runtime.files import check_writable
from mvit_video.runtime.run_record import read_object, read_validations

logger = logging.getLogger(__name__)
_ORDERS: tuple[FrameOrder, ...] = ("single", "shuffled", "reversed")


def audit(config: Audit) -> dict[str, Any]:
    """Audit a run as configured and write the page; what audit.json holds (on rank 0, else an empty dict).

    Raises:
        ValueError: the data of the task are no labelled videos.
    """
    with process_group_of(config) as world:
        if world.is_main:
            check_writable(_folder(config), way_out=ELSEWHERE)
        trained = load_trained(config, world, needs_training_split=True)
        names = trained.builder.class_names(trained.split)
        train = trained.builder.read_split(config, trained.source, "train", class_names=names)
        labelled = isinstance(train, Manifest) and isinstance(trained.split, Manifest)
        if not (labelled and isinstance(config.data, VideoData)):
            raise ValueError(
                f"an audit compares labelled videos, and the task {type(trained.builder).__name__} reads something "
                f"else: its number alone comes from python -m mvit_video.evaluate run={config.name}"
            )
        scored = _score(config, trained, world)
        if scored is None:
            return {}
        return _report(config, trained, Entries(train, trained.split, config.split), scored, world)


def _folder(config: Audit) -> Path:
    return Path(config.output) if config.output else config.run_dir / "audit"


def _score(config: Audit, trained: Trained, world: World) -> Scored | None:
    """Score the split as a test does, in all orders asked for, and as a validation does; None on other ranks than 0."""
    builder, split = trained.builder, trained.split
    correct: dict[str, Any] = {}
    metrics: dict[str, dict[str, float]] = {}
    orders: tuple[FrameOrder, ...] = ("forward", *(_ORDERS if config.frame_orders else ()))
    for order in orders:
        evaluation = builder.evaluation(config, split, world, frame_order=order)
        scorer = score_split(config, trained, evaluation, world, title=f"scoring {config.split} ({order})")
        if scorer is not None:
            metrics[order] = scorer.metrics()
            if "video_top1" in metrics[order]:
                correct[order] = scorer.scores.video_topk(split.labels, 1)
    protocol, validation = _protocol(evaluation), builder.validation(config, split, world)
    again = metrics.get("forward", {})
    if _protocol(validation) != protocol:
        scorer = score_split(config, trained, validation, world, title=f"scoring {config.split} (as in training)")
        again = {} if scorer is None else scorer.metrics()
    if not world.is_main:
        return None
    metric = builder.task(config, split).best_metric
    return Scored(
        metric=metric,
        metrics=metrics,
        correct=correct,
        protocol=protocol,
        again=again,
        validation_protocol=_protocol(validation),
        logged=_logged(config, trained, metric),
        evaluations=tuple(_evaluations(config, trained, metric)),
    )


def _protocol(evaluation: Evaluation) -> str:
    about = evaluation.about()
    return _views(about.get("temporal_views", 1), about.get("spatial_views", 1))


def _views(temporal: int, spatial: int) -> str:
    return f"{temporal} x {spatial} view{'s' if temporal * spatial > 1 else ''}"


def _logged(config: Audit, trained: Trained, metric: str) -> float | None:
    """What the training logged at the step of the weights, if its validation was of these very videos."""
    before = (trained.training.get("run") or {}).get("data", {}).get("val")
    if before is None or before["fingerprint"] != trained.builder.record(trained.split).fingerprint:
        return None
    if not config.use_ema:  # a validation takes the averaged weights where there are any
        return None
    found = [one for one in read_validations(config.run_dir) if one.get("step") == trained.training.get("step")]
    return found[-1].get(metric) if found else None


def _evaluations(config: Audit, trained: Trained, metric: str) -> Iterator[tuple[str, str, float]]:
    """(folder, protocol, value) of the results of `evaluate` in the run for these very videos and weights."""
    about = trained.about(config)
    for path in sorted(config.run_dir.glob("evaluation*/results.json")):
        try:
            held = read_object(path)
        except ValueError as error:
            logger.warning("%s; it is left out", error)
            continue
        same = held.get("weights_sha256") == about["weights_sha256"] and held.get("frame_order") == "forward"
        if same and held.get("data", {}).get("fingerprint") == about["data"]["fingerprint"] and metric in held:
            yield path.parent.name, _views(held.get("temporal_views", 1), held.get("spatial_views", 1)), held[metric]


def _report(config: Audit, trained: Trained, entries: Entries, scored: Scored, world: World) -> dict[str, Any]:
    """Look at the videos and write the page."""
    look = SurveyOptions(
        takes=config.takes,
        frames=config.frames,
        similarity=config.similarity,
        time_limit_s=video_data(config).video_time_limit_s,
    )
    folder = _folder(config)
    about = {
        **trained.about(config),
        "train_data": trained.builder.record(entries.train).plain(),
        "mvit_video": mvit_video.__version__,
        "environment": describe_environment(),
    }
    audited = Audited(
        name=config.name,
        about=about,
        heading=_heading(config, trained, entries, about),
        trained_with=_command_of(config.run_dir),
        entries=entries,
        survey=survey(entries, look, device=world.device),
        scored=scored,
        time_limit_s=video_data(config).video_time_limit_s,
    )
    content, sections = write_report(folder, audited)
    _say(folder, sections)
    return content


def _heading(config: Audit, trained: Trained, entries: Entries, about: dict[str, Any]) -> list[str]:
    """What was audited, in a few lines; with a word if the training videos are not those of the run any more."""
    step = "" if about["step"] is None else f", of step {about['step']:,}"
    lines = [
        f"Weights: `{trained.checkpoint}`{step}",
        f"Audited: {len(entries.audited)} videos of `{entries.audited.source}` (split {config.split})",
        f"Training: {len(entries.train)} videos of `{entries.train.source}`",
    ]
    before = (trained.training.get("run") or {}).get("data", {}).get("train")
    if before is not None and before["fingerprint"] != about["train_data"]["fingerprint"]:
        lines.append(
            f"**The training videos are not those of the run any more**: it trained on {before['items']} videos "
            f"({before['fingerprint']}), the list now has {len(entries.train)} "
            f"({about['train_data']['fingerprint']}). What follows is about the present ones."
        )
    return lines


def _command_of(run_dir: Path) -> str:
    """The command that the run was trained with; empty where it is not known."""
    path = run_dir / "environment.json"
    return str(read_object(path).get("command", "")) if path.is_file() else ""


def _say(folder: Path, sections: list[Section]) -> None:
    lines = [f"  {WORDS[one.verdict.level].upper()}: {one.title} {one.verdict.text}" for one in sections]
    logger.info("the audit:\n%s\nwritten to %s", "\n".join(lines), folder / PAGE)
