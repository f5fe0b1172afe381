"""The steps in the order in which they run. A new one is a file with `measure(context)` and a line here."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    Attributes:
        name: on the command line and in the results.
        title: its heading in the report.
        module: has `measure(context)`, which may import torch; the runner does not.
        seconds: after which it is ended.
        parts: processes that share its cases and run at the same time; 1 for whatever is timed.
    """

    name: str
    title: str
    module: str
    seconds: float
    parts: int = 1


STEPS = (
    Step(name="card", title="The card", module="gpu.step_card", seconds=30),
    Step(name="correctness", title="Correctness", module="gpu.step_correctness", seconds=150, parts=12),
    Step(name="training", title="Training step of S 16x4", module="gpu.step_training", seconds=200),
    Step(name="profile", title="Distance to the limit, by kind of kernel", module="gpu.step_profile", seconds=60),
    Step(name="determinism", title="Determinism", module="gpu.step_determinism", seconds=75),
    Step(name="forms", title="Forms of attention and pooling, by block", module="gpu.step_forms", seconds=60),
    Step(name="largest", title="Largest batch of B and L", module="gpu.step_largest", seconds=60),
    Step(name="images", title="Image model T beside timm's", module="gpu.step_images", seconds=140),
    Step(name="detector", title="Mask R-CNN T at 1024 pixels", module="gpu.step_detector", seconds=70),
    Step(name="data", title="From files to the step", module="gpu.step_data", seconds=60),
)


def chosen_steps(names: list[str] | None) -> tuple[Step, ...]:
    """The named steps in the order of STEPS; all of them without names.

    Raises:
        ValueError: a name is unknown.
    """
    known = [step.name for step in STEPS]
    for name in names or []:
        if name not in known:
            raise ValueError(f"no step is called {name!r}; the steps are {', '.join(known)}")
    return tuple(step for step in STEPS if not names or step.name in names)
