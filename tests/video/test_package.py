"""The package `mvit_video.video` by itself: its public names, and that it stands alone."""

import subprocess
import sys

import pytest

from mvit_video import video
from tests.paths import ROOT

IMPORT_ALL = """
import importlib, pkgutil, sys
import mvit_video.video as video
print("torch" in sys.modules)
for name in video.__all__:
    getattr(video, name)
for module in pkgutil.walk_packages(video.__path__, video.__name__ + "."):
    importlib.import_module(module.name)
print(*sorted(name for name in sys.modules if name.startswith("mvit_video.")))
"""


def test_it_imports_the_error_alone_of_the_project_and_torch_only_for_a_reader() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=True)
    torch_at_once, modules = done.stdout.splitlines()
    assert torch_at_once == "False"
    # The error has its base, which images share, below: a file of twenty lines that imports nothing.
    others = [name for name in modules.split() if not name.startswith("mvit_video.video")]
    assert others == ["mvit_video.runtime", "mvit_video.runtime.decode_error"]
    assert "mvit_video.video.backends.pyav_decoder" in modules


def test_the_public_names_are_those_of_its_modules() -> None:
    from mvit_video.video.index import VideoDecodeError
    from mvit_video.video.location import VideoLocation
    from mvit_video.video.reader import read_frames

    assert video.VideoDecodeError is VideoDecodeError
    assert video.VideoLocation is VideoLocation
    assert video.read_frames is read_frames
    for name in video.__all__:
        assert f"`{name}`" in (video.__doc__ or ""), name


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"^module 'mvit_video\.video' has no attribute 'play'$"):
        video.play  # noqa: B018
