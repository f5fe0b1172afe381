"""Measure our model beside torchvision's (video) or timm's (images) of the same geometry, interleaved in one process.

    python scripts/bench_model.py                                    # MViTv2-S 16x4, batch 1, float32, one CPU thread
    python scripts/bench_model.py --dtype float32 bfloat16 --markdown
    python scripts/bench_model.py --model mvitv2_t_image --batch 8 --reps 7
    python scripts/bench_model.py --device cuda --batch 16 --dtype bfloat16 --compile

Times are process CPU time on the CPU and device events on CUDA, the least of the repetitions; the two models take turns
so that a slow moment of a shared machine hits both, and the median of the ratios within a turn stands beside. Saved
bytes are what autograd keeps between forward and backward (distinct storages, without parameters). Everything is
printed; the exit code is 0 whatever the figures are.
"""

import argparse
import dataclasses
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version

import resident_memory
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mvit_video.models import MViT, MViTConfig, get_config
from mvit_video.models.config import Triple
from mvit_video.runtime.compilation import COMPILE_OPTIONS

OURS = "ours"
KINDS = {
    "matrix products (linear layers)": ("aten::mm", "aten::addmm"),
    "fused attention": ("scaled_dot_product", "_flash_attention", "_efficient_attention", "_cudnn_attention"),
    "batched products (maps, position terms)": ("aten::bmm", "aten::baddbmm"),
    "convolution": ("convolution", "conv_depthwise", "conv3d"),
    "softmax": ("softmax",),
    "LayerNorm": ("layer_norm",),
    "GELU": ("gelu",),
    "max pooling": ("max_pool",),
    "copies, concatenations, fills": (
        ("aten::copy_", "aten::cat", "aten::fill_", "aten::index", "aten::constant_pad", "aten::zero_", "aten::repeat")
    ),
    "sums and elementwise": ("aten::add", "aten::mul", "aten::sum", "aten::div", "aten::sub", "aten::neg"),
}
"""Kinds of operation, by the start of the kernel's name or, for those not of aten, a part of it; first match counts."""


@dataclasses.dataclass
class Result:
    """One model in one setting; seconds of every turn, and bytes."""

    forward: list[float] = dataclasses.field(default_factory=list)
    step: list[float] = dataclasses.field(default_factory=list)
    saved: int = 0
    peak: int = 0


def torchvision_twin(config: MViTConfig) -> nn.Module:
    """torchvision's MViT with the geometry of a configuration.

    Raises:
        ValueError: torchvision has no such model.
    """
    from torchvision.models.video import mvit

    if config.is_image or not config.cls_token or config.rel_pos == "spatial":
        raise ValueError("torchvision has video models with class token and either all relative positions or none.")
    blocks = [
        mvit.MSBlockConfig(
            num_heads=b.num_heads,
            input_channels=b.dim_in,
            output_channels=b.dim_out,
            kernel_q=list(b.kernel_q or ()),
            kernel_kv=list(b.kernel_kv or ()),
            stride_q=list(b.stride_q if b.kernel_q else ()),
            stride_kv=list(b.stride_kv if b.kernel_kv else ()),
        )
        for b in config.blocks
    ]
    return mvit.MViT(
        spatial_size=(config.crop_size, config.crop_size),
        temporal_size=config.num_frames,
        block_setting=blocks,
        residual_pool=config.residual_pooling,
        residual_with_cls_embed=False,
        rel_pos_embed=config.rel_pos != "none",
        proj_after_attn=config.expand_in == "attention",
        num_classes=config.num_classes,
        dropout=0.0,
        stochastic_depth_prob=0.0,
    )


def timm_twin(config: MViTConfig) -> nn.Module:
    """timm's MultiScaleVit with the geometry of an image configuration.

    Raises:
        ValueError: timm has no such model.
    """
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    if config.rel_pos != "spatial" or config.pool_kernel is None or not config.pool_all_queries:
        raise ValueError("timm has image models of MViTv2: relative positions, and pooled queries in every block.")
    starts = (0, *config.stage_starts)
    ends = (*config.stage_starts, config.depth)
    geometry = MultiScaleVitCfg(
        depths=tuple(end - start for start, end in zip(starts, ends, strict=True)),
        embed_dim=tuple(config.embed_dim * 2**stage for stage in range(len(ends))),
        num_heads=tuple(config.num_heads * 2**stage for stage in range(len(ends))),
        stride_q=tuple((1, 1) if stage == 0 else (2, 2) for stage in range(len(ends))),
        stride_kv_adaptive=config.kv_stride[1:],
        expand_attn=config.expand_in == "attention",
        use_cls_token=config.cls_token,
        residual_pooling=config.residual_pooling,
    )
    return MultiScaleVit(geometry, img_size=(config.crop_size, config.crop_size), num_classes=config.num_classes)


class Clock:
    """Seconds of work: process CPU time on the CPU (others' load does not count), device time on CUDA."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def __call__(self, work: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.process_time()
            work()
            return time.process_time() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        work()
        last.record()
        torch.cuda.synchronize()
        return first.elapsed_time(last) / 1000


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages that autograd keeps for the backward pass, without those of parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    total = sum(kept.values())
    del output
    return total


def peak_bytes(device: str, work: Callable[[], object]) -> int:
    """Highest memory during `work`: allocated on CUDA; resident (with the libraries) on Linux; else 0."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return int(torch.cuda.max_memory_allocated())
    if not resident_memory.forget_peak():
        return 0
    work()
    return resident_memory.peak_bytes()


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, best of five."""
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    clock = Clock(device)
    a @ a
    return 2 * size**3 / min(clock(lambda: a @ a) for _ in range(5))


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """As the trainer compiles ours, and by default the other library's."""
    found: Callable[[Tensor], Tensor] = torch.compile(
        model, options=COMPILE_OPTIONS if isinstance(model, MViT) else None
    )
    return found


class Pair:
    """Our model and the other library's, and one training step of either."""

    def __init__(self, config: MViTConfig, options: argparse.Namespace, dtype: torch.dtype) -> None:
        self.device, self.dtype = options.device, dtype
        torch.manual_seed(0)
        self.is_image = config.is_image
        self.peer = "timm" if config.is_image else "torchvision"
        twin = timm_twin if config.is_image else torchvision_twin
        self.plain = {OURS: MViT(config), self.peer: twin(config)}
        self.models: dict[str, Callable[[Tensor], Tensor]] = {}
        for name, model in self.plain.items():
            model.to(self.device).train()
            self.models[name] = compiled(model) if options.compile else model
        frames = () if config.is_image else (config.num_frames,)
        size = (options.batch, config.in_channels, *frames, config.crop_size, config.crop_size)
        self.clips = torch.randn(size, device=self.device)
        self.targets = torch.arange(options.batch, device=self.device) % config.num_classes

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def forward(self, name: str) -> Tensor:
        with self.autocast():
            return F.cross_entropy(self.models[name](self.clips), self.targets)

    def evaluate(self, name: str) -> None:
        with torch.inference_mode(), self.autocast():
            self.models[name](self.clips)

    def step(self, name: str) -> None:
        self.plain[name].zero_grad(set_to_none=True)
        self.forward(name).backward()

    def measure(self, reps: int) -> dict[str, Result]:
        """Forward without gradients and train step (forward, loss, backward), taking turns."""
        results = {name: Result() for name in self.models}
        clock = Clock(self.device)
        for name in results:
            self.step(name)  # warm up: index tables, kernels chosen, memory
            self.evaluate(name)
        for _ in range(reps):
            for name, result in results.items():
                result.forward.append(clock(lambda n=name: self.evaluate(n)))  # type: ignore[misc]
                result.step.append(clock(lambda n=name: self.step(n)))  # type: ignore[misc]
        for name, result in results.items():
            for model in self.plain.values():
                model.zero_grad(set_to_none=True)
            result.saved = saved_bytes(self.plain[name], lambda n=name: self.forward(n))  # type: ignore[misc]
            result.peak = peak_bytes(self.device, lambda n=name: self.step(n))  # type: ignore[misc]
        return results

    def block(self, name: str, index: int) -> nn.Module:
        """The block of a model that has this number in ours."""
        if name != "timm":
            return self.plain[name].get_submodule(f"blocks.{index}")
        blocks = [block for stage in self.plain[name].get_submodule("stages").children() for block in stage.blocks]  # type: ignore[union-attr]
        return blocks[index]  # type: ignore[no-any-return]


def block_kinds(config: MViTConfig) -> list[tuple[int, int]]:
    """(index of the first block, number of blocks) for blocks of one geometry."""
    seen: dict[object, list[int]] = {}
    for block in config.blocks:
        seen.setdefault(dataclasses.replace(block, index=0, drop_path=0.0), []).append(block.index)
    return [(indices[0], len(indices)) for indices in seen.values()]


def measure_blocks(pair: Pair, config: MViTConfig, batch: int, reps: int) -> list[list[str]]:
    """Rows of the table by block kind: forward and backward of one block alone."""
    rows = []
    clock = Clock(pair.device)
    for index, count in block_kinds(config):
        geometry = config.blocks[index]
        cls = int(config.cls_token)
        tokens = cls + geometry.grid_in[0] * geometry.grid_in[1] * geometry.grid_in[2]
        x = torch.randn(batch, tokens, geometry.dim_in, device=pair.device, requires_grad=True)
        best = dict.fromkeys(pair.plain, float("inf"))
        saved = dict.fromkeys(pair.plain, 0)
        for rep in range(reps + 1):
            for name, model in pair.plain.items():
                block = pair.block(name, index)
                grid_in = list(geometry.grid_in[1:]) if name == "timm" else geometry.grid_in

                def forward(block: nn.Module = block, x: Tensor = x, grid: Triple | list[int] = grid_in) -> Tensor:
                    with pair.autocast():
                        out: Tensor = block(x, grid)[0]
                        return out.float().square().mean()

                if rep == 0:
                    saved[name] = saved_bytes(model, forward)
                else:
                    best[name] = min(best[name], clock(lambda f=forward: f().backward()))  # type: ignore[misc]
        q, kv = (cls + g[0] * g[1] * g[2] for g in (geometry.grid_q, geometry.grid_kv))
        what = f"{geometry.num_heads} heads, {q} queries, {kv} keys"
        rows.append(
            [
                f"{index}" if count == 1 else f"{index} and like ({count})",
                what,
                *_compare(best, pair.peer, 1e3, "{:.0f}"),
            ]
        )
        rows[-1] += _compare(saved, pair.peer, 1 / 2**20, "{:.0f}")
    return rows


def kind_of(name: str) -> str:
    """Kind of operation of a profiler event."""
    for kind, patterns in KINDS.items():
        if any(name.startswith(p) if p.startswith("aten::") else p in name for p in patterns):
            return kind
    return "other"


def measure_kinds(pair: Pair) -> list[list[str]]:
    """Rows of the profile by kind of operation of one train step, self time."""
    totals: dict[str, dict[str, float]] = {}
    cuda = pair.device == "cuda"
    for name in pair.plain:
        pair.step(name)
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
        with profile(activities=activities) as profiler:
            pair.step(name)
        for event in profiler.key_averages():
            spent = event.self_device_time_total if cuda else event.self_cpu_time_total
            # On CUDA a kernel appears twice: itself, and as the device time of the operation that started it.
            if not (cuda and event.device_type == DeviceType.CUDA):
                by_model = totals.setdefault(kind_of(event.key), dict.fromkeys(pair.plain, 0.0))
                by_model[name] += spent / 1e6
    whole = {name: sum(times[name] for times in totals.values()) for name in pair.plain}
    rows = []
    for kind, times in sorted(totals.items(), key=lambda item: -item[1][OURS]):
        cells = [f"{1e3 * times[name]:.0f} ms ({100 * times[name] / whole[name]:.0f} %)" for name in pair.plain]
        rows.append([kind, *cells])
    return rows


def _compare(values: dict[str, float] | dict[str, int], peer: str, scale: float, form: str) -> list[str]:
    ours, theirs = values[OURS] * scale, values[peer] * scale
    return [form.format(ours), form.format(theirs), f"{theirs / ours:.2f}x" if ours else "-"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """A table as Markdown or in aligned columns."""
    if markdown:
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in [header, *rows])


def flops_of_step(pair: Pair) -> float:
    """Three times the forward pass of the other library's form, counted from its matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pair.plain[pair.peer](pair.clips)
    return 3.0 * counter.get_total_flops()


def totals_table(pair: Pair, results: dict[str, Result], options: argparse.Namespace) -> str:
    flops, rate = flops_of_step(pair), matrix_rate(pair.device, pair.dtype)
    peer, names = pair.peer, (OURS, pair.peer)
    rows = []
    for what, label in (("forward", "forward, ms"), ("step", "train step, ms")):
        turns = {name: getattr(result, what) for name, result in results.items()}
        ratio = statistics.median(theirs / ours for ours, theirs in zip(turns[OURS], turns[peer], strict=True))
        rows.append([label, *_compare({name: min(seconds) for name, seconds in turns.items()}, peer, 1e3, "{:.0f}")])
        rows.append([f"{what}, median of {len(turns[OURS])} turns", "", "", f"{ratio:.2f}x"])
    rows.append(["saved for backward, MB", *_compare({n: r.saved for n, r in results.items()}, peer, 1e-6, "{:.0f}")])
    rows.append(["peak memory, MB", *_compare({n: r.peak for n, r in results.items()}, peer, 1e-6, "{:.0f}")])
    samples = {name: options.batch / min(result.step) for name, result in results.items()}
    unit = "images" if pair.is_image else "clips"
    rows.append([f"{unit}/s, train step", f"{samples[OURS]:.2f}", f"{samples[peer]:.2f}", ""])
    achieved = {name: flops / min(result.step) for name, result in results.items()}
    unit, factor = ("TFLOP/s", 1e-12) if pair.device == "cuda" else ("GFLOP/s", 1e-9)
    rows.append([unit, *(f"{achieved[name] * factor:.1f}" for name in names), ""])
    share = [f"{100 * achieved[name] / rate:.0f} %" for name in names]
    rows.append([f"share of the matrix rate ({rate * factor:.0f} {unit})", *share, ""])
    header = [f"{options.model}, batch {options.batch}, {_dtype_name(pair)}", OURS, peer, "theirs / ours"]
    return table(header, rows, options.markdown)


def _dtype_name(pair: Pair) -> str:
    return "bf16 autocast" if pair.dtype == torch.bfloat16 else "float32"


def machine(options: argparse.Namespace) -> str:
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    if options.device == "cpu" and sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    form = "compiled" if options.compile else "eager"
    peer = "timm" if options.model.endswith(("_image", "_image_cls")) else "torchvision"
    return (
        f"{date.today()}: {name}, {options.threads} CPU thread(s), {torch.backends.cpu.get_cpu_capability()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, {peer} {version(peer)}, {form}"
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mvitv2_s_16x4", help="a preset of mvit_video.models")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="measure both models under torch.compile")
    parser.add_argument("--totals-only", action="store_true", help="leave out the tables by block and by operation")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    config = get_config(options.model, drop_path=0.0, dropout=0.0)
    print(machine(options), end="\n\n")
    for name in options.dtype:
        pair = Pair(config, options, getattr(torch, name))
        print(totals_table(pair, pair.measure(options.reps), options), end="\n\n", flush=True)
        if options.totals_only:
            continue
        header = ["block", "what", "ours, ms", f"{pair.peer}, ms", "ratio", "saved, MiB", f"{pair.peer}, MiB", "ratio"]
        print(table(header, measure_blocks(pair, config, options.batch, options.reps), options.markdown), end="\n\n")
        print(
            table(["kind of operation", OURS, pair.peer], measure_kinds(pair), options.markdown), end="\n\n", flush=True
        )


if __name__ == "__main__":
    main()
