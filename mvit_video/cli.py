"""What the commands share: compose the options with Hydra, check them, print them, and say plainly what is wrong."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mvit_video.config import Train, config_dir, register
from mvit_video.config.check import explain, to_object
from mvit_video.runtime.interruption import EXIT_INTERRUPTED, Interrupted

logger = logging.getLogger(__name__)


def run_command(
    config_name: str, job: Callable[[Any], Any], *, shown: Sequence[str] | None = None, interrupted: str = ""
) -> None:
    """Compose `conf/<config_name>.yaml` with the command line, then run `job(options)`; exits 1 on an error.

    Args:
        config_name: file in conf/.
        job: what the command does.
        shown: the training's options that matter to this command; its own and these are printed. None: all.
        interrupted: what to say to whoever pressed Ctrl-C, besides that it was so.

    Errors of the user's making (ValueError, OSError and the run's own RuntimeErrors) are one message;
    MVIT_VIDEO_TRACEBACK=1 shows where they came from.
    """
    register()

    @hydra.main(config_path=config_dir(), config_name=config_name, version_base="1.3")
    def compose(config: DictConfig) -> None:
        from mvit_video.runtime.logs import TRACEBACK_VARIABLE, configure_logging, traceback_wanted

        configure_logging()
        try:
            job(_in_sweep(_checked(config, shown)))
        except Interrupted as stop:
            logger.warning("%s", stop)
            sys.exit(EXIT_INTERRUPTED)
        except (ValueError, OSError, RuntimeError) as error:
            if traceback_wanted():
                raise
            logger.error("%s", error)
            logger.info("%s=1 before the command shows where that came from", TRACEBACK_VARIABLE)
            sys.exit(1)
        except KeyboardInterrupt:
            logger.warning("interrupted%s", f"; {interrupted}" if interrupted else "")
            sys.exit(130)

    try:
        with _sweep():
            compose()
    except SystemExit as stop:
        # Hydra prints what it refused and exits; add the known options and the nearest name.
        hint = explain(stop.__context__) if stop.code and stop.__context__ else None
        if hint:
            print(hint, file=sys.stderr)
        raise


def _checked(config: DictConfig, shown: Sequence[str] | None) -> Train:
    options = to_object(config)
    if os.environ.get("RANK", "0") == "0":
        left_out = set() if shown is None else {field.name for field in fields(Train)} - set(shown)
        plain: Any = OmegaConf.to_container(config, resolve=True)
        some = {name: value for name, value in plain.items() if name not in left_out}
        logger.info("options:\n%s", OmegaConf.to_yaml(some))
    return options


def _in_sweep(config: Train) -> Train:
    """In a sweep each combination is a run of its own: its name gets the values that are swept over."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return config
    parser = OverridesParser.create()
    swept = {o.key_or_group for o in parser.parse_overrides(_overrides(sys.argv)) if o.is_sweep_override()}
    chosen = [o for o in parser.parse_overrides(list(HydraConfig.get().overrides.task)) if o.key_or_group in swept]
    if "name" not in swept and chosen:
        config.name += "".join(f",{o.key_or_group.split('.')[-1]}={o.get_value_element_as_str()}" for o in chosen)
    return config


def _overrides(arguments: Sequence[str]) -> list[str]:
    return [word for word in arguments[1:] if "=" in word and not word.startswith("-")]


@contextmanager
def _sweep() -> Iterator[None]:
    """Submits the SLURM jobs of a `--multirun` as one job array, after Hydra went through all of them."""
    if not {"--multirun", "-m"} & set(sys.argv):
        yield
        return
    from mvit_video.cluster import submit
    from mvit_video.runtime.logs import configure_logging

    submit.begin_sweep()
    yield
    configure_logging()
    try:
        submit.end_sweep()
    except (ValueError, RuntimeError) as error:
        logger.error("%s", error)
        sys.exit(1)
