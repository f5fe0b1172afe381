"""Words of others in Markdown, without what it and HTML take for markup."""

import json
from typing import Any


def text(value: Any) -> str:
    """A value as a page shows it: six digits of a number, text as it is, all else as JSON."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plain(words: object) -> str:
    """Text in one line, in which no sign is markup."""
    found = " ".join(str(words).split())
    for sign in "\\`*_|[]":
        found = found.replace(sign, f"\\{sign}")
    return found.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(words: object) -> str:
    """Text as code; where that is not possible, plain."""
    found = " ".join(str(words).split())
    return plain(found) if "`" in found or "|" in found else f"`{found}`"
