"""The commands that the pages show, as they are written, in the order of each page."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.paths import ROOT

GENERATED = ("options.md", "api.md")  # made of the code, and tested as such
SHELL = ("bash", "sh", "console")
# Within a sentence: a command of the project with at least one word behind it. Words in capitals, `...` and brackets
# stand for something.
_INLINE = re.compile(r"python (?:-m (?:mvit_video|examples)\.\w+|scripts/\w+\.py) \S")
_PLACEHOLDER = re.compile(r"\.\.\.|\[\w*[A-Z]|(?<![\w.=/-])[A-Z]{2,}\w*\b|=NAME\b")


@dataclass(frozen=True)
class Command:
    """What a reader may copy from a page.

    Attributes:
        page: relative to the checkout.
        line: of the page, from 1, where it begins.
        text: as it is written, with the line breaks of a shell command that goes on.
        kind: "shell", or "python" for a whole block of Python.
    """

    page: str
    line: int
    text: str
    kind: Literal["shell", "python"] = "shell"

    @property
    def title(self) -> str:
        """On one line."""
        if self.kind == "python":
            lines = [line for line in self.text.splitlines() if line.strip()]
            return f"python: {lines[-1].strip()}"
        return " ".join(self.text.replace("\\\n", " ").split())


def pages() -> list[Path]:
    """README, docs, and the pages beside scripts and examples."""
    docs = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in GENERATED]
    examples = sorted((ROOT / "examples").rglob("README.md"))
    return [ROOT / "README.md", *docs, ROOT / "scripts" / "gpu" / "README.md", *examples]


def commands_of(page: Path) -> list[Command]:
    """All commands of a page in its order, each once."""
    name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    found: list[Command] = []
    inside: str | None = None
    block: list[str] = []
    sentence: list[str] = []
    number = 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"\s*```(\w*)", line)
        if fence is None:
            (sentence if inside is None else block).append(line)
            continue
        if inside is None:
            found += _inline(name, number - len(sentence), sentence)
            inside, block, sentence = fence[1], [], []
            continue
        first = number - len(block)
        if inside in SHELL:
            found += _shell(name, first, block)
        elif inside == "python":
            found.append(Command(name, first, "\n".join(block) + "\n", "python"))
        inside = None
    found += _inline(name, number + 1 - len(sentence), sentence)
    seen: set[str] = set()
    return [one for one in found if not (one.title in seen or seen.add(one.title))]  # type: ignore[func-returns-value]


def _shell(page: str, first: int, block: list[str]) -> list[Command]:
    found, begun = [], None
    for number, line in enumerate(block, first):
        if begun is None and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begun = (number, [line]) if begun is None else (begun[0], [*begun[1], line])
        if not line.endswith("\\"):
            found.append(Command(page, begun[0], "\n".join(begun[1])))
            begun = None
    return found


def _inline(page: str, first: int, sentence: list[str]) -> list[Command]:
    found, text = [], "\n".join(sentence)
    for code in re.finditer(r"`([^`\n]+(?:\n[^`\n]+)?)`", text):
        words = " ".join(code[1].replace("\\|", "|").split())
        if _INLINE.match(words) and not _PLACEHOLDER.search(words):
            found.append(Command(page, first + text[: code.start()].count("\n"), words))
    return found
