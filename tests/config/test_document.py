"""docs/options.md is what the schemas say."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mvit_video.config.document import document, type_text
from tests.paths import ROOT


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert page == document(), "run python -m mvit_video.config.document docs/options.md"


def test_each_option_has_a_row_with_type_default_rule_and_meaning() -> None:
    page = document().splitlines()
    assert (
        "| `trainer.eval_batch_size` | int | `8` | at least 1 | clips or images per process in validation and evaluation |"
        in page
    )
    assert "| `optim.lr` | float | required | above 0 | peak learning rate, for reference_batch videos a step |" in page
    assert "| `reencode.enabled` | bool | `false` |  | re-encode at all |" in page
    assert sum(line.startswith("| `seed` |") for line in page) == 1  # the other commands add to those of training
    assert "Choices: `adamw`, `imagenet`, `sgd`." in page


def test_the_page_is_written_without_torch(tmp_path: Path) -> None:
    code = "import sys, runpy; sys.argv = ['x', 'page.md']; runpy.run_module('mvit_video.config.document', "
    code += "run_name='__main__'); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == document()


@pytest.mark.parametrize(
    ("kind", "text"),
    [(int, "int"), (float | None, "float or null"), (list[int] | None, "list of int or null"), (Any, "any")],
)
def test_types_in_words(kind: Any, text: str) -> None:
    assert type_text(kind) == text
