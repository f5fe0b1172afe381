"""The accuracies of a run with their intervals: of all videos, of unseen recordings, of frames in other orders."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvit_video.auditing.verdict import Verdict, counted
from mvit_video.metrics import bootstrap_mean_ci95
from mvit_video.runtime.intervals import wilson_ci95

_AGREE = 0.005  # points: the same number, but for rounding
FEW = 30  # videos, or recordings: a bootstrap interval is too narrow for fewer


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number and where it comes from.

    Attributes:
        name: what was measured.
        protocol: views and order of the frames, in words.
        value: per cent.
        interval: 95 %, of resampled videos; None where there is none to give.
        by_recording: the same of resampled recordings; None where they are not known, or where there is only one.
        videos: it is of so many.
        recordings: of which the videos are takes; None where that is not known.
    """

    name: str
    protocol: str
    value: float | None
    interval: tuple[float, float] | None
    videos: int
    by_recording: tuple[float, float] | None = None
    recordings: int | None = None

    @property
    def few(self) -> str:
        """What there are too few of for an interval to be wide enough, in words; empty where there are enough."""
        if self.videos < FEW:
            return "videos"
        return "recordings" if self.recordings is not None and self.recordings < FEW else ""


def accuracy_of(
    name: str,
    correct: npt.NDArray[np.bool_],
    *,
    protocol: str,
    recordings: npt.NDArray[np.int64] | None = None,
) -> Measured:
    """Share of the videos that are right, with its intervals.

    Args:
        correct: bool (N,).
        recordings: (N,) which videos are takes of one recording.
    """
    if not len(correct):
        return Measured(name=name, protocol=protocol, value=None, interval=None, videos=0)
    apart = None if recordings is None else len(np.unique(recordings))
    return Measured(
        name=name,
        protocol=protocol,
        value=100.0 * float(correct.mean()),
        interval=_interval(correct, None),
        by_recording=None if apart in (None, 1, len(correct)) else _interval(correct, recordings),
        videos=len(correct),
        recordings=apart,
    )


def _interval(correct: npt.NDArray[np.bool_], recordings: npt.NDArray[np.int64] | None) -> tuple[float, float]:
    """95 %, of resampled videos or recordings, in per cent; Wilson's where all are right, or none."""
    if correct.all() or not correct.any():
        drawn = len(correct) if recordings is None else len(np.unique(recordings))
        return wilson_ci95(drawn if correct.all() else 0, drawn)
    return bootstrap_mean_ci95(100.0 * correct, recordings)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What frames in another order change, over the same videos.

    Attributes:
        order: "single", "shuffled" or "reversed".
        points: accuracy in this order minus that of the frames in order, so that a loss is below 0.
        interval: 95 %, of videos (or recordings) drawn together with both of their answers.
    """

    order: str
    points: float
    interval: tuple[float, float]


def difference(
    order: str,
    forward: npt.NDArray[np.bool_],
    other: npt.NDArray[np.bool_],
    recordings: npt.NDArray[np.int64] | None,
) -> Difference:
    """What an order changes, in points; of one recording alone, the interval is of its videos."""
    if recordings is not None and len(np.unique(recordings)) == 1:
        recordings = None  # drawn again and again it would always give the same
    points = 100.0 * (other.astype(np.float64) - forward)
    return Difference(order=order, points=float(points.mean()), interval=bootstrap_mean_ci95(points, recordings))


def number_verdict(main: Measured, logged: Measured | None, again: Measured, *, metric: str) -> Verdict:
    """Whether the number is what the training logged, and how far it may be off by chance.

    Args:
        main: of the test's protocol.
        logged: of the validation at the checkpoint's step, as the training logged it.
        again: the same, measured now under the same protocol.
        metric: its name.
    """
    parts, level, step = [], "fine", ""
    if main.value is not None and main.interval is not None:
        ends = [main.interval, main.by_recording or main.interval]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        parts.append(
            f"{main.value:.1f} % of {counted(main.videos, 'video')}; other videos of the same kind may well give "
            f"{low:.0f} to {high:.0f} %."
        )
        if main.few:
            level = "look"
            if main.few == "recordings":
                parts.append(f"They are takes of {counted(main.recordings or 0, 'recording')}.")
            parts.append(f"With fewer than {FEW} {main.few} even this interval is too narrow.")
            step = "test on more videos, or on each video once with data.folds=5 (docs/audit.md)"
        elif high - low > 10:
            level = "look"
            parts.append("Two runs whose numbers lie closer than that cannot be told apart.")
            step = "test on more videos, or on each video once with data.folds=5 (docs/audit.md)"
    elif main.value is not None:
        level = "look"
        parts.append(f"{metric} is {main.value:.2f} for {counted(main.videos, 'video')}; it has no interval here.")
    if logged is not None and logged.value is not None and again.value is not None:
        if math.isclose(logged.value, again.value, abs_tol=_AGREE):
            parts.append("Measured again under the protocol of the validation, it is what the training logged.")
        else:
            level = "bad"
            parts.append(
                f"The training logged {logged.value:.2f} % and the same protocol now gives {again.value:.2f} %: files, "
                "options or arithmetic are no longer those of the training."
            )
            step = "compare data and versions with run.json and environment.json of the run"
    return Verdict(level=level, text=" ".join(parts), next_step=step)  # type: ignore[arg-type]


def unseen_verdict(seen: Measured, unseen: Measured) -> Verdict:
    """How much of the number is owed to recordings that were trained on."""
    if not seen.videos:
        return Verdict(level="fine", text="No video has its recording in the training, as far as was found.")
    assert seen.value is not None
    if unseen.value is None:
        return Verdict(
            level="bad",
            text="Every video has its recording in the training, so nothing is known of new recordings.",
            next_step="split again by the groups found",
        )
    text = f"{unseen.value:.1f} % where the recording is new, {seen.value:.1f} % where it was trained on."
    if unseen.few:
        number = unseen.videos if unseen.few == "videos" else unseen.recordings or 0
        return Verdict(
            level="bad",
            text=f"{text} The first is of {counted(number, unseen.few.removesuffix('s'))} only, too few to report.",
            next_step="train again on a split by recording",
        )
    return Verdict(
        level="bad",
        text=f"{text} The first number is the one to report.",
        next_step="report the first number with its interval, or train again on a split by recording",
    )


def order_verdict(differences: dict[str, Difference]) -> Verdict:
    """What the model makes of motion and of the order of frames."""
    if not differences:
        text = "Compare the numbers; for this task there are no intervals to say what may be chance."
        return Verdict(level="look", text=text)
    parts = []
    single, shuffled = differences["single"], differences["shuffled"]
    uses_motion = single.interval[1] < 0
    uses_order = shuffled.interval[1] < 0
    if uses_motion or uses_order:
        what = " and ".join(["more than one picture"] * uses_motion + ["the order of the frames"] * uses_order)
        parts.append(f"The model uses {what}.")
    else:
        parts.append("Nothing here shows that the model uses more than single pictures.")
    parts.append(f"One frame alone: {_points(single)}; shuffled: {_points(shuffled)}.")
    if "reversed" in differences:
        parts.append(f"Backwards: {_points(differences['reversed'])}.")
    parts.append("It was not trained on such clips, so some of a loss may be owed to their strangeness alone.")
    fine = uses_motion or uses_order
    step = (
        ""
        if fine
        else (
            "fine if the classes differ in what is seen; if they differ in what happens, look for what gives the class "
            "away in one picture (place, person, camera), and compare with a model trained on single frames"
        )
    )
    return Verdict(level="fine" if fine else "look", text=" ".join(parts), next_step=step)


def _points(found: Difference) -> str:
    low, high = found.interval
    return f"{found.points:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
