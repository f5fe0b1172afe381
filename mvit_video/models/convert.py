"""Fitting a state dict to a model: names, the class head, tables of another size. Takes and gives state dicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class LoadReport:
    """What happened to the tensors of a state dict.

    Attributes:
        loaded: names taken as they are.
        interpolated: relative-position tables resized to the model's input size.
        new: names of the class head, left as they were initialised.
    """

    loaded: list[str] = field(default_factory=list)
    interpolated: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        if self.interpolated:
            text += f", {len(self.interpolated)} interpolated ({self.interpolated[0]} ...)"
        if self.new:
            text += f", new: {', '.join(self.new)}"
        return text


def fit_state_dict(model: nn.Module, state: Mapping[str, torch.Tensor], *, new_head: bool) -> LoadReport:
    """Load a state dict whose names are the model's own (those of PySlowFast).

    Relative-position tables of another length are interpolated linearly over their rows, as PySlowFast's
    utils/checkpoint.py does when it loads a checkpoint of another input size.

    Args:
        model: receives the weights in place.
        state: names to tensors.
        new_head: keep the initialised class head where the file has none or one of another number of classes.

    Raises:
        ValueError: when names or shapes do not fit; the message names them.
    """
    own = model.state_dict()
    report = LoadReport()
    fitted: dict[str, torch.Tensor] = {}
    problems = [f"{name}: in the file, not in the model" for name in state if name not in own and not _is_head(name)]
    for name, target in own.items():
        source = state.get(name)
        if source is not None and source.shape == target.shape:
            fitted[name] = source
            report.loaded.append(name)
        elif source is not None and ".rel_pos_" in name and source.shape[1:] == target.shape[1:]:
            fitted[name] = _resize_rows(source, len(target))
            report.interpolated.append(name)
        elif _is_head(name) and new_head:
            fitted[name] = target
            report.new.append(name)
        elif source is None:
            problems.append(f"{name}: in the model, not in the file")
        else:
            problems.append(_shape_problem(name, source, target))
    if problems:
        shown = "\n  ".join(problems[:8] + ["..."] * (len(problems) > 8))
        raise ValueError(f"the weights do not fit the model ({len(problems)} problems):\n  {shown}")
    model.load_state_dict(fitted)
    return report


def _is_head(name: str) -> bool:
    return name.startswith("head.")


def _resize_rows(table: torch.Tensor, rows: int) -> torch.Tensor:
    """Linear interpolation of (n, C) to (rows, C)."""
    resized = F.interpolate(table.T[None].float(), size=rows, mode="linear")
    return resized[0].T.to(table.dtype)


def _shape_problem(name: str, source: torch.Tensor, target: torch.Tensor) -> str:
    text = f"{name}: {tuple(source.shape)} in the file, {tuple(target.shape)} in the model"
    if _is_head(name):
        text += (
            f": weights for {len(source)} classes, a model for {len(target)}. Set data.num_classes={len(source)} to "
            "use them as they are, or weights=PATH in a training to start from them with a new class head"
        )
    return text
