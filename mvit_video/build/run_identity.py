"""What a run is: options, classes, data and code. Kept in its directory and checkpoints, compared before it goes on.

`run.json` and `config.yaml` are written when a run begins and never again. An attempt that goes on with something else
(`resume=force`) leaves `run.N.json` and `config.N.yaml` beside them, and an event in the journal that lists what
differs.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import mvit_video
from mvit_video.build.agreement import check_same
from mvit_video.config import Train
from mvit_video.config.identity import differing_options, read_options
from mvit_video.data.datasets.class_names import listed
from mvit_video.distributed.process_group import World, from_main
from mvit_video.engine.checkpoints import latest_checkpoint, load_checkpoint
from mvit_video.models.weights.files import CheckpointError
from mvit_video.runtime import env
from mvit_video.runtime.files import write_text
from mvit_video.runtime.journal import append_event
from mvit_video.runtime.run_record import RUN_FILE, read_object, record_file

logger = logging.getLogger(__name__)

_FORMAT = 1
_CLASSES = "classes"


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """One split.

    Attributes:
        source: file or folder that it was read from.
        items: how many it has.
        fingerprint: of names and labels.
        category_ids: of detection, the number that the file gives each class, in the order of the classes.
    """

    source: str
    items: int
    fingerprint: str
    category_ids: Sequence[int] | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON and checkpoints hold it, without what the task does not have."""
        found = {"source": self.source, "items": self.items, "fingerprint": self.fingerprint}
        return found if self.category_ids is None else {**found, "category_ids": list(self.category_ids)}


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What a run computes, besides its options.

    Attributes:
        class_names: in the order of the model's outputs.
        items_per_step: videos of one optimizer step over all ranks.
        data: the splits by name.
        version: of mvit_video.
        git_commit, git_dirty: of its checkout; None outside of one.
    """

    class_names: list[str]
    items_per_step: int
    data: dict[str, DataRecord]
    version: str
    git_commit: str | None
    git_dirty: bool | None

    @classmethod
    def of(cls, *, class_names: Sequence[str], items_per_step: int, data: Mapping[str, DataRecord]) -> "RunIdentity":
        """The identity of a run of this code."""
        commit, dirty = env.git_state(Path(mvit_video.__file__).resolve())
        return cls(
            class_names=list(class_names),
            items_per_step=items_per_step,
            data=dict(data),
            version=mvit_video.__version__,
            git_commit=commit,
            git_dirty=dirty,
        )

    def plain(self) -> dict[str, Any]:
        """As JSON and checkpoints hold it."""
        return {"format": _FORMAT, **asdict(self), "data": {name: one.plain() for name, one in self.data.items()}}

    def compared(self) -> dict[str, Any]:
        """What all ranks of a run have in common, wherever on their machines the files lie."""
        data = {split: {"items": one.items, "fingerprint": one.fingerprint} for split, one in self.data.items()}
        return {"version": self.version, "classes": self.class_names, **data}


def begin_or_go_on(config: Train, identity: RunIdentity, world: World) -> None:
    """Record a run that begins; refuse to go on with one that would compute something else from here. Rank 0 looks.

    Raises:
        ValueError: on every rank: what differs and the two ways out; or what ranks have otherwise than rank 0.
    """
    check_same(identity.compared(), world)
    problem = from_main(_begin_or_go_on(config, identity) if world.is_main else None, world)
    if problem:
        raise ValueError(problem)


def _begin_or_go_on(config: Train, identity: RunIdentity) -> str | None:
    folder = config.run_dir
    if not _has_begun(folder):
        if (folder / "checkpoints" / "best.pt").exists():
            return (
                f"{folder} holds the weights of a run, checkpoints/best.pt, and no checkpoint step_*.pt to go on from; "
                "starting again would overwrite its weights, curves and options. Ways out: name=ANOTHER_NAME starts "
                f"another run (with weights={folder} from these weights); or move {folder} away, or remove it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, config, identity, number=1)
        return None
    try:
        differences = _differences(folder, config, identity)
    except (ValueError, CheckpointError) as error:
        return str(error)
    if not differences:
        _restore(folder, config, identity)
        return None
    if any(name == _CLASSES for name, _, _ in differences):
        return (
            f"{folder} holds a model of other classes: "
            f"{next(f'{b} -> {a}' for n, b, a in differences if n == _CLASSES)}. Its outputs would stand for the wrong "
            "names, and resume=force cannot change that. Start a run of its own from the weights: "
            f"name=ANOTHER_NAME weights={folder}, or restore the classes' names"
        )
    lines = "\n".join(f"  {name}: {before} -> {now}" for name, before, now in differences)
    if config.resume != "force":
        return (
            f"{folder} holds a run that began otherwise, and going on would change what it computes:\n{lines}\n"
            "Ways out: name=ANOTHER_NAME starts a run of its own; resume=force goes on with what is given now, and "
            "the run's journal records it"
        )
    logger.warning("resume=force: %s goes on with\n%s", folder, lines)
    number = 2
    while (folder / f"run.{number}.json").exists():
        number += 1
    _write(folder, config, identity, number=number)
    append_event(folder, "forced", differences="; ".join(f"{n}: {b} -> {a}" for n, b, a in differences), record=number)
    return None


def _has_begun(folder: Path) -> bool:
    """Whether there is anything to go on from; without a checkpoint nothing was computed that could be mixed."""
    return any((folder / "checkpoints").glob("step_*"))


def _differences(folder: Path, config: Train, identity: RunIdentity) -> list[tuple[str, str, str]]:
    """What the run was last recorded with, and what it would go on with.

    Raises:
        ValueError, CheckpointError: the record is damaged, or gone.
    """
    options, before = _recorded(folder)
    now: Any = OmegaConf.to_container(OmegaConf.structured(config))
    found = differing_options(config, options, now)
    if before is not None:
        found += _identity_differences(before, identity)
    return found


def recorded_options(folder: Path) -> dict[str, Any] | None:
    """The options that the run in `folder` was last recorded with, as nested dictionaries; None if it has not begun."""
    return _recorded(folder)[0] if _has_begun(folder) else None


def _recorded(folder: Path) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """Options and identity that a run was last recorded with; the newest checkpoint tells what has no file any more.

    Runs of version 0.1 have no identity.

    Raises:
        ValueError, CheckpointError: the record is damaged, or gone.
    """
    config_file, run_file = record_file(folder, "config.yaml"), record_file(folder, RUN_FILE)
    held: Mapping[str, Any] = {}
    if not (config_file.exists() and run_file.exists()):
        newest = latest_checkpoint(folder / "checkpoints")
        held = {} if newest is None else load_checkpoint(newest)
    if not config_file.exists() and "config" not in held:
        raise ValueError(
            f"{folder} has checkpoints, and neither {config_file.name} nor a checkpoint that can be read says what "
            f"they are of: restore {config_file.name} from a copy, or move {folder} away to start from the beginning"
        )
    options: Any = (
        read_options(config_file) if config_file.exists() else OmegaConf.to_container(OmegaConf.create(held["config"]))
    )
    return options, read_object(run_file) if run_file.exists() else held.get("run")


def _identity_differences(before: Mapping[str, Any], now: RunIdentity) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    if before["version"] != now.version:
        found.append(("version of mvit_video", before["version"], now.version))
    if before["items_per_step"] != now.items_per_step:
        found.append(("global batch", str(before["items_per_step"]), str(now.items_per_step)))
    if before["class_names"] != now.class_names:
        gone = [name for name in before["class_names"] if name not in now.class_names]
        new = [name for name in now.class_names if name not in before["class_names"]]
        was = f"without {listed(gone)}" if gone else "the same names"
        found.append((_CLASSES, was, f"with {listed(new)}" if new else "reordered"))
    for split, record in before["data"].items():
        mine = now.data.get(split)
        if mine is None:
            found.append((f"{split} split", f"{record['items']} samples", "none"))
        elif mine.fingerprint != record["fingerprint"]:
            was = f"{record['items']} samples of {record['source']} ({record['fingerprint']})"
            found.append((f"{split} split", was, f"{mine.items} samples of {mine.source} ({mine.fingerprint})"))
    commits = before["git_commit"], now.git_commit
    if None not in commits and commits[0] != commits[1]:
        logger.warning("the run began with commit %s of mvit_video and goes on with %s", *commits)
    return found


def _restore(folder: Path, config: Train, identity: RunIdentity) -> None:
    """Write what is lost of the newest record of a run that goes on with nothing else: its options, its identity.

    The environment that it was recorded in is not known any more.
    """
    texts = {"config.yaml": _options_text(config), RUN_FILE: _identity_text(identity)}
    for name, text in texts.items():
        path = record_file(folder, name)
        if not path.exists():
            write_text(path, text)


def _options_text(config: Train) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _identity_text(identity: RunIdentity) -> str:
    return json.dumps(identity.plain(), indent=2, ensure_ascii=False) + "\n"


def _write(folder: Path, config: Train, identity: RunIdentity, *, number: int) -> None:
    """Write the record of an attempt; number 1: of a run that begins."""
    middle = "" if number == 1 else f".{number}"
    files = {
        f"config{middle}.yaml": _options_text(config),
        f"run{middle}.json": _identity_text(identity),
        f"environment{middle}.json": json.dumps(env.describe_environment(), indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in files.items():
        write_text(folder / name, text)
