"""Which curves the page shows: those of one run by what they measure, or one drawing per quantity for several runs."""

from collections.abc import Iterator, Sequence

from mvit_video.reporting.charts import Chart, Series, chart
from mvit_video.reporting.logged import Logged

_TRAIN, _EVAL = "train", "eval"
_KINDS = {_TRAIN: "training", _EVAL: "validation"}
# What is drawn first; quantities that are not named here follow, in the order of the records.
_FIRST = (
    (_TRAIN, "loss"), (_EVAL, "loss"), (_EVAL, "video_top1"), (_EVAL, "top1"), (_EVAL, "map"), (_EVAL, "box_ap"),
    (_EVAL, "mask_ap"), (_EVAL, "clip_top1"), (_TRAIN, "top1"), (_EVAL, "video_top5"), (_EVAL, "top5"),
    (_EVAL, "mean_class_top1"), (_EVAL, "macro_f1"), (_TRAIN, "lr"), (_TRAIN, "clips_per_s"),
    (_TRAIN, "images_per_s"), (_TRAIN, "data_wait"),
)  # fmt: skip
_OPEN = 8  # drawings that are shown at once; further ones are folded away
_TITLES = {
    "loss": "Loss", "top1": "Top-1 accuracy", "video_top1": "Top-1 accuracy of videos", "lr": "Learning rate",
    "clip_top1": "Top-1 accuracy of clips", "video_top5": "Top-5 accuracy of videos", "top5": "Top-5 accuracy",
    "map": "Mean average precision", "mean_class_top1": "Top-1 accuracy, mean over classes", "macro_f1": "Macro F1",
    "clips_per_s": "Speed", "images_per_s": "Speed", "data_wait": "Waiting for data", "epoch": "Epoch",
    "box_ap": "AP of boxes", "mask_ap": "AP of masks",
}  # fmt: skip
_PRECISIONS = tuple(
    f"{kind}_ap{of}" for kind in ("box", "mask") for of in ("", "50", "75", "_small", "_medium", "_large")
)
_PERCENT = ("top1", "top5", "map", "macro_f1", "data_wait", *_PRECISIONS)
_UNITS = {"clips_per_s": "clips / s", "images_per_s": "images / s", "lr": "learning rate", "loss": "loss"}


def title_of(metric: str) -> str:
    """A metric in words; the name itself where it is not known here."""
    return _TITLES.get(metric, metric)


def unit_of(metric: str) -> str:
    """Of a metric; the name itself where it is not known here."""
    if metric.endswith(_PERCENT):
        return "%"
    return _UNITS.get(metric, metric)


def charts_of(runs: Sequence[Logged], labels: Sequence[str]) -> tuple[list[Chart], list[Chart]]:
    """The drawings to show at once, and those to fold away.

    Args:
        runs: what each run logged.
        labels: of the runs.
    """
    keys = _quantities(runs)
    found = list(_of_one(runs[0], keys) if len(runs) == 1 else _of_several(runs, labels, keys))
    return found[:_OPEN], found[_OPEN:]


def _quantities(runs: Sequence[Logged]) -> list[tuple[str, str]]:
    """(kind, name) of the numbers that the runs logged, the most telling first."""
    seen = dict.fromkeys(key for run in runs for key in run.quantities if key[0] in _KINDS)
    first = [key for key in _FIRST if key in seen]
    return first + [key for key in seen if key not in first]


def _series(run: Logged, key: tuple[str, str], label: str, colour: int) -> Series | None:
    steps, values = run.series(key)
    return Series(label=label, colour=colour, x=steps, y=values, marked=key[0] == _EVAL) if len(steps) else None


def _of_several(runs: Sequence[Logged], labels: Sequence[str], keys: Sequence[tuple[str, str]]) -> Iterator[Chart]:
    """A drawing for each quantity, with a line for each run that logged it."""
    for key in keys:
        kinds = sum(name == key[1] for _, name in keys)
        title = f"{title_of(key[1])}, {_KINDS[key[0]]}" if kinds > 1 else title_of(key[1])
        found = [_series(run, key, label, n) for n, (run, label) in enumerate(zip(runs, labels, strict=True))]
        series = [one for one in found if one is not None]
        if series:
            yield chart(title, unit_of(key[1]), series, limits=_limits(key[1]))


def _of_one(run: Logged, keys: Sequence[tuple[str, str]]) -> Iterator[Chart]:
    """Training and validation of a quantity in one drawing, and accuracies together."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for key in keys:
        groups.setdefault(_group(key[1]), []).append(key)
    for name, members in groups.items():
        made = [
            _series(run, key, _KINDS[key[0]] if len({k[1] for k in members}) == 1 else _label(key), colour)
            for colour, key in enumerate(members)
        ]
        series = [one for one in made if one is not None]
        if series:
            metric = members[0][1]
            ends = _limits(metric)
            title = name if len(members) > 1 else title_of(metric)
            yield chart(title, unit_of(metric), series, bottom=ends[0], top=ends[1], limits=ends)


def _group(metric: str) -> str:
    """The drawing that a metric of one run belongs to."""
    if metric in _PRECISIONS:
        return "Average precision" if metric in ("box_ap", "mask_ap") else "Average precision at one overlap or size"
    accuracy = metric.endswith(("top1", "top5", "macro_f1"))
    return "Accuracy" if accuracy else title_of(metric)


def _label(key: tuple[str, str]) -> str:
    return f"{_KINDS[key[0]]}: {key[1]}"


def _limits(metric: str) -> tuple[float | None, float | None]:
    """The least and the greatest value that a metric may have; None for none."""
    return (0.0, 100.0) if unit_of(metric) == "%" else (None, None)
