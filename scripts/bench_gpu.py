"""Measure everything that is worth knowing on one GPU, in minutes: see scripts/gpu/README.md.

    python scripts/bench_gpu.py --minutes 8 --out DIR     # on a machine with a GPU; needs PyTorch alone
    python scripts/bench_gpu.py --rehearse                # every step at a tiny size on the CPU
    python scripts/bench_gpu.py --steps training profile  # some of the steps
    python scripts/bench_gpu.py --predict                 # what counting bytes and operations says, without a GPU

Each step runs in a process of its own with its own time limit, the most valuable first. DIR/section.md (for
docs/benchmarks.md) and DIR/results.json are written anew after every step. A step that fails or takes too long is
reported, and the others run all the same.
"""

import sys

from gpu.runner import main

if __name__ == "__main__":
    sys.exit(main())
