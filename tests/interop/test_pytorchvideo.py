import subprocess
import sys

import pytest

from mvit_video.interop.pytorchvideo import import_pytorchvideo
from tests.paths import ROOT


def run(code: str) -> str:
    """Output of a fresh interpreter, in which nothing is imported yet."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_package_imports_no_pytorchvideo() -> None:
    code = """
import sys
import mvit_video, mvit_video.interop.pytorchvideo, mvit_video.data.datasets.manifest
print([name for name in sys.modules if name.startswith(("pytorchvideo", "torchvision"))])
"""
    assert run(code) == "[]"


def test_transforms_import_after_the_repair_and_warn_of_nothing() -> None:
    code = """
import sys, warnings
warnings.simplefilter("error", FutureWarning)
from mvit_video.interop.pytorchvideo import import_pytorchvideo
transforms = import_pytorchvideo("transforms")
assert import_pytorchvideo("pytorchvideo.transforms") is transforms
import torch
torch.manual_seed(0)
clip = torch.rand(4, 3, 8, 8)
print(transforms.RandAugment(magnitude=5, num_layers=2)(clip).shape)
"""
    assert run(code) == "torch.Size([4, 3, 8, 8])"


def test_relative_and_full_names_are_the_same_module() -> None:
    module = import_pytorchvideo("layers.utils")
    assert module.__name__ == "pytorchvideo.layers.utils"
    assert import_pytorchvideo("pytorchvideo.layers.utils") is module


def test_absent_pytorchvideo_gives_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorchvideo", None)  # what an import of an absent package looks like
    message = r"pytorchvideo\.models\.x3d cannot be imported \(.*\); .* install it with `pip install 'pytorchvideo>="
    with pytest.raises(RuntimeError, match=message):
        import_pytorchvideo("models.x3d")


def test_unknown_module_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"pytorchvideo\.models\.x4d cannot be imported \(No module named"):
        import_pytorchvideo("models.x4d")
