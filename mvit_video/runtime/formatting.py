"""Durations, sizes and counts as people write them."""


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
