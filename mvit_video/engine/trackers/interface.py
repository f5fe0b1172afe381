"""What a tracker is to this project. The adapters beside this file, and those of users, keep to it.

A tracker is a function `open_run(RunInfo) -> TrackedRun`. `trainer.trackers` names it: "wandb", "mlflow", "trackio", or
the dotted path of an own function.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinalState = Literal["done", "saved", "failed"]
"""How an attempt at a run ended: complete; saved when it was asked to stop, to go on later; with an error."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a tracker is told of a run when it opens it.

    Attributes:
        name: of the run.
        project: under which the tracker files it.
        run_dir: folder of the run.
        options: of the run, as nested dictionaries.
        earlier: what `TrackedRun.about` said in an earlier attempt of the run, to go on with it; empty in the first.
    """

    name: str
    project: str
    run_dir: str
    options: Mapping[str, Any]
    earlier: Mapping[str, str] = field(default_factory=dict)


class TrackedRun(Protocol):
    """A run that a tracker has opened. It lives in a process of its own: whatever it raises is reported there."""

    def about(self) -> dict[str, str]:
        """What finds the run again, as "id", and where people see it, as "place"; kept in the run directory."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take in numbers after `step` optimizer steps, named "train/loss", "eval/video_top1" and so on.

        A run that goes on after a crash repeats steps: the later numbers count.
        """
        ...

    def note(self, values: Mapping[str, float]) -> None:
        """Take in numbers of the whole run, the later ones replacing the earlier: its best result."""
        ...

    def finish(self, state: FinalState) -> None:
        """End the attempt and wait until everything is written."""
        ...


def flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every option."""
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
