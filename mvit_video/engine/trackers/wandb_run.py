"""Weights & Biases. Its own environment variables hold: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY, WANDB_API_KEY.

Files lie in `wandb/` in the run directory; `wandb sync` uploads what an offline run left there.
"""

import os
import uuid
from collections.abc import Mapping
from typing import Any

from mvit_video.engine.trackers.interface import FinalState, RunInfo

_STEP = "step"


class WandbRun:
    """A run of `wandb.init`.

    Args:
        run: what it gave.
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def about(self) -> dict[str, str]:
        """See TrackedRun."""
        offline = bool(self._run.offline)
        return {"id": str(self._run.id), "place": f"offline in {self._run.dir}" if offline else str(self._run.url)}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See TrackedRun. The step is a value like others: its own counter refuses to go back after a crash."""
        self._run.log({_STEP: step, **values})

    def note(self, values: Mapping[str, float]) -> None:
        """See TrackedRun."""
        self._run.summary.update(dict(values))

    def finish(self, state: FinalState) -> None:
        """See TrackedRun. A run that was saved, to go on later, shows as preempted."""
        self._run.summary.update({"state": state})
        if state == "saved":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if state == "done" else 1)


def open_run(info: RunInfo) -> WandbRun:
    """Start or go on with a run; the options are its config."""
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", info.project),
        id=info.earlier.get("id") or uuid.uuid4().hex[:12],
        name=info.name,
        dir=info.run_dir,
        config=dict(info.options),
        allow_val_change=True,
        resume="allow",
        settings=wandb.Settings(console="off"),
    )
    run.define_metric(_STEP)
    run.define_metric("*", step_metric=_STEP)
    return WandbRun(run)
