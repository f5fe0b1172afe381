"""docs/options.md is what the schemas say."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mvit_video.config.augment import Augment
from mvit_video.config.data import Data
from mvit_video.config.document import document, type_text
from mvit_video.config.optim import Optim
from mvit_video.config.rules import rule_of
from mvit_video.config.schedule import Schedule
from mvit_video.config.trainer import Trainer
from tests.paths import ROOT


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert page == document(), "run python -m mvit_video.config.document docs/options.md"


def test_each_option_has_a_row_with_type_default_rule_and_meaning() -> None:
    page = document().splitlines()
    rule = "| `trainer.eval_batch_size` | int | `8` | at least 1 | clips or images per process in validation and "
    assert f"{rule}evaluation |" in page
    lr = "| `optim.lr` | float | required | above 0 | peak learning rate, for reference_batch videos or images a step |"
    assert lr in page
    assert "| `reencode.enabled` | bool | `false` |  | re-encode at all |" in page
    assert sum(line.startswith("| `seed` |") for line in page) == 1  # the other commands add to those of training
    assert "Choices: `adamw`, `coco`, `imagenet`, `sgd`." in page


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


def test_what_images_have_too_is_not_said_of_videos_alone() -> None:
    for schema in (Data, Augment, Optim, Schedule, Trainer):
        for declared in fields(schema):
            rule = rule_of(declared)
            words = "" if rule is None else rule.help
            assert "video" not in words or "image" in words, f"{schema.__name__}.{declared.name}: {words}"
