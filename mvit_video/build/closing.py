"""What a training says at its end: the best result, where everything is, and what to type next."""

import re
import shlex
from pathlib import Path

from mvit_video.config import Train
from mvit_video.runtime.formatting import option_text
from mvit_video.runtime.run_record import best_validation, read_validations


def closing_summary(config: Train, *, best_metric: str) -> str:
    """A few lines for people.

    Args:
        config: of the training.
        best_metric: by which the best checkpoint is chosen.
    """
    folder = config.run_dir
    validated = (folder / "checkpoints" / "best.pt").is_file()
    rows = [
        ("best", _best(folder, best_metric)),
        ("weights", str(_weights(folder / "checkpoints"))),
        ("curves", str(folder / "curves.png")),
        ("options", str(folder / "config.yaml")),
        ("next", evaluate_command(config) + ("" if validated else " data.source.val=PATH")),
    ]
    if config.data.folds is not None:
        rows.append(("folds", folds_command(config)))
    return f"{config.name} is trained:\n" + "\n".join(f"  {name:<8} {text}" for name, text in rows)


def evaluate_command(config: Train) -> str:
    """The command that evaluates the run, as it is typed in a shell."""
    words = ["python", "-m", "mvit_video.evaluate", option_text("run", config.name)]
    if config.output_dir != Train.output_dir:
        words.append(option_text("output_dir", config.output_dir))
    return shlex.join(words)


def folds_command(config: Train) -> str:
    """The command that sums up the folds of the run, as it is typed in a shell."""
    # A sweep calls its runs birds-fold-0; else the last number of the name is taken for the fold's.
    own = rf"(?<=fold-){config.data.fold}(?!\d)" if "fold-" in config.name else rf"(?<!\d){config.data.fold}(?=\D*$)"
    pattern = re.sub(own, "*", config.name)
    words = ["python", "-m", "mvit_video.runs", "--folds", pattern]
    if config.output_dir != Train.output_dir:
        words.insert(3, config.output_dir)
    return shlex.join(words)


def _best(folder: Path, name: str) -> str:
    best = best_validation(read_validations(folder), name)
    return "unknown, there was no validation" if best is None else f"{name} {best.value:.4g} after step {best.step:,}"


def _weights(folder: Path) -> Path:
    best = folder / "best.pt"
    return best if best.is_file() else folder
