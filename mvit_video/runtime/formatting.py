"""Durations, sizes, counts, options and names of files as people write them."""

import re
import unicodedata

# What Hydra reads as the text that it is, without quotes: neither with other characters, nor as a number or null.
_PLAIN = re.compile(r"[A-Za-z0-9_/+.%*@?|:-]+(?: +[A-Za-z0-9_/+.%*@?|:-]+)*")
_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_NO_TEXT = re.compile(r"(?:null|true|false|[+-]?(?:inf|nan|[\d_]*\.?[\d_]*(?:e[+-]?\d+)?))", re.IGNORECASE)


def option_text(key: str, value: str) -> str:
    """ "run=birds" and "run='Vögel'": the option as a command takes it (for a shell, quote the word besides)."""
    number = value.isdecimal() and value.isascii() and str(int(value)) == value
    if _PLAIN.fullmatch(value) and (number or not _NO_TEXT.fullmatch(value)):
        return f"{key}={value}"
    quoted = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"{key}='{quoted}'"


def duration_text(seconds: float) -> str:
    """ "12 s", "3 min 20 s", "5 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size_text(size: float) -> str:
    """A number of bytes in decimal units: "999 bytes", "1.5 kB", "4.00 TB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def are(number: int) -> str:
    """ "is" for one, "are" for others."""
    return "is" if number == 1 else "are"


def count_text(number: int, noun: str) -> str:
    """ "1 video", "2 videos", "3 classes"."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"


def one_line(text: str) -> str:
    r"""The text with what would break a line of a terminal, or steer it, as escapes: a line break as "\n".

    Names of files may hold any character, also the escape sequences of a terminal and marks that turn the direction of
    what follows them.
    """
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    breaks = unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in _DIRECTIONS
    return character.encode("unicode_escape").decode("ascii") if breaks else character
