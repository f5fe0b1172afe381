"""What Triton and Inductor have compiled, carried from the null GPU to a card.

Compiling takes minutes, and those on a card may be few. Both compilers look a kernel up by its source, by their
own versions and by the kind of the card (Inductor: by its name), so what was compiled for the null GPU under the name
of a card is found on that card, too (by PyTorch's sources; not tried yet). What does not fit is compiled anew.
"""

import os
from pathlib import Path

VARIABLES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""Where the compilers look, and the folder of each."""
CHOICES = "*.best_config"
"""Which of several forms of a kernel was fastest, as Inductor writes it down beside the kernel."""


def use(folder: Path) -> None:
    """Let every process that is started from here on compile into a folder, and begin with what lies there."""
    for variable, name in VARIABLES.items():
        os.environ[variable] = str(folder.resolve() / name)


def forget_choices(folder: Path) -> int:
    """Remove what was chosen by time, which has no meaning on the null GPU; how many choices there were."""
    found = list(folder.rglob(CHOICES))
    for file in found:
        file.unlink()
    return len(found)
