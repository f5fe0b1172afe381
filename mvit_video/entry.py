"""What the commands share: compose the options with Hydra, check them, print them, and say plainly what is wrong."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from mvit_video.config import Train, config_dir, register
from mvit_video.config_check import explain, to_object

logger = logging.getLogger(__name__)


def run_command(config_name: str, job: Callable[[Any], Any]) -> None:
    """Compose `conf/<config_name>.yaml` with the command line, then run `job(options)`; exits 1 on an error.

    Errors of the user's making (ValueError, OSError and the run's own RuntimeErrors) are one message;
    MVIT_VIDEO_TRACEBACK=1 shows where they came from.
    """
    register()

    @hydra.main(config_path=config_dir(), config_name=config_name, version_base="1.3")
    def compose(config: DictConfig) -> None:
        from mvit_video.launch import TRACEBACK, configure_logging

        configure_logging()
        try:
            job(_checked(config))
        except (ValueError, OSError, RuntimeError) as error:
            if os.environ.get(TRACEBACK):
                raise
            logger.error("%s", error)
            logger.info("%s=1 before the command shows where that came from", TRACEBACK)
            sys.exit(1)
        except KeyboardInterrupt:
            logger.warning("interrupted; the same command goes on from the last checkpoint")
            sys.exit(130)

    try:
        compose()
    except SystemExit as stop:
        # Hydra prints what it refused and exits; add the known options and the nearest name.
        hint = explain(stop.__context__) if stop.code and stop.__context__ else None
        if hint:
            print(hint, file=sys.stderr)
        raise


def _checked(config: DictConfig) -> Train:
    options = to_object(config)
    if os.environ.get("RANK", "0") == "0":
        logger.info("options:\n%s", OmegaConf.to_yaml(config, resolve=True))
    return options
