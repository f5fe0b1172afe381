"""Options with which x264 gives the same bytes for the same pictures, every time and on any x86 machine."""

from functools import cache
from pathlib import Path


@cache
def reproducible() -> dict[str, str]:
    """Options for the encoder libx264, to be joined with those that say what to write.

    One thread, for the number of threads decides which bits are spent where. And no AVX-512: that code of x264 is not
    deterministic. On a machine with it, 7 of 6,725 encodings of small clips differed from the first of the same
    pictures (core 165); with `asm=avx2` none did, and their bytes are those that machines without AVX-512 write.
    """
    options = {"threads": "1"}
    if _has_avx512(Path("/proc/cpuinfo")):
        options["x264-params"] = "asm=avx2"
    return options


def _has_avx512(cpuinfo: Path) -> bool:
    """Whether Linux names the instructions among the processor's; without Linux's file nobody knows: no."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and "avx512f" in line.split() for line in lines)
