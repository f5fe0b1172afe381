"""What a section of an audit comes to: how bad it is, in a sentence or two, and what to do next."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["fine", "look", "bad"]
WORDS: dict[Level, str] = {"fine": "in order", "look": "to be looked at", "bad": "wrong"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one section.

    Attributes:
        level: "bad" where the number must not be trusted as it is, "look" where a person has to decide.
        text: a sentence or two.
        next_step: what to do; empty where there is nothing to do.
    """

    level: Level
    text: str
    next_step: str = ""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 video", "3 videos", "no video"."""
    if number == 1:
        return f"1 {one}"
    return f"{number if number else 'no'} {(many or one + 's') if number else one}"
