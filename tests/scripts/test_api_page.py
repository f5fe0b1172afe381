"""docs/api.md is what the docstrings say, and every public name and field has one."""

import ast
import importlib
import re

import api_page
import pytest

from tests.paths import ROOT


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == api_page.page(), "run python scripts/api_page.py docs/api.md"


@pytest.mark.parametrize(("module", "names"), [(module, names) for module, _, names in api_page.SECTIONS])
def test_every_public_name_is_there_and_explained(module: str, names: list[str] | None) -> None:
    real = importlib.import_module(module)
    if names is None:
        names = api_page.public_names(module)
        assert set(names) == {name for name in real.__all__ if not name.startswith("__")}
    for name in names:
        assert hasattr(real, name)
        node, text = api_page.definition(module, name)
        said = text or (ast.get_docstring(node) if isinstance(node, api_page.Documented) else "")
        assert said or not isinstance(node, api_page.Documented), f"{module}.{name} has no docstring"


def test_the_fields_of_the_model_are_explained() -> None:
    for name in ("MViTConfig", "BlockGeometry"):
        node, _ = api_page.definition("mvit_video.models", name)
        assert isinstance(node, ast.ClassDef)
        fields = api_page.fields_of(node)
        assert len(fields) >= 15
        assert not [field.name for field in fields if not field.meaning]
    page = api_page.page()
    assert "| `depth` | `int` | `16` | Blocks, over all stages. |" in page
    assert re.search(r"\| `rel_pos` \| `Literal\['none', .*\]` \| `'spatiotemporal'` \| Axes that have", page)


def test_signatures_and_lists() -> None:
    (node,) = ast.parse("def f(a, b: int = 1, *rest: str, c, d: int | None = None) -> bool: ...").body
    assert isinstance(node, ast.FunctionDef)
    assert api_page.signature("f", node) == "f(a, b: int = 1, *rest: str, c, d: int | None = None) -> bool"
    text = "One line.\n\n    code(1)\n\nArgs:\n    a, b: first\n        and more, see :func:`x`.\n\nLast line."
    assert "\n".join(api_page.markdown(text)) == (
        "One line.\n\n```text\ncode(1)\n```\n\nArgs:\n\n- `a`, `b`: first and more, see `x`.\n\nLast line.\n"
    )
