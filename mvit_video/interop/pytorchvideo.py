"""The one door to PyTorchVideo, which needs a repair before its transforms import on a current torchvision."""

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType

_OLD_NAME = "torchvision.transforms.functional_tensor"
_NEW_NAME = "torchvision.transforms._functional_tensor"


def import_pytorchvideo(module: str) -> ModuleType:
    """Import a module of PyTorchVideo, repaired for the installed torchvision.

    PyTorchVideo 0.1.5 imports `torchvision.transforms.functional_tensor`, which torchvision 0.17 made private; its old
    name is put back before the first import.

    Args:
        module: dotted name, with or without the leading "pytorchvideo.", such as "models.x3d".

    Raises:
        RuntimeError: PyTorchVideo, the module, or something it needs cannot be imported.
    """
    name = f"pytorchvideo.{module.removeprefix('pytorchvideo.')}"
    try:
        importlib.import_module("pytorchvideo")
        with warnings.catch_warnings():
            # It compiles a function with torch.jit.script when imported; the user can do nothing about that.
            warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
            _restore_functional_tensor()
            return importlib.import_module(name)
    except ImportError as error:
        raise RuntimeError(
            f"{name} cannot be imported ({error}); the baseline models and PyTorchVideo's labelled lists need it: "
            "install it with `pip install 'pytorchvideo>=0.1.5' torchvision`, or use the project's own models and lists"
        ) from error


def _restore_functional_tensor() -> None:
    """Give torchvision's private functional_tensor module its public name back where only the private one exists."""
    if _OLD_NAME in sys.modules or importlib.util.find_spec(_OLD_NAME) is not None:
        return
    if importlib.util.find_spec(_NEW_NAME) is not None:
        sys.modules[_OLD_NAME] = importlib.import_module(_NEW_NAME)
