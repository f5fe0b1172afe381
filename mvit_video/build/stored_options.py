"""The options that a run or a checkpoint holds, for the commands that come after training.

An evaluation that took its options from the command line alone would measure another model than the one trained: other
frames, another size, another order of classes. So it takes them from the run, and the command line changes single ones.
"""

import copy
import functools
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from mvit_video.config import MViT, Train
from mvit_video.config.help import SCHEMA_SUFFIX
from mvit_video.config.identity import read_options
from mvit_video.config.nearest import did_you_mean
from mvit_video.config.registry import choices_over, schema_of, source_of, task_of
from mvit_video.config.summary import changes
from mvit_video.engine.checkpoints import is_folder_of_shards, latest_checkpoint, load_checkpoint
from mvit_video.exporting.about import is_program, read_about
from mvit_video.models.weights.files import WeightsFile, check_is_file, read_weights_file
from mvit_video.models.weights.zoo import is_published, looks_like_a_path, resolve, unknown_name
from mvit_video.runtime.run_record import folder_of_start

logger = logging.getLogger(__name__)

# Options of a training that say where it ran and is kept, not what it is.
_PLACES = ("launcher", "resume")
# What a model's options repeat of the data's.
_SHARED_WITH_DATA = ("num_classes", "num_frames", "crop_size")


def take_stored_options(config: DictConfig, given: Iterable[str]) -> None:
    """Replace the options by those of the run or checkpoint that `config` names; what the command line gives stays.

    Args:
        config: composed options of an evaluation; changed in place. Its `run`, `checkpoint`, `name` and `output_dir`
            say where to look; `checkpoint` is set to the file of weights. Without any of them nothing is changed.
        given: keys and groups on the command line, such as "data.num_frames" or "data/source".

    Raises:
        ValueError: there is no such run, or it has no checkpoint.
    """
    if config.checkpoint is not None:
        config.checkpoint = fetched(config.checkpoint)
    run_dir = _run_dir(config)
    if run_dir is not None:
        config.name, config.output_dir = run_dir.name, str(run_dir.parent)
        if config.checkpoint is None:
            config.checkpoint = str(best_checkpoint(run_dir))
    if config.checkpoint is None:
        return
    stored = options_of(Path(config.checkpoint), run_dir)
    if stored is not None and OmegaConf.is_missing(config, "name"):
        config.name = stored["name"]
    if stored is None:
        logger.info("%s holds no options of a training: all of them are those of this command", config.checkpoint)
        return
    given = [key.replace("/", ".") for key in given]
    keys = [key for key in given if key.split(".")[0] in stored and key not in _PLACES]
    # Without an experiment the groups that nobody chose need not go together.
    composed: Any = OmegaConf.to_container(config, resolve=True) if "experiment" in given else None
    chosen = {key: _value(config, key) for key in keys}
    with open_dict(config):
        for key in (key for key in stored if key in config and key not in (*_PLACES, "name", "output_dir")):
            _put(config, key, stored[key])
        for key in keys:
            OmegaConf.update(config, key, chosen[key], merge=False, force_add=True)
        _follow_data(config, stored)
        if run_dir is not None:
            _find_places(config, stored, run_dir, given)
    _say(config, stored, composed)


def _say(config: DictConfig, stored: Mapping[str, Any], experiment: Mapping[str, Any] | None) -> None:
    """What the command line changes in the run's options, and what of the experiment does not count."""
    now: Any = OmegaConf.to_container(config, resolve=True)

    def own(values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in values.items() if k in stored and k not in (*_PLACES, "name", "output_dir")}

    changed = changes(own(stored), own(now))
    lines = "".join(f"\n  {key}: {before} -> {after}" for key, before, after in changed)
    where = config.checkpoint
    logger.info("options come from %s%s", where, f"; changed here:{lines}" if lines else "; nothing is changed here")
    passed_over = [] if experiment is None else [key for key, _, _ in changes(own(now), own(experiment))]
    if passed_over:
        logger.info("the run has values of its own where the experiment has others: %s", ", ".join(passed_over))


def _run_dir(config: DictConfig) -> Path | None:
    """The directory of the run that is asked for; None for weights alone."""
    path = None if config.checkpoint is None else Path(config.checkpoint)
    holder = None if path is None else _run_that_holds(path)
    if config.run is not None:
        run_dir = find_run(config.run, output_dir=config.output_dir)
        if path is not None and not path.exists():
            path = next((place for place in (run_dir / path, run_dir / "checkpoints" / path) if place.exists()), path)
            config.checkpoint, holder = str(path), _run_that_holds(path)
        if holder is not None and holder.resolve() != run_dir.resolve():
            raise ValueError(
                f"run={config.run} with checkpoint={config.checkpoint}: the checkpoint is of another run, {holder}; "
                "give one of the two"
            )
        if _is_folder_of_run(path):
            config.checkpoint = None
        return run_dir
    if path is not None:
        if holder is not None and _is_folder_of_run(path):
            config.checkpoint = None
        return holder
    if OmegaConf.is_missing(config, "name"):
        raise ValueError("nothing to evaluate is given: give run=NAME_OR_PATH, or checkpoint=PATH of a file of weights")
    folder = Path(config.output_dir) / config.name
    return folder if (folder / "config.yaml").is_file() else None


def _is_folder_of_run(path: Path | None) -> bool:
    """Whether it is the folder of a run, or of its checkpoints, and not one checkpoint."""
    return path is not None and path.is_dir() and not is_folder_of_shards(path)


def _run_that_holds(path: Path) -> Path | None:
    """The directory of a run that is `path`, or that has its checkpoint or all its checkpoints at `path`."""
    folders = (path, path.parent, path.parent.parent) if path.is_dir() else (path, path.parent.parent)
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def holds_weights(path: Path) -> bool:
    """Whether it is a file, a checkpoint in shards, or the directory of a run or of its checkpoints."""
    return path.is_file() or is_folder_of_shards(path) or (path.is_dir() and _run_that_holds(path) is not None)


def fetched(place: str) -> str:
    """The file of published weights or of a URL, fetched if it is not in the cache; other places as they are.

    Raises:
        ValueError, CheckpointError: see mvit_video.models.weights.resolve.
    """
    return str(resolve(place).path) if is_published(place) else place


def fetch_weights(place: str) -> None:
    """Fetch weights to start from here, before a run is begun: the nodes of a cluster often have no network.

    Raises:
        ValueError: it is a name that no published weights have.
        CheckpointError: they cannot be fetched.
    """
    if not is_published(place) and not looks_like_a_path(place):
        raise ValueError(_no_weights(place))
    fetched(place)


def _no_weights(place: str) -> str:
    return f"weights={unknown_name(place)}; a run is given by its directory, runs/NAME"


def weights_file(place: str) -> str:
    """A file of weights, or, for the directory of a run, its best or newest checkpoint.

    Args:
        place: the name of published weights, a URL, a file, or the directory of a run.

    Raises:
        ValueError: there is nothing there, or the run has no checkpoint.
        CheckpointError: it cannot be fetched.
    """
    place = fetched(place)
    path = Path(place)
    if not path.exists():
        raise ValueError(_no_weights(place))
    if not _is_folder_of_run(path):
        return place
    run_dir = _run_that_holds(path)
    if run_dir is None:
        raise ValueError(
            f"weights={place}: is a folder, and holds no config.yaml of a run; give a file of weights, or runs/NAME"
        )
    return str(best_checkpoint(run_dir))


def find_run(run: str, *, output_dir: str, option: str = "run") -> Path:
    """The directory of a run given by its name or path.

    Args:
        run: name or path.
        output_dir: folder of all runs.
        option: what it was given as, for the error.

    Raises:
        ValueError: there is none; the text names the nearest.
    """
    places = dict.fromkeys((Path(run), Path(output_dir) / run))  # one, where the path is absolute
    for folder in places:
        if (folder / "config.yaml").is_file():
            return folder
    known = sorted(path.parent.name for path in Path(output_dir).glob("*/config.yaml"))
    hint = did_you_mean(run, known, kind=f"runs in {output_dir}") if known else f"there are no runs in {output_dir}"
    first, *second = places
    nowhere = f"neither {first} nor {second[0]} holds the" if second else "the folder holds no"
    raise ValueError(
        f"{option}={run}: {nowhere} config.yaml of a run; relative paths are taken from {Path.cwd()}; {hint}"
    )


def best_checkpoint(run_dir: Path) -> Path:
    """best.pt, or the newest checkpoint of a run that was never validated.

    Raises:
        ValueError: the run has no checkpoint.
    """
    best = run_dir / "checkpoints" / "best.pt"
    if best.is_file():
        logger.info("%s: its best checkpoint is taken, %s", run_dir, best.name)
        return best
    newest = latest_checkpoint(run_dir / "checkpoints")
    if newest is None:
        raise ValueError(f"{run_dir} has no checkpoint yet: train it first, or give the path of a file of weights")
    logger.info("%s was never validated: its newest checkpoint is taken, %s", run_dir, newest.name)
    return newest


def options_of(checkpoint: Path, run_dir: Path | None) -> dict[str, Any] | None:
    """The options a checkpoint was trained with, or an exported file holds; None for a file that holds none of ours."""
    if is_folder_of_shards(checkpoint):
        text: str | None = load_checkpoint(checkpoint)["config"]
    elif not checkpoint.is_file():
        raise ValueError(f"checkpoint={unknown_name(str(checkpoint))}; a run is given by run=NAME")
    elif is_program(checkpoint):
        text = json.dumps(read_about(checkpoint)["config"])
    else:
        held = beside_weights(checkpoint).config
        text = held.text if held is not None and held.kind == "mvit_video" else None
    if text is None and run_dir is not None:
        text = (run_dir / "config.yaml").read_text(encoding="utf-8")
    if text is None:
        return None
    options = copy.deepcopy(_parsed(text))
    # Weights that convert wrote hold the model's configuration alone, which is no way to read videos.
    return options if isinstance(options, dict) and "data" in options else None


def beside_weights(path: Path) -> WeightsFile:
    """What a file of weights holds beside them, its tensors left out; read once as long as it is the same file.

    Raises:
        CheckpointError: as read_weights_file.
    """
    check_is_file(path)
    status = path.stat()
    file = _beside_weights(path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns)
    return replace(file, training=copy.deepcopy(file.training))


@functools.lru_cache(maxsize=8)
def _beside_weights(path: Path, *_: int) -> WeightsFile:
    return replace(read_weights_file(path), tensors={})


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> Any:
    """Stored options as plain values. Reading YAML takes a while, and a command asks several times."""
    return OmegaConf.to_container(OmegaConf.create(text))


def stored_groups(words: Sequence[str]) -> list[str]:
    """Choices of groups that fit the run or checkpoint of a command line, as words in front of it.

    Args:
        words: `option=value` as given. An experiment, or a choice of one of these groups, is left alone.

    Raises:
        ValueError: there is no such run. (Without it, options of images would be refused as unknown.)
    """
    given = given_values(words)
    stored = None if "experiment" in given else _stored_by(given)
    if stored is None:
        return []
    found = []
    for group in ("data", "augment"):
        entry = schema_of(group, stored.get(group) or {})
        if group not in given and entry is not None and entry.name != f"{group}{SCHEMA_SUFFIX}":
            found.append(f"{group}={choices_over(entry)[0]}")
    model = stored.get("model") or {}
    entry = schema_of("model", model)
    # Those of an MViT are there without a choice; a model of the user's own has no schema.
    if "model" not in given and entry is not None and entry.schema is not MViT and _is_made_by(entry.schema, model):
        found.append(f"model={choices_over(entry)[0]}")
    task = task_of((stored.get("task") or {}).get("_target_", ""))
    if task is not None and "task" not in given:
        found.append(f"task={task}")
    source = source_of((stored.get("data", {}).get("source") or {}).get("_target_", ""))
    if source is not None and not {"data", "data/source"} & set(given):
        found.append(f"data/source={source}")
    return found


def _is_made_by(schema: type, options: Mapping[str, Any]) -> bool:
    return getattr(schema, "_target_", None) == options.get("_target_")


def given_values(words: Sequence[str]) -> dict[str, str]:
    """What words of a command line set, without quotes; of a sweep the first value. Others are refused by Hydra."""
    given = {}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:
            continue
        swept = override.is_sweep_override()
        value = next(iter(override.sweep_string_iterator())) if swept else override.value()
        if value is not None:
            given[override.key_or_group] = str(value)
    return given


def _stored_by(given: Mapping[str, str]) -> dict[str, Any] | None:
    """The options of the run or checkpoint; None where there are none. A wrong checkpoint is refused later."""
    output_dir = given.get("output_dir", Train.output_dir)
    places = [str(find_run(given["run"], output_dir=output_dir))] if "run" in given else []
    places += [given["checkpoint"]] if "checkpoint" in given else []
    places += [os.path.join(output_dir, given["name"])] if "name" in given else []
    for place in map(Path, places):
        folder = _run_that_holds(place)
        if folder is not None:
            return read_options(folder / "config.yaml")
    try:
        checkpoint = Path(fetched(given.get("checkpoint", "")))
        return options_of(checkpoint, None) if checkpoint.is_file() else None
    except (ValueError, RuntimeError, OSError):
        return None


def _put(config: DictConfig, key: str, value: Any) -> None:
    """A group with a schema takes what it knows, and the rest is named; another group is taken as it is."""
    entry = schema_of(key, value) if isinstance(value, dict) else None
    node = config[key]
    typed = isinstance(node, DictConfig) and "_target_" not in node
    if entry is not None and typed and OmegaConf.get_type(node) is not entry.schema:
        config[key] = node = OmegaConf.structured(entry.schema)
    if not isinstance(node, DictConfig) or "_target_" in node or OmegaConf.get_type(node) is dict:
        config[key] = value
        return
    unknown = [name for name in value if name not in node]
    if unknown:
        logger.warning("the run's options %s are unknown to this version and left out", [f"{key}.{n}" for n in unknown])
    for name in (name for name in value if name in node):
        OmegaConf.update(config, f"{key}.{name}", value[name], merge=False, force_add=True)


def _follow_data(config: DictConfig, stored: Mapping[str, Any]) -> None:
    """What the model repeats of the data's options changes with them."""
    model, data = stored.get("model") or {}, stored.get("data") or {}
    for name in _SHARED_WITH_DATA:
        if name in model and name in config.model and model[name] == data.get(name):
            config.model[name] = config.data[name]


def _find_places(config: DictConfig, stored: Mapping[str, Any], run_dir: Path, given: Iterable[str]) -> None:
    """Where the run's relative paths to its data lead nowhere from here, take them from where the run was started.

    What the command line gives, a path or a whole source, is its own.
    """
    started, source = folder_of_start(str(stored.get("output_dir", "runs")), run_dir), config.data.source
    if started is None or not isinstance(source, DictConfig) or {"data", "data.source"} & set(given):
        return
    moved = []
    for name in (str(name) for name in source if not OmegaConf.is_missing(source, name)):
        value = source[name]
        own = isinstance(value, str) and f"data.source.{name}" not in given and not os.path.isabs(value)
        if own and not os.path.exists(value) and (started / value).exists():
            source[name] = str(started / value)
            moved.append(f"data.source.{name}")
    if moved:
        logger.info("%s: relative, and taken from %s, where the run was started", ", ".join(moved), started)


def _value(config: DictConfig, key: str) -> Any:
    """An option, or all of a group, as plain values."""
    found = OmegaConf.select(config, key)
    return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
