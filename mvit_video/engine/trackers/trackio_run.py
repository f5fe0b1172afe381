"""Trackio. Its own environment variables hold: TRACKIO_DIR (where runs are kept), TRACKIO_SPACE_ID (a Space to log to).

Without TRACKIO_SPACE_ID runs are kept on this machine, and `trackio show` shows them.
"""

from collections.abc import Mapping
from typing import Any

from mvit_video.engine.trackers.interface import FinalState, RunInfo, flat


class TrackioRun:
    """A run of `trackio.init`.

    Args:
        run: what it gave.
        place: where it is.
    """

    def __init__(self, run: Any, *, place: str) -> None:
        self._run = run
        self._place = place
        self._step = 0

    def about(self) -> dict[str, str]:
        """See TrackedRun. Trackio knows a run by its name."""
        return {"id": str(self._run.name), "place": self._place}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See TrackedRun."""
        self._step = max(self._step, step)
        self._run.log(dict(values), step=step)

    def note(self, values: Mapping[str, float]) -> None:
        """See TrackedRun. A run has no numbers of its own, so they are logged at the step they come from."""
        self._run.log(dict(values), step=int(values.get("best/step", self._step)))

    def finish(self, state: FinalState) -> None:
        """See TrackedRun."""
        self._run.log({"state": state}, step=self._step)
        self._run.finish()


def open_run(info: RunInfo) -> TrackioRun:
    """Start or go on with a run; the options are its config."""
    import trackio

    name = info.earlier.get("id", info.name)
    resume = "allow" if info.earlier else "never"
    run = trackio.init(project=info.project, name=name, config=dict(flat(info.options)), resume=resume)
    return TrackioRun(run, place=f"project {info.project}")
