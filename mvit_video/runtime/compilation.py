"""With what options `torch.compile` compiles the models of this project."""

from collections.abc import Callable

COMPILE_OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {"comprehensive_padding": False}
"""Inductor pads the rows of large tensors to 128 bytes, by default. A clip has an odd number of tokens (the class token
is one of them), so that a padded tensor of tokens is no longer the rows of a matrix product: it is copied before and
behind. Without padding a compiled training step of S at batch 16 moves 2 % fewer bytes."""
