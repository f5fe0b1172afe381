"""Runs that differ in their fold alone: what each of them measured, and what they come to together."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mvit_video.runtime.intervals import wilson_ci95
from mvit_video.runtime.run_record import (
    RUN_FILE,
    lower_is_better,
    read_object,
    read_validations,
    record_file,
    summarize_run,
    validation_data,
)

METRICS = ("video_top1", "top1", "map", "box_ap")  # of videos, of images, of videos with several classes, of detectors
_AVERAGES = ("map", "box_ap")  # no shares of the videos
_EVALUATION = "evaluation"


@dataclass(frozen=True, kw_only=True)
class FoldScore:
    """What one run of a fold measured.

    Attributes:
        name: of the run.
        fold: from 0.
        state: of the run, see run_record; only "done" counts.
        videos: it was validated on.
        last: of the metric at its last validation; None where there was none.
        best: the best of all its validations, at `best_step`.
        best_step: optimizer step.
        evaluation: of the metric in the first of the folders `evaluation`, `evaluation-2` ... that is of the videos
            which were held out; None where there is none.
        views: of a video there, "5 x 1" for instance; of an image its size, "224 pixels, crop ratio 0.875".
        elsewhere: the folders that were passed over, for they are of other videos: "evaluation (train)".
    """

    name: str
    fold: int
    state: str
    videos: int
    last: float | None
    best: float | None
    best_step: int | None
    evaluation: float | None
    views: str
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FoldSummary:
    """What the folds come to by one way of measuring.

    Attributes:
        measured: how, in words.
        mean, deviation: over the folds; the deviation (n - 1) is None for one fold.
        pooled: per cent of all videos that are right; None for a metric that is no share of the videos.
        interval: 95 %, Wilson's.
        videos: of all folds.
    """

    measured: str
    mean: float
    deviation: float | None
    pooled: float | None
    interval: tuple[float, float] | None
    videos: int


def metric_of(run_dirs: Sequence[Path]) -> str:
    """The metric that all runs have: accuracy of videos or images, else an average precision.

    Raises:
        ValueError: they have neither, or not the same.
    """
    found = [{metric for metric in METRICS for one in read_validations(path) if metric in one} for path in run_dirs]
    common = [metric for metric in METRICS if any(found) and all(metric in one for one in found if one)]
    if not common:
        raise ValueError(
            f"the runs have no common one of {', '.join(METRICS)} in their validations; folds are summed up once "
            "they were validated"
        )
    return common[0]


def item_of(metric: str) -> str:
    """What is tested, in the singular."""
    return "image" if metric in ("top1", "box_ap") else "video"


def fold_score(run_dir: Path, fold: int, metric: str, queue: Mapping[str, tuple[str, str]]) -> FoldScore:
    """What the run of a fold measured so far."""
    records = [one for one in read_validations(run_dir) if one.get(metric) is not None]
    sign = 1 if lower_is_better(metric) else -1
    best = min(records, key=lambda one: sign * one[metric], default=None)
    results, elsewhere = _held_out_results(run_dir)
    return FoldScore(
        name=run_dir.name,
        fold=fold,
        state=summarize_run(run_dir, queue).state,
        videos=int(records[-1].get(f"num_{item_of(metric)}s", 0)) if records else 0,
        last=float(records[-1][metric]) if records else None,
        best=None if best is None else float(best[metric]),
        best_step=None if best is None else int(best["step"]),
        evaluation=results.get(metric),
        views=_views(results, metric) if results else "",
        elsewhere=elsewhere,
    )


def _held_out_results(run_dir: Path) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The results of the first evaluation of the fold's own videos, if any; and what was passed over.

    An evaluation of the training split, of a test split that all folds share or of other files says nothing of videos
    that are tested once each. Where a fingerprint is not recorded, the evaluation is taken to be of the fold.
    """
    held_out = (validation_data(run_dir) or {}).get("fingerprint")
    elsewhere: list[str] = []
    for number in count(1):
        folder = run_dir / (_EVALUATION if number == 1 else f"{_EVALUATION}-{number}")
        if not (folder / "results.json").is_file():
            return {}, tuple(elsewhere)
        results: Mapping[str, Any] = read_object(folder / "results.json")
        found = (results.get("data") or {}).get("fingerprint")
        if None in (held_out, found) or held_out == found:
            return results, tuple(elsewhere)
        elsewhere.append(f"{folder.name} ({results.get('split', '?')})")
    raise AssertionError("not reached")


def _views(results: Mapping[str, Any], metric: str) -> str:
    if "detector" in results:
        return f"short side {results['detector'].get('short_side', '?')}"
    if item_of(metric) == "image":
        return f"{results.get('crop_size', '?')} pixels, crop ratio {results.get('crop_ratio', '?')}"
    return f"{results.get('temporal_views', '?')} x {results.get('spatial_views', '?')}"


def summarize_folds(scores: Sequence[FoldScore], metric: str) -> list[FoldSummary]:
    """By the last validation, and by the evaluation where every fold has one of the same views.

    Args:
        scores: of the folds that are done, each once.
        metric: of the values.
    """
    of_images = item_of(metric) == "image"
    last = "last validation" if of_images else "last validation (1 x 1 view)"
    summaries = [_summary(last, [(one.last, one.videos) for one in scores], metric)]
    views = {one.views for one in scores}
    if len(views) == 1 and all(one.evaluation is not None for one in scores):
        named = f"evaluation ({views.pop()}{'' if of_images else ' views'})"
        summaries.append(_summary(named, [(one.evaluation, one.videos) for one in scores], metric))
    return [one for one in summaries if one is not None]


def _summary(measured: str, found: Sequence[tuple[float | None, int]], metric: str) -> FoldSummary | None:
    rows = [(value, videos) for value, videos in found if value is not None]
    if not rows:
        return None
    values, total = [value for value, _ in rows], sum(videos for _, videos in rows)
    # An accuracy is a whole number of videos.
    right = sum(round(value * videos / 100) for value, videos in rows) if metric not in _AVERAGES else None
    return FoldSummary(
        measured=measured,
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        pooled=None if right is None or not total else 100 * right / total,
        interval=None if right is None or not total else wilson_ci95(right, total),
        videos=total,
    )


def videos_of_all_folds(run_dir: Path) -> int | None:
    """Videos for training and for validation together, by the record of a run; None where it has none."""
    path = record_file(run_dir, RUN_FILE)
    if not path.is_file():
        return None
    data = read_object(path).get("data", {})
    return sum(data[split]["items"] for split in ("train", "val") if split in data) or None
