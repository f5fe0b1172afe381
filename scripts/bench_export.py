"""Time a model and its exported files on the machine at hand: `python scripts/bench_export.py --model mvitv2_s_16x4`.

In one process, on one thread, in CPU seconds, which a shared machine disturbs least: the export to torch.export and
ONNX, the first answer of each file (loading it and one clip), and the time of one clip and of two in the eager model
and in each file. They take turns, and the least of the repetitions counts. "memory" is the most that the process has
had up to the end of the row. Weights are random: times do not depend on them.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bench_model import table
from torch import nn

from mvit_video.exporting import writing
from mvit_video.exporting.parity import outputs_of
from mvit_video.exporting.programs import open_program
from mvit_video.models import create_model


def peak_gib() -> str:
    """Most memory of this process so far, in GiB."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}"


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """What it gives, and the CPU seconds that it took."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mvitv2_s_16x4")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread of the CPU, {torch.backends.cpu.get_cpu_capability()}")
    model = create_model(options.model).eval()
    config = model.config
    shape = (3, config.crop_size, config.crop_size)
    shape = shape if config.is_image else (3, config.num_frames, *shape[1:])
    clips = torch.randn(2, *shape)
    rows, ways = [], {"eager": model}
    with tempfile.TemporaryDirectory() as folder:
        program, seconds = timed(lambda: writing.trace(model, clips, precision="fp32"))
        assert isinstance(program, torch.export.ExportedProgram)
        rows.append(["trace", f"{seconds:.1f}", "", peak_gib()])
        for name, path in (("torch_export", Path(folder) / "m.pt2"), ("onnx", Path(folder) / "m.onnx")):
            if name == "onnx":
                _, seconds = timed(
                    lambda path=path: writing.write_onnx(program, clips, path, input_name="clips", precision="fp32")  # type: ignore[misc]
                )
            else:
                _, seconds = timed(lambda path=path: writing.write_torch_export(program, path))  # type: ignore[misc]

            def first(path: Path = path) -> nn.Module:
                opened = open_program(path, shape=shape, device=clips.device)
                outputs_of(opened, clips[:1])
                return opened

            opened, answer = timed(first)
            assert isinstance(opened, nn.Module)
            ways[name] = opened
            rows.append([f"to {name}", f"{seconds:.1f}", f"{answer:.1f}", peak_gib()])
        print(table(["step", "CPU s", "loading and one clip", "memory (GiB)"], rows, markdown=options.markdown))
        print(
            table(
                ["", "one clip (CPU s)", "two clips", "times eager", "difference"],
                compared(ways, clips, options.reps),
                markdown=options.markdown,
            )
        )


def compared(ways: dict[str, nn.Module], clips: torch.Tensor, reps: int) -> list[list[str]]:
    """A row for each way: seconds of one clip and of two, and how far its logits are from the eager ones."""
    best = {(name, count): float("inf") for name in ways for count in (1, 2)}
    with torch.inference_mode():
        for _ in range(reps):
            for name, count in best:
                _, seconds = timed(lambda name=name, count=count: ways[name](clips[:count]))  # type: ignore[misc]
                best[name, count] = min(best[name, count], seconds)
        outputs = {name: way(clips) for name, way in ways.items()}
    largest = float(outputs["eager"].abs().max())
    return [
        [
            name, f"{best[name, 1]:.3f}", f"{best[name, 2]:.3f}", f"{best[name, 2] / best['eager', 2]:.2f}",
            f"{float((outputs[name] - outputs['eager']).abs().max()) / largest:.1e}",
        ]
        for name in ways
    ]  # fmt: skip


if __name__ == "__main__":
    main()
