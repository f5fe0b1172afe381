"""An option: its default, the rule its values obey and what it means, all in the one line that declares it.

    lr: float = option(MISSING, above=0, help="learning rate for reference_batch samples a step")

The check of a command line, `--help` and docs/options.md read that line; nothing else lists options by name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, field
from typing import Any, Protocol, runtime_checkable

_RULE = "rule"
_NUMBERS = {1: "one value", 2: "two values", 3: "three values"}


@runtime_checkable
class HasProblems(Protocol):
    """A schema with rules that hold between several of its values."""

    def problems(self) -> Iterator[str]:
        """One line for each rule that is broken. Asked only when each value is good on its own."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What the values of one option may be, and what they mean. See `option` for the fields."""

    help: str
    choices: tuple[object, ...] | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    length: int | None = None
    entries: str | None = None
    ascending: bool = False
    neutral: bool = False
    word: str | None = None

    def allows(self, value: object) -> bool:
        """Whether the option may have this value; of a list each entry counts. None means "not set" and is allowed."""
        if value is None:
            return True
        if not isinstance(value, list | tuple):
            return self._allows_one(value)
        if self.length is not None and len(value) != self.length:
            return False
        if self.choices is not None and not value:
            return False
        return all(map(self._allows_one, value)) and (not self.ascending or list(value) == sorted(value))

    def _allows_one(self, value: Any) -> bool:
        if self.word is not None and (isinstance(value, bool) or not isinstance(value, int)):
            return bool(value == self.word)
        # Each comparison is written so that a NaN fails it.
        return (
            (self.choices is None or value in self.choices)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def text(self, *, several: bool = False) -> str:
        """The rule in words, to follow the name of the option; "" where every value of the type will do.

        Args:
            several: the value is a list.
        """
        if self.choices is not None:
            return f"must be {'some' if several else 'one'} of {self._named_choices()}"
        if self.length is not None:
            text = f"needs {_NUMBERS.get(self.length, f'{self.length} values')}"
            text += f", for {self.entries}" if self.entries else ""
            text += f" {self._bounds()}" if self._bounds() else ""
            return text + (", the lesser first" if self.ascending else "")
        bounds = self._bounds()
        if bounds == "from 0 to 1":
            return "is a probability or a share, from 0 to 1"
        special = {"above 0": "must be greater than 0", "at least 0": "must not be negative"}
        text = special.get(bounds, f"must be {bounds}") if bounds else ""
        return text if self.word is None else f"{text}, or {self.word}"

    def brief(self) -> str:
        """The rule in a table's cell; "" where every value of the type will do."""
        if self.choices is not None:
            return self._named_choices()
        parts = [_NUMBERS.get(self.length, f"{self.length} values")] if self.length is not None else []
        parts += [self._bounds()] if self._bounds() else []
        parts += [f"or {self.word}"] if self.word is not None else []
        return ", ".join(parts + (["the lesser first"] if self.ascending else []))

    def _named_choices(self) -> str:
        """As they are written on a command line."""
        named = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in self.choices or ()]
        return ", ".join(named)

    def _bounds(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"from {self.at_least} to {self.at_most}"
        parts = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {bound}" for word, bound in parts.items() if bound is not None)


def option(
    default: Any,
    *,
    help: str,
    choices: Sequence[object] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    length: int | None = None,
    entries: str | None = None,
    ascending: bool = False,
    neutral: bool = False,
    word: str | None = None,
) -> Any:
    """A field of a schema.

    Args:
        default: its value where no file and no command line gives one; MISSING where one of them must. A list or a
            dictionary is copied for each instance.
        help: what it means, with its unit, in a line; what null stands for, where null is allowed.
        choices: the values there are.
        at_least, above, at_most, below: bounds of a number, or of each entry of a list.
        length: entries of a list.
        entries: what they stand for, in words.
        ascending: the entries of the list may not decrease.
        neutral: no run computes anything else for it, so a run may go on with another value.
        word: allowed instead of a whole number.
    """
    rule = Rule(
        help=help,
        choices=None if choices is None else tuple(choices),
        at_least=at_least,
        above=above,
        at_most=at_most,
        below=below,
        length=length,
        entries=entries,
        ascending=ascending,
        neutral=neutral,
        word=word,
    )
    metadata = {_RULE: rule}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def rule_of(declared: "Field[Any]") -> Rule | None:
    """The rule of a schema's field; None for a group of options, whose own fields have the rules."""
    return declared.metadata.get(_RULE)
