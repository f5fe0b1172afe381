"""What the folder of an evaluation says: the scores, and the answer of the model for every video or image."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mvit_video.runtime.fold_record import METRICS

RESULTS, LINES = "results.json", "predictions.jsonl"
MAIN = "evaluation"
Kind = Literal["classes", "label sets", "other"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What was looked at: a file, or a stretch of it in seconds; an `end` of None is the last frame."""

    path: str
    start: float = 0.0
    end: float | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all of the file."""
        return self.start == 0 and self.end is None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says of one entry.

    Attributes:
        entry: what it looked at.
        right: the classes that are right; the first is the entry's own.
        predicted: the class named; empty where several are, and where the file could not be read.
        scores: of the likeliest classes, from 0 to 1, the highest first.
        failed: the file could not be read.
    """

    entry: Entry
    right: tuple[str, ...]
    predicted: str
    scores: Mapping[str, float]
    failed: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The content of the folder of an evaluation.

    Attributes:
        folder: its name.
        results: what results.json holds.
        kind: "classes" where one class is named, "label sets" where several are; "other" for a task whose lines are
            not known here, which has scores and nothing else.
        item: what is answered for, in the singular.
        answers: in the order of the file; none for another kind.
    """

    folder: str
    results: Mapping[str, Any]
    kind: Kind
    item: str
    answers: Sequence[Answer] = field(repr=False)

    @property
    def class_names(self) -> list[str]:
        """In the order of the model's outputs."""
        return list(self.results.get("class_names") or self.results.get("per_class") or ())

    @property
    def class_scores(self) -> dict[str, float | None]:
        """Of each class, per cent: the share that is right, or the average precision; of detectors that of boxes."""
        scores = self.results.get("per_class") or {}
        return {name: value.get("box_ap") if isinstance(value, Mapping) else value for name, value in scores.items()}

    @property
    def class_counts(self) -> dict[str, int]:
        """Entries of each class, or annotated objects."""
        scores = self.results.get("per_class") or {}
        objects = {name: int(value["instances"]) for name, value in scores.items() if isinstance(value, Mapping)}
        return objects or dict(self.results.get("per_class_count") or {})

    @property
    def finds_objects(self) -> bool:
        """Whether it is of a detector."""
        return "box_ap" in self.results

    @property
    def metric(self) -> str | None:
        """The score by which it is judged; None if it has none that is known here."""
        return next((name for name in METRICS if isinstance(self.results.get(name), int | float)), None)

    @property
    def fingerprint(self) -> str | None:
        """Of the split; None where it is not recorded."""
        data = self.results.get("data")
        return data.get("fingerprint") if isinstance(data, Mapping) else None

    @property
    def protocol(self) -> str:
        """How the entries were shown to the model, in words."""
        results, parts = self.results, []
        if "temporal_views" in results:
            parts.append(f"{results['temporal_views']} x {results['spatial_views']} views")
        if "crop_size" in results:
            parts.append(f"{results['crop_size']} pixels")
        if isinstance(results.get("detector"), Mapping) and "short_side" in results["detector"]:
            parts.append(f"{results['detector']['short_side']} pixels")
        if results.get("frame_order", "forward") != "forward":
            parts.append(f"frames {results['frame_order']}")
        return ", ".join(parts)


def read_evaluations(run_dir: Path) -> list[Evaluation]:
    """The evaluations of a run: the one in the folder `evaluation` first, then the others by name."""
    found = sorted(run_dir.glob(f"*/{RESULTS}"), key=lambda path: (path.parent.name != MAIN, path.parent.name))
    read = (read_evaluation(path.parent) for path in found)
    # Predictions of files without labels have a results.json, too, and are of no split; people keep others there.
    return [one for one in read if "split" in one.results or one.metric is not None]


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation in a folder.

    Raises:
        ValueError: a file in it is damaged.
    """
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        text = (folder / LINES).read_text(encoding="utf-8") if (folder / LINES).is_file() else ""
        lines = [json.loads(line) for line in text.split("\n") if line]
    except ValueError as error:
        raise ValueError(f"{folder}: a file of this evaluation is damaged ({error}); evaluate again") from error
    kind = _kind(lines)
    return Evaluation(
        folder=folder.name,
        results=results if isinstance(results, dict) else {},
        kind=kind,
        item="image" if (lines and "image" in lines[0]) or "num_images" in results else "video",
        answers=() if kind == "other" else tuple(_answers(lines)),
    )


def _kind(lines: Sequence[Mapping[str, Any]]) -> Kind:
    """By the names that the lines have; a task of one's own may write others."""
    if not lines or not all("video" in line or "image" in line for line in lines):
        return "other"
    if all("label" in line and ("predicted" in line or line.get("failed")) for line in lines):
        return "classes"
    return (
        "label sets" if all("labels" in line and ("top5" in line or line.get("failed")) for line in lines) else "other"
    )


def _answers(lines: Sequence[Mapping[str, Any]]) -> Iterator[Answer]:
    for line in lines:
        path = line["video"] if "video" in line else line["image"]
        yield Answer(
            entry=Entry(path=path, start=line.get("start", 0.0), end=line.get("end")),
            right=tuple(line["labels"] if "labels" in line else [line["label"]]),
            predicted=line.get("predicted", ""),
            scores=line.get("top5", {}),
            failed=bool(line.get("failed")),
        )
