"""What the commands share: compose the options with Hydra, check them, print them, and say plainly what is wrong."""

import hashlib
import io
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mvit_video.config import Train, config_dir, register
from mvit_video.config.check import to_object
from mvit_video.config.help import help_text
from mvit_video.config.mistakes import explain
from mvit_video.config.summary import Composed, summary_text
from mvit_video.runtime.formatting import count_text
from mvit_video.runtime.interruption import EXIT_INTERRUPTED, Interrupted
from mvit_video.runtime.output import write_out

logger = logging.getLogger(__name__)
ALL_OPTIONS = "MVIT_VIDEO_ALL_OPTIONS"  # set in the environment: every option is printed, as YAML
_FULL_ERROR = "HYDRA_FULL_ERROR=1 before the command shows where that came from"
_HELP = {"--help", "-h"}
_MULTIRUN = {"--multirun", "-m"}
_LONGEST_NAME = 200  # bytes; file systems allow 255, and other names are made of it


def run_command(
    config_name: str,
    job: Callable[[Any], Any],
    *,
    groups: Callable[[Sequence[str]], Sequence[str]] | None = None,
    adapt: Callable[[DictConfig, Sequence[str]], None] | None = None,
    shown: Sequence[str] | None = None,
    interrupted: str = "",
) -> None:
    """Compose `conf/<config_name>.yaml` with the command line, then run `job(options)`; exits 1 on an error.

    Args:
        config_name: file in conf/.
        job: what the command does.
        groups: gives choices of groups, as words for the command line, that the words on it imply.
        adapt: changes the composed options before they are checked, given the keys on the command line.
        shown: the training's options that matter to this command; its own and these are printed. None: all.
        interrupted: what to say to whoever pressed Ctrl-C, besides that it was so.

    Errors of the user's making (ValueError, OSError and the run's own RuntimeErrors) are one message;
    MVIT_VIDEO_TRACEBACK=1 shows where they came from.
    """
    register()
    names: Counter[str] = Counter()
    # Hydra's own help lists the schemas among the choices and explains nothing.
    wants_help = bool(_HELP & set(sys.argv))
    if wants_help:
        sys.argv = [word for word in sys.argv if word not in _HELP | _MULTIRUN]

    refusals = _Refusals()
    failed: list[str] = []  # combinations of a sweep

    try:
        implied = [] if groups is None else list(groups(_overrides(sys.argv)))
    except ValueError as error:
        sys.exit(str(error))
    sys.argv[1:1] = implied

    @hydra.main(config_path=config_dir(), config_name=config_name, version_base="1.3")
    def compose(config: DictConfig) -> None:
        with refusals.over():
            work(config)

    def work(config: DictConfig) -> None:
        if wants_help:
            code = write_out(help_text(config) + "\n", sys.stdout)
            if code:
                sys.exit(code)
            return
        from mvit_video.runtime.logs import TRACEBACK_VARIABLE, configure_logging, traceback_wanted

        configure_logging()
        try:
            if adapt is not None:
                adapt(config, _given_keys(implied))
            options = _in_sweep(to_object(config), names)
            if adapt is None:
                _show(config, options, config_name, shown)
            job(options)
        except Interrupted as stop:
            logger.warning("%s", stop)
            sys.exit(EXIT_INTERRUPTED)
        except (ValueError, OSError, RuntimeError) as error:
            if traceback_wanted():
                raise
            logger.error("%s", error)
            logger.info("%s=1 before the command shows where that came from", TRACEBACK_VARIABLE)
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                sys.exit(1)
            failed.append(" ".join(word for _, word in _swept()))  # the others of a sweep have their turn
        except KeyboardInterrupt:
            logger.warning("interrupted%s", f"; {interrupted}" if interrupted else "")
            sys.exit(130)

    with _sweep(failed), refusals:
        compose()


class _Refusals:
    """Holds back what Hydra prints while it composes options, to say it in plain words where it refuses them.

    HYDRA_FULL_ERROR=1 makes Hydra raise instead, and nothing is held back.
    """

    def __init__(self) -> None:
        self._stderr = sys.stderr
        self._held = io.StringIO()
        self._composing = False

    def __enter__(self) -> None:
        self._stderr = sys.stderr
        self._hold()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        text = ""
        if self._composing and isinstance(error, SystemExit) and error.code:
            text = self._in_plain_words(error)
        self._release(instead=text)

    @contextmanager
    def over(self) -> Iterator[None]:
        """The options are composed: what is printed now is the command's."""
        self._release()
        yield
        self._hold()  # the next combination of a sweep is composed

    def _hold(self) -> None:
        self._held, self._composing = io.StringIO(), True
        sys.stderr = self._held

    def _release(self, *, instead: str = "") -> None:
        if self._composing:
            self._composing, sys.stderr = False, self._stderr
            sys.stderr.write(instead or self._held.getvalue())

    def _in_plain_words(self, stop: SystemExit) -> str:
        """What was refused; empty where Hydra's own words will do."""
        if stop.__context__ is not None:
            text = explain(stop.__context__, _overrides(sys.argv, all=True))
            return f"{text}\n{_FULL_ERROR}\n" if text else ""
        lines = self._held.getvalue().strip().splitlines()  # of the parser of flags, which lists all flags first
        return f"{lines[-1]}\nOptions are given as key=value; --help lists them\n" if lines else ""


def _given_keys(implied: Sequence[str] = ()) -> list[str]:
    """The options and groups that the command line gives, without what was added to it."""
    given = [word for word in HydraConfig.get().overrides.task if word not in implied]
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(given)]


def _show(config: DictConfig, options: Train, config_name: str, shown: Sequence[str] | None) -> None:
    """Print what was chosen and changed, or every option if the environment asks for it; rank 0 alone does."""
    if os.environ.get("RANK", "0") != "0":
        return
    if os.environ.get(ALL_OPTIONS):
        left_out = set() if shown is None else {field.name for field in fields(Train)} - set(shown)
        plain: Any = OmegaConf.to_container(config, resolve=True)
        some = {name: value for name, value in plain.items() if name not in left_out}
        logger.info("options:\n%s", OmegaConf.to_yaml(some))
        return
    choices = HydraConfig.get().runtime.choices
    given, keys = list(HydraConfig.get().overrides.task), _given_keys()
    chosen = [text for key, text in zip(keys, given) if key in choices]
    with_experiment = [text for key, text in zip(keys, given) if key == "experiment"]
    experiment = _compose(config_name, with_experiment)
    text = summary_text(
        _composed(config, choices),
        experiment=experiment,
        same_groups=experiment if chosen == with_experiment else _compose(config_name, chosen),
        run_dir=str(options.run_dir),
        shown=shown,
    )
    logger.info("%s\n%s=1 before the command prints every option", text, ALL_OPTIONS)


def _compose(config_name: str, overrides: list[str]) -> Composed:
    """The options with other words on the command line; inside of a command Hydra knows its folders already."""
    config = hydra.compose(config_name, overrides, return_hydra_config=True)
    choices = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    return _composed(config, choices)


def _composed(config: DictConfig, choices: Mapping[Any, Any]) -> Composed:
    values: Any = OmegaConf.to_container(config, resolve=False)
    return Composed(values=values, choices={str(key): choices[key] for key in choices})


def _in_sweep(config: Train, names: "Counter[str]") -> Train:
    """In a sweep each combination is a run of its own: its name gets the values that are swept over.

    Args:
        config: the options of one combination; its name is changed.
        names: of the sweep's combinations so far.

    Raises:
        ValueError: two combinations have the same name, so that the second would go on with the first one's run.
    """
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return config
    chosen = [override for override, _ in _swept()]
    if all(override.key_or_group != "name" for override in chosen):
        config.name = fitting(config.name + name_suffix(chosen))
    names[config.name] += 1
    if names[config.name] > 1:
        raise ValueError(
            f"two combinations of the sweep have the name {config.name}: the second would resume the first one's run; "
            "leave name=... out of what is swept, or start them one by one with a name each"
        )
    return config


def _swept() -> list[tuple[Override, str]]:
    """What is swept over, with its value in this combination, and the same as a word of the command line."""
    parser, words = OverridesParser.create(), list(HydraConfig.get().overrides.task)
    keys = {one.key_or_group for one in parser.parse_overrides(_overrides(sys.argv)) if one.is_sweep_override()}
    return [(one, word) for one, word in zip(parser.parse_overrides(words), words) if one.key_or_group in keys]


def fitting(name: str) -> str:
    """A name that a folder may have: of a long one, as paths make it, the end is replaced by a checksum."""
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    kept = name.encode()[: _LONGEST_NAME - 9].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def name_suffix(chosen: Sequence[Override]) -> str:
    """What a combination adds to the name of its run: `-key-value` for each swept option.

    The key is the option's last word, or all of it where two swept options end in the same word. Only letters, digits,
    `.`, `_` and `-` are left, so that the name can be typed as it is, in a shell and as name=... of a command.
    """
    last = [re.split(r"[./]", override.key_or_group)[-1] for override in chosen]
    words = []
    for word, override in zip(last, chosen):
        key = word if last.count(word) == 1 else override.key_or_group
        words += [key, override.get_value_element_as_str()]
    return "".join(f"-{re.sub(r'[^A-Za-z0-9.-]+', '_', word).strip('_')}" for word in words)


def _overrides(arguments: Sequence[str], *, all: bool = False) -> list[str]:
    """The words that set options; with `all`, also those that Hydra cannot read as such."""
    return [word for word in arguments[1:] if (all or "=" in word) and not word.startswith("-")]


@contextmanager
def _sweep(failed: Sequence[str]) -> Iterator[None]:
    """Submits the SLURM jobs of a `--multirun` as one job array, after Hydra went through all of them.

    Args:
        failed: the combinations that failed, filled meanwhile; with any the command fails, and submits nothing.
    """
    if not _MULTIRUN & set(sys.argv):
        yield
        return
    from mvit_video.cluster import submit
    from mvit_video.runtime.logs import configure_logging

    submit.begin_sweep()
    yield
    configure_logging()
    if failed:
        rest = "no job is submitted" if submit.drop_sweep() else "the others had their turn"
        which = count_text(len(failed), "combination")
        logger.error("%s of the sweep failed, as said above (%s); %s", which, "; ".join(failed), rest)
        sys.exit(1)
    try:
        submit.end_sweep()
    except (ValueError, RuntimeError) as error:
        logger.error("%s", error)
        sys.exit(1)
