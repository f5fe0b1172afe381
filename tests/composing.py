"""Options composed as the commands do, much faster where the same groups are composed again and again."""

import copy
import functools
import pickle
from collections.abc import Sequence
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mvit_video.config import config_dir, register


class _ReadOnce(ConfigRepository):
    """Hydra's, with every file of the package and every schema read once in a process, and nothing copied in vain.

    Hydra reads them anew for each composition, and copies all schemas with the repository.
    """

    _read: dict[tuple[str, str], tuple[Any, bytes]] = {}  # noqa: RUF012 - of the process

    def __deepcopy__(self, memo: object) -> "_ReadOnce":
        return copy.copy(self)  # other sources replace its list, and change nothing in it

    def load_config(self, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or (source.scheme() == "file" and source.path != config_dir()):
            return super().load_config(config_path)
        # A schema may be stored again under its name.
        stored = ConfigStore.instance()._load(f"{config_path}.yaml") if source.scheme() == "structured" else None
        key = source.full_path(), config_path
        if key not in self._read or self._read[key][0] is not stored:
            self._read[key] = stored, pickle.dumps(super().load_config(config_path), pickle.HIGHEST_PROTOCOL)
        result: ConfigResult = pickle.loads(self._read[key][1])
        return result


_PLAIN = config_loader_impl.ConfigRepository, defaults_list._create_interpolation_map


def _map_if_needed(overrides: Any, defaults: list[Any], self_added: bool) -> DictConfig | None:
    """What a list of defaults looks `${...}` up in: Hydra makes it for every file, a quarter of its time."""
    interpolated = any(default.is_interpolation() for default in defaults)
    return _PLAIN[1](overrides, defaults, self_added) if interpolated else None


def read_once(wanted: bool = True) -> None:
    """Let the compositions of this process, those of commands too, do once what Hydra does for each; or no longer."""
    parts: Any = (_ReadOnce, _map_if_needed) if wanted else _PLAIN
    config_loader_impl.ConfigRepository, defaults_list._create_interpolation_map = parts


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """What `hydra.compose` gives: the files of the chosen groups once, and then the values as Hydra sets them.

    Hydra reads and merges some thirty files, which is nearly all of its time, and then sets the values of the command
    line. What is refused is composed by Hydra alone, so that its errors are its own.
    """
    register()
    try:
        parsed = _parser().parse_overrides(list(overrides))
        if any(override.is_sweep_override() or override.is_hydra_override() for override in parsed):
            return _by_hydra(config_name, overrides)
        groups = [_is_group(override.key_or_group) for override in parsed]
        chosen = tuple(text for text, is_group in zip(overrides, groups) if is_group)
        config: DictConfig = pickle.loads(_of_groups(config_name, chosen))  # nine times faster than a deep copy
        values = [override for override, is_group in zip(parsed, groups) if not is_group]
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except (HydraException, OmegaConfBaseException):
        return _by_hydra(config_name, overrides)
    return config


def _by_hydra(config_name: str, overrides: Sequence[str]) -> DictConfig:
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return hydra.compose(config_name, overrides=list(overrides))


_parser = functools.cache(OverridesParser.create)


@functools.cache
def _of_groups(config_name: str, chosen: tuple[str, ...]) -> bytes:
    return pickle.dumps(_by_hydra(config_name, chosen), pickle.HIGHEST_PROTOCOL)


@functools.cache
def _is_group(key: str) -> bool:
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return bool(GlobalHydra.instance().config_loader().repository.group_exists(key))  # type: ignore[attr-defined]
