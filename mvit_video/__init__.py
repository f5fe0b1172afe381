"""Training framework for video recognition with MViTv2 (arXiv 2112.01526).

`train` and `evaluate` are functions, and the commands `python -m mvit_video.train` and `evaluate`; a `Predictor` does
what `python -m mvit_video.predict` does, and `from_pretrained` takes a network from a hub. Nothing is imported before
it is asked for: `mvit_video.models` needs PyTorch alone.
"""

import importlib

__version__ = "0.1.0"

__all__ = ["EvaluationResult", "Predictor", "TrainedRun", "__version__", "evaluate", "from_pretrained", "train"]


def __getattr__(name: str) -> object:
    """A public name, imported when it is first asked for."""
    if name in ("train", "evaluate"):
        return importlib.import_module(f"{__name__}.{name}")
    if name in ("TrainedRun", "EvaluationResult"):
        return getattr(importlib.import_module(f"{__name__}.api"), name)
    if name == "Predictor":
        return importlib.import_module(f"{__name__}.predictor").Predictor
    if name == "from_pretrained":
        return importlib.import_module(f"{__name__}.hub").from_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
