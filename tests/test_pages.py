"""README and docs: commands compose, options and choices exist, links lead somewhere, columns have heads."""

import re
import shlex
from dataclasses import fields, is_dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from mvit_video import export, push
from mvit_video.config import Train, config_dir, register
from mvit_video.config.registry import SCHEMAS
from mvit_video.convert import parse_arguments
from mvit_video.models.weights.zoo import zoo
from mvit_video.predict import default_weights, split_words
from mvit_video.report import parse_arguments as parse_report
from mvit_video.runs import main as list_runs
from mvit_video.weights import main as list_weights
from tests.conftest import options
from tests.paths import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# The commands that take options, and the file of conf/ that they compose.
COMPOSED = {
    "train": "config",
    "evaluate": "evaluate",
    "audit": "audit",
    "preview": "preview",
    "prepare": "prepare",
    "plan": "plan",
}


def blocks(page: Path) -> list[str]:
    """The commands of a page that stand in blocks, a line each."""
    text = page.read_text(encoding="utf-8")
    return "".join(re.findall(r"```bash\n(.*?)```", text, flags=re.S)).replace("\\\n", " ").splitlines()


def inline(page: Path) -> list[str]:
    """What a page shows as code within its sentences and tables."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    return [code.replace("\\|", "|") for code in re.findall(r"`([^`\n]+)`", text)]


def commands(lines: list[str]) -> list[list[str]]:
    """The words of every `python -m mvit_video.COMMAND ...`, from the name of the command on, each command once."""
    found = (re.match(r"python -m mvit_video\.(\w+)(?: (.*))?$", line.strip()) for line in lines)
    words = [(match[1], *shlex.split(match[2] or "", comments=True)) for match in found if match]
    return [list(one) for one in dict.fromkeys(words) if "..." not in one]


@pytest.mark.parametrize("words", [w for w in commands(blocks(README)) if w[0] in COMPOSED], ids=" ".join)
def test_the_commands_of_the_readme_compose(words: list[str]) -> None:
    sweep = "--multirun" in words
    overrides = [word.split(",")[0] if sweep else word for word in words[1:] if not word.startswith("--")]
    if any(word.startswith("run=") for word in overrides):  # what has no value here comes from the run
        register()
        with initialize_config_dir(config_dir(), version_base="1.3"):
            composed: Any = compose(COMPOSED[words[0]], overrides=overrides)
    else:
        composed = options(*overrides, config_name=COMPOSED[words[0]])
    named = dict(word.split("=", 1) for word in overrides if word.startswith(("name=", "run=")))
    assert {key: getattr(composed, key) for key in named} == named


def test_the_predictions_of_the_pages_compose() -> None:
    """Words without `=` are videos; what has no value here comes from the weights."""
    pages = [README, ROOT / "docs" / "predict.md"]
    found = [words[1:] for page in pages for words in commands(blocks(page)) if words[0] == "predict"]
    assert len(found) >= 6
    register()
    for words in found:
        given, sources = split_words(words)
        assert sources and (any(word.startswith("weights=") for word in given) or default_weights(given, sources))
        with initialize_config_dir(config_dir(), version_base="1.3"):
            compose("predict", overrides=given)


def test_other_commands_of_the_readme_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    others = [
        words
        for page in (README, ROOT / "docs" / "export.md", ROOT / "docs" / "report.md")
        for words in commands(blocks(page) + inline(page))
        if words[0] in ("convert", "export", "push", "report", "runs", "weights")
    ]
    assert len(others) >= 10
    parsers = {
        "convert": parse_arguments,
        "export": export.parse_arguments,
        "push": push.parse_arguments,
        "report": parse_report,
    }
    for command, *words in others:
        if command in parsers:
            parsers[command](words)
        elif command == "weights":
            assert list_weights(words) == 0
        else:
            list_runs(words)  # there are no runs here; what it does not understand raises SystemExit


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in ("options.md", "extending.md")], ids=lambda page: page.name
)
def test_options_that_a_page_names_exist(page: Path) -> None:
    known = {
        f"{entry.group.replace('/', '.')}.{field.name}"
        for entry in SCHEMAS
        if entry.group
        for field in fields(entry.schema)
    }
    known |= {
        f"{field.name}.{option.name}"
        for field in fields(Train)
        if is_dataclass(field.type)
        for option in fields(field.type)
    }
    known |= {  # groups within a group: the backbone of a detector
        f"{entry.group}.{field.name}.{option.name}"
        for entry in SCHEMAS
        for field in fields(entry.schema)
        if entry.group and is_dataclass(field.type)
        for option in fields(field.type)
    }
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} - {"experiment", "data_statistics"}
    named = {
        key
        for line in [*inline(page), *blocks(page)]
        for key in re.findall(r"(?<![\w./-])((?:" + "|".join(groups) + r")\.[a-z_][\w.]*)=", line)
    }
    assert not {key for key in named - known if not key.startswith("launcher.sbatch.")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_choices_that_a_page_names_exist(page: Path) -> None:
    folders = (ROOT / "conf", *sorted((ROOT / "examples").glob("*/conf")))
    known = {str(path.relative_to(folder).with_suffix("")) for folder in folders for path in folder.rglob("*.yaml")}
    known |= {f"{entry.group}/{entry.name}" for entry in SCHEMAS if entry.group}
    groups = "|".join({*(choice.rpartition("/")[0] for choice in known if "/" in choice)})
    chosen = {
        f"{group}/{name}"
        for line in [*inline(page), *blocks(page)]
        for group, name in re.findall(rf"(?<![\w./-])\+?({groups})=([a-z]\w+)", line)
    }
    assert not chosen - known


def test_the_readme_begins_with_own_videos() -> None:
    first = commands(blocks(README))[0]
    assert first[0] == "preview" and "+experiment=finetune_folder" in first


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_weights_to_start_from_exist(page: Path) -> None:
    lines = [line for line in [*inline(page), *blocks(page)] if "mvit_video.predict" not in line]  # it takes runs, too
    words = [word for line in lines for word in line.split()]
    named = [word.partition("=")[2] for word in words if re.match(r"(weights|checkpoint)=[a-z0-9_.]+$", word)]
    unknown = {
        name
        for name in named
        if name not in zoo() and Path(name).suffix not in (".pt", ".pth", ".pyth", ".safetensors", ".onnx")
    }
    assert unknown <= {"..."}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_column_has_a_head(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    heads = [line for line, below in pairwise(lines) if line.startswith("|") and re.fullmatch(r"\|[-|: ]+", below)]
    assert not [head for head in heads if not all(cell.strip() for cell in head.strip("|").split("|"))]


@lru_cache
def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may end in."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {target}"
