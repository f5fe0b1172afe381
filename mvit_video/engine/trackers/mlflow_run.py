"""MLflow. Its own environment variables hold: MLFLOW_TRACKING_URI (server or local place), MLFLOW_EXPERIMENT_NAME.

Without MLFLOW_TRACKING_URI the runs go where MLflow puts them by itself: `mlflow ui` in the same folder shows them.
"""

import os
import re
import time
from collections.abc import Mapping
from typing import Any

from mvit_video.engine.trackers.interface import FinalState, RunInfo, flat

_STATES: dict[FinalState, str] = {"done": "FINISHED", "saved": "KILLED", "failed": "FAILED"}
_MOST_PARAMS = 100  # of a request
_LONGEST_PARAM = 6000
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")


class MlflowRun:
    """A run of an MLflow server or of a local store.

    Args:
        client: an MlflowClient.
        run_id: of the run.
        place: where it is.
    """

    def __init__(self, client: Any, run_id: str, *, place: str) -> None:
        self._client = client
        self._id = run_id
        self._place = place

    def about(self) -> dict[str, str]:
        """See TrackedRun."""
        return {"id": self._id, "place": self._place}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See TrackedRun."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(
            self._id, metrics=[Metric(_NOT_IN_NAMES.sub("_", name), value, now, step) for name, value in values.items()]
        )

    def note(self, values: Mapping[str, float]) -> None:
        """See TrackedRun."""
        self.log(0, values)

    def options(self, options: Mapping[str, Any]) -> None:
        """The options as parameters. A parameter never changes: another value in a resumed run is a tag."""
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(self._id).data.params
        values = {name: str(value)[:_LONGEST_PARAM] for name, value in flat(options)}
        new = [Param(name, value) for name, value in values.items() if name not in known]
        changed = [
            RunTag(f"resumed_with.{name}", value) for name, value in values.items() if known.get(name, value) != value
        ]
        for start in range(0, len(new), _MOST_PARAMS):
            self._client.log_batch(self._id, params=new[start : start + _MOST_PARAMS])
        for start in range(0, len(changed), _MOST_PARAMS):
            self._client.log_batch(self._id, tags=changed[start : start + _MOST_PARAMS])

    def finish(self, state: FinalState) -> None:
        """See TrackedRun. A run that was saved, to go on later, shows as killed until then."""
        self._client.set_tag(self._id, "state", state)
        self._client.set_terminated(self._id, _STATES[state])


def open_run(info: RunInfo) -> MlflowRun:
    """Start or go on with a run; the options are its parameters."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    run_id = info.earlier.get("id")
    if run_id is not None:
        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run_id = None  # another store, or removed there; the training says that the id is a new one
    if run_id is None:
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", info.project)
        experiment = client.get_experiment_by_name(project)
        number = client.create_experiment(project) if experiment is None else experiment.experiment_id
        run_id = client.create_run(number, run_name=info.name, tags={"run_dir": info.run_dir}).info.run_id
    run = MlflowRun(client, run_id, place=f"in {mlflow.get_tracking_uri()}")
    run.options(info.options)
    return run
