"""The package `mvit_video.images` by itself: its public names, and that it stands alone."""

import subprocess
import sys

import pytest

from mvit_video import images
from tests.paths import ROOT

IMPORT_ALL = """
import sys
import mvit_video.images as images
print("torch" in sys.modules, "PIL" in sys.modules)
for name in images.__all__:
    getattr(images, name)
print(*sorted(name for name in sys.modules if name.startswith("mvit_video.")))
"""


def test_it_imports_the_error_alone_of_the_project_and_torch_only_to_decode() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=True)
    at_once, modules = done.stdout.splitlines()
    assert at_once == "False False"
    others = [name for name in modules.split() if not name.startswith("mvit_video.images")]
    assert others == ["mvit_video.runtime", "mvit_video.runtime.decode_error"]
    assert "mvit_video.images.decoding" in modules


def test_the_public_names_are_explained() -> None:
    for name in images.__all__:
        assert name == "Orientation" or f"`{name}`" in (images.__doc__ or ""), name
    with pytest.raises(AttributeError, match=r"^module 'mvit_video\.images' has no attribute 'show'$"):
        images.show  # noqa: B018
