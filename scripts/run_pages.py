"""Run the commands of README and docs as they are written, on a stage of miniature data, and say how each ended.

    python scripts/run_pages.py                       all pages: some 45 minutes on two busy cores (load 5 to 12)
    python scripts/run_pages.py README.md docs/data.md
    python scripts/run_pages.py --only "mvit_video.predict" docs/predict.md
    python scripts/run_pages.py --list                the commands, and why some are not run
    python scripts/run_pages.py --null-gpu            on a GPU that computes nothing (gpu/null_gpu): CUDA paths
    python scripts/run_pages.py --null-gpus 2         on two of them, with a rank on each

The text of a command is never changed: it goes to bash (a block of Python to Python) in a folder that has files under
all the names of the pages. Each page begins with a fresh folder and with the runs that it takes for granted, made
by the same commands (pages/runs.py).

Where a page shows several ways to train one run, they are alternatives: the earlier run is moved aside before the next.

What is not as at a reader's place:

- Data (pages/stage.py): a few small generated files of each kind; Kinetics and ImageNet have a file of each class.
- Weights (pages/weights.py): made up, in the published layouts and under the published file names, in a cache that
  is used as after a download. Nothing is fetched.
- Sizes (pages/small.py): models, detectors, crops, batches, epochs and embedded sets are made small in the processes
  of the stage, by a sitecustomize module. `plan`, which trains nothing, runs as it is.
- A training with more than 40 steps ahead is sent SIGTERM after its first logged steps. It has to end as documented:
  exit code 75, and a checkpoint. The others run to their end.
- A stand-in for a hub answers push and from_pretrained; Weights & Biases is offline; the browser of --open shows
  nothing; the streams of docs/predict.md are a file.

What cannot be run here at all is listed in pages/reasons.py, with the reason. A command fails if its exit code is not 0
or it prints a traceback; then its output is shown, and this script ends with 1.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from gpu import null_gpu  # noqa: E402
from pages import execute, stage, weights  # noqa: E402
from pages.commands import Command, commands_of, pages  # noqa: E402
from pages.execute import Outcome  # noqa: E402
from pages.reasons import reason  # noqa: E402
from pages.runs import MADE_BY, NEEDS  # noqa: E402

from tests.hub_server import hub_server  # noqa: E402


class Stage:
    """The folders of one call: `base` as written, `runs` that pages need, and `stage`, where commands run.

    Args:
        folder: new, or of an earlier call, whose data and runs are used again.
        commands: all that may be run: they say which weights are made.
        hub: address of the stand-in for a hub.
    """

    def __init__(self, folder: Path, commands: Sequence[Command], *, hub: str) -> None:
        self.base, self.runs, self.place = folder / "base", folder / "runs", folder / "stage"
        self.variables = execute.environment(folder / "home", hub=hub)
        if not (folder / "complete").exists():
            for leftover in (self.base, self.runs, folder / "home"):
                shutil.rmtree(leftover, ignore_errors=True)
            stage.write_stage(self.base)
            weights.write_weights(folder / "home" / "torch", self.base, weights.published_names(commands))
            (folder / "complete").touch()

    def begin(self, page: str) -> Iterator[Outcome]:
        """A fresh folder with the runs that the page takes for granted; the outcome of each that had to be made."""
        needed = NEEDS.get(page, ())
        for name in needed:
            if not (self.runs / name).exists():
                self._fresh(())
                outcome = execute.run(Command("runs that pages need", 0, MADE_BY[name]), self.place, self.variables)
                yield outcome
                if outcome.ended != "failed":
                    shutil.copytree(self.place / "runs", self.runs / name)
        self._fresh(needed)

    def _fresh(self, runs: Sequence[str]) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        stage.copy_of(self.base, self.place)
        for name in runs:
            if (self.runs / name).exists():
                shutil.copytree(self.runs / name, self.place / "runs", dirs_exist_ok=True)

    def run(self, command: Command) -> Outcome:
        """Run a command here, with the folder as it takes it for granted."""
        stage.flat_validation(self.place, flat="val_labels=" in command.text)
        name = trained_run(command)
        if name is not None and (self.place / "runs" / name).exists():
            aside = self.place / "aside" / f"{name}_{command.line}"
            aside.parent.mkdir(exist_ok=True)
            (self.place / "runs" / name).rename(aside)
        return execute.run(command, self.place, self.variables)


def trained_run(command: Command) -> str | None:
    """The run that a command trains; None for all others, and for sweeps, whose runs have names of their own."""
    if "mvit_video.train " not in command.title or "--multirun" in command.title or "--help" in command.title:
        return None
    found = re.search(r" name=(\S+)", command.title) or re.search(r"\+experiment=(\S+)", command.title)
    return None if found is None else found[1]


def outcomes(chosen: Sequence[Command], folder: Path, *, null_gpus: int = 0) -> Iterator[Outcome]:
    """Run the commands, page by page; what is not run is given too."""
    every = [command for page in pages() for command in commands_of(page)]
    with hub_server() as hub:
        place = Stage(folder, every, hub=hub.url)
        page = ""
        for command in chosen:
            if command.page != page:
                page = command.page
                if any(reason(one, null_gpus=null_gpus) is None for one in chosen if one.page == page):
                    yield from place.begin(page)
            why = reason(command, null_gpus=null_gpus)
            yield place.run(command) if why is None else Outcome(command, "not run", why)


def line_of(outcome: Outcome) -> str:
    """A line of the table."""
    command = outcome.command
    where = f"{command.page}:{command.line}"
    why = f" ({outcome.why})" if outcome.why else ""
    return f"{outcome.ended:8} {outcome.seconds:6.1f} s  {where:28} {command.title}{why}"


def write_report(path: Path, done: Sequence[Outcome]) -> None:
    """Every command with all that it printed."""
    parts = [f"## {line_of(one)}\n\n```\n{one.output}\n```\n" for one in done]
    path.write_text("\n".join(parts), encoding="utf-8")


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="pages_") as folder:
        yield Path(folder)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the commands of README and docs as they are written.")
    parser.add_argument("page", nargs="*", help="README.md, docs/data.md, ...; all by default")
    parser.add_argument("--only", metavar="TEXT", help="only commands with this text")
    parser.add_argument(
        "--null-gpus", type=int, default=0, metavar="N", help="on so many GPUs that compute nothing; needs no card"
    )
    parser.add_argument("--null-gpu", action="store_const", const=1, dest="null_gpus", help="on one")
    parser.add_argument("--list", action="store_true", help="list the commands and run none")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the folders here, and use those that are there")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all output to a file")
    return parser.parse_args(arguments)


def chosen_commands(options: argparse.Namespace) -> list[Command]:
    """The commands of the pages that are asked for.

    Raises:
        ValueError: there is no such page.
    """
    known = {page.relative_to(ROOT).as_posix(): page for page in pages()}
    for name in options.page:
        if name not in known:
            raise ValueError(f"{name} is no page with commands; those are {', '.join(known)}")
    found = [one for name in options.page or known for one in commands_of(known[name])]
    return [one for one in found if options.only is None or options.only in one.title]


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    try:
        chosen = chosen_commands(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.list:
        for command in chosen:
            why = reason(command, null_gpus=options.null_gpus)
            print(f"{command.page}:{command.line}  {command.title}{f'  [not run: {why}]' if why else ''}")
        return 0
    if options.null_gpus:
        try:
            # Of the processes to come: this one has loaded its libraries.
            os.environ.update(null_gpu.environment({"NULL_GPU_COUNT": str(options.null_gpus)}))
        except null_gpu.NullGPUError as error:
            print(error, file=sys.stderr)
            return 2
    started, done = time.monotonic(), []
    with _folder(options.keep) as folder:
        for outcome in outcomes(chosen, folder, null_gpus=options.null_gpus):
            done.append(outcome)
            print(line_of(outcome), flush=True)
            if outcome.ended == "failed":
                print(outcome.output, flush=True)
            if options.report is not None:
                write_report(options.report, done)
    counts = Counter(one.ended for one in done)
    parts = ", ".join(f"{counts[ended]} {ended}" for ended in ("ran", "stopped", "not run", "failed"))
    print(f"{len(done)} commands in {time.monotonic() - started:.0f} s: {parts}")
    return 1 if counts["failed"] else 0


def _end(*_: object) -> None:
    """SIGTERM as an exception: the command that runs is ended, and the folders are removed."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(sys.argv[1:]))
