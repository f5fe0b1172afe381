"""Options composed as the commands do, much faster where the same groups are composed again and again."""

import copy
import functools
from collections.abc import Sequence

import hydra
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mvit_video.config import config_dir, register


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """What `hydra.compose` gives: the files of the chosen groups once, and then the values as Hydra sets them.

    Hydra reads and merges some thirty files, which is nearly all of its time, and then sets the values of the command
    line. What is refused is composed by Hydra alone, so that its errors are its own.
    """
    register()
    try:
        parsed = _parser().parse_overrides(list(overrides))
        if any(override.is_sweep_override() for override in parsed):
            return _by_hydra(config_name, overrides)
        groups = [_is_group(override.key_or_group) for override in parsed]
        chosen = tuple(text for text, is_group in zip(overrides, groups) if is_group)
        config = copy.deepcopy(_of_groups(config_name, chosen))
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
def _of_groups(config_name: str, chosen: tuple[str, ...]) -> DictConfig:
    return _by_hydra(config_name, chosen)


@functools.cache
def _is_group(key: str) -> bool:
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return bool(GlobalHydra.instance().config_loader().repository.group_exists(key))  # type: ignore[attr-defined]
