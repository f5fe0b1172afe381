"""Which answers are wrong, how confident they are, and which classes are taken for which."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mvit_video.metrics import ViewScores
from mvit_video.reporting.answers import read_evaluation, read_evaluations
from mvit_video.reporting.mistakes import agreement, confused_pairs, confusion, count_mistakes, most_confident
from tests.reporting.written_runs import (
    CLASSES,
    FILES,
    LABELS,
    evaluate,
    image_manifest,
    label_set_manifest,
    segment_manifest,
    sure_of,
    video_manifest,
)


def names(found: list) -> list[str]:
    return [Path(mistake.entry.path).name for mistake in found]


def test_the_most_confident_come_first_with_what_each_run_says(written: Path) -> None:
    both = [read_evaluation(written / name / "evaluation") for name in ("first <b>run", "second")]
    found = most_confident(dict(enumerate(both)), 10)
    assert names(found) == [FILES[2], FILES[0], FILES[1], FILES[5]]
    assert [mistake.confidence for mistake in found] == pytest.approx([0.95, 0.9, 0.9, 0.8])
    first, second = found[0].said
    assert (first.run, first.right, second.run, second.right, second.name) == (0, True, 1, False, CLASSES[3])
    assert found[1].right == (CLASSES[0],)
    assert found[1].said[0].own == pytest.approx(0.1 / 3, abs=1e-5)
    assert names(most_confident(dict(enumerate(both)), 2)) == [FILES[2], FILES[0]]
    # What one run could not read is no mistake of it.
    assert FILES[4] not in names(most_confident({0: both[0]}, 10))


def test_confusion_is_that_of_the_scores(written: Path) -> None:
    evaluation = read_evaluation(written / "first <b>run" / "evaluation")
    scores = ViewScores(num_videos=6, num_views=1, num_classes=4)
    probabilities = [*sure_of(1, 0, 2, 3, 1), *sure_of(1, score=0.4)]
    lost = np.arange(6) == 4
    scores.add(np.arange(6), np.zeros(6, np.int64), np.asarray(probabilities), failed=lost)
    found = confusion(evaluation, limit=10)
    assert found.counts.tolist() == scores.confusion(np.array(LABELS)).tolist()
    assert (found.left_out, found.totals) == (0, [1, 2, 1, 1])
    assert count_mistakes(evaluation) == 2
    assert confused_pairs(evaluation, limit=1) == [(CLASSES[1], CLASSES[0], 1, 2)]
    few = confusion(evaluation, limit=2)  # the classes of the confusions, in the model's order
    assert (few.names, few.left_out, few.totals) == (list(CLASSES[:2]), 2, [1, 2])


def test_confusion_of_many_classes_takes_no_more_memory_than_what_is_shown(written: Path) -> None:
    """All cells of 200,000 classes are 320 GB."""
    evaluation = read_evaluation(written / "first <b>run" / "evaluation")
    more = [*evaluation.class_names, *(f"another {number}" for number in range(200_000))]
    found = confusion(replace(evaluation, results={**evaluation.results, "class_names": more}), limit=2)
    assert (found.names, found.left_out, found.totals) == (list(CLASSES[:2]), 200_002, [1, 2])
    assert found.counts.tolist() == confusion(evaluation, limit=10).counts[:2, :2].tolist()


def test_two_runs_on_the_same_entries(written: Path, tmp_path: Path) -> None:
    first, second = (read_evaluation(written / name / "evaluation") for name in ("first <b>run", "second"))
    cells = agreement(first, second)
    assert cells is not None
    assert (cells.entries, cells.both, cells.first, cells.second, cells.neither) == (6, 1, 2, 3, 0)
    evaluate(tmp_path, video_manifest([f"{number}.mp4" for number in range(6)]), sure_of(*LABELS))
    assert agreement(first, read_evaluation(tmp_path / "evaluation")) is None


def test_another_class_that_is_right_too_is_no_mistake(tmp_path: Path) -> None:
    manifest = image_manifest(["0.png", "1.png", "2.png"], several=True)
    results = evaluate(tmp_path, manifest, sure_of(1, 1, 3))
    evaluation = read_evaluation(tmp_path / "evaluation")
    assert (evaluation.kind, evaluation.item) == ("classes", "image")
    assert names(most_confident({0: evaluation}, 10)) == ["2.png"]
    assert count_mistakes(evaluation) == 1 == round(3 * (1 - results["top1"] / 100))
    assert confusion(evaluation, limit=4).counts.tolist()[1] == [0, 2, 0, 0]


def test_of_several_classes_the_likeliest_wrong_one_counts(tmp_path: Path) -> None:
    scores = [[0.9, 0.8, 0.7, 0.1], [0.2, 0.95, 0.9, 0.1], [0.1, 0.1, 0.1, 0.9]]
    evaluate(tmp_path, label_set_manifest(["a.mp4", "b.mp4", "c.mp4"]), scores)
    evaluation = read_evaluation(tmp_path / "evaluation")
    assert evaluation.kind == "label sets"
    found = most_confident({0: evaluation}, 2)
    assert names(found) == ["b.mp4", "a.mp4"]
    assert [mistake.said[0].name for mistake in found] == [CLASSES[1], CLASSES[2]]
    assert found[1].right == CLASSES[:2]


def test_stretches_of_one_file_are_entries_of_their_own(tmp_path: Path) -> None:
    evaluate(tmp_path, segment_manifest("long.mp4"), sure_of(1, 3))
    evaluation = read_evaluation(tmp_path / "evaluation")
    entries = [(answer.entry.start, answer.entry.end) for answer in evaluation.answers]
    assert entries == [(0.0, 0.6), (0.6, None)]
    assert [(mistake.entry.start, mistake.entry.whole) for mistake in most_confident({0: evaluation}, 9)] == [
        (0.0, False)
    ]


def test_a_task_of_ones_own_has_scores_and_nothing_else(tmp_path: Path) -> None:
    for folder, line in (("evaluation", {"video": "a.mp4", "rating": 3}), ("a", {"boxes": []})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "results.json").write_text('{"error": 0.5, "split": "val"}')
        (tmp_path / folder / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results.json").write_text('{"split": "val"}')  # without a line for each video
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "results.json").write_text("{}")  # those of `predict`
    found = read_evaluations(tmp_path)
    assert [(one.folder, one.kind, len(one.answers)) for one in found] == [
        ("evaluation", "other", 0), ("a", "other", 0), ("b", "other", 0),
    ]  # fmt: skip
    assert most_confident(dict(enumerate(found)), 5) == []


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    evaluate(tmp_path, image_manifest(["0.png", "1.png", "2.png"]), sure_of(0, 1, 2))
    with open(tmp_path / "evaluation" / "predictions.jsonl", "a") as file:
        file.write("{")
    with pytest.raises(ValueError, match=r"evaluation: a file of this evaluation is damaged .*; evaluate again"):
        read_evaluation(tmp_path / "evaluation")
