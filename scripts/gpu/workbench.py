"""What the steps share: models and their twins, a training step in several forms, clocks."""

import dataclasses
import math
import re
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from bench_model import torchvision_twin
from torch import Tensor, nn

from gpu import null_gpu
from gpu.context import Context
from mvit_video.engine.graphs import GraphedModel
from mvit_video.models import MViT, MViTConfig, get_config, save_as
from mvit_video.models.config import AttentionForm
from mvit_video.models.mvit.attention import MultiscaleAttention
from mvit_video.models.mvit.blocks import Block
from mvit_video.runtime.compilation import COMPILE_OPTIONS

EAGER, GRAPH, COMPILED, COMPILED_GRAPH = "eager", "CUDA graph", "compiled", "compiled, CUDA graph"
TRAINER_GRAPHS = "as the trainer's graphs"
FUSED, FUSED_GRAPH = "eager, fused norms", "CUDA graph, fused norms"
FUSED_ATTENTION, FUSED_TERMS = "eager, Triton attention", "eager, Triton terms"
COMPILED_ATTENTION, COMPILED_TERMS = "compiled, Triton attention", "compiled, Triton terms"
GRAPH_ATTENTION, GRAPH_TERMS = "CUDA graph, fused norms, Triton attention", "CUDA graph, fused norms, Triton terms"
WITH_NORMS = (FUSED, FUSED_GRAPH, GRAPH_ATTENTION, GRAPH_TERMS)
ATTENTION_OF: dict[str, AttentionForm] = {
    FUSED_ATTENTION: "triton",
    COMPILED_ATTENTION: "triton",
    GRAPH_ATTENTION: "triton",
    FUSED_TERMS: "triton_terms",
    COMPILED_TERMS: "triton_terms",
    GRAPH_TERMS: "triton_terms",
}
FORMS = (EAGER, GRAPH, TRAINER_GRAPHS, COMPILED, COMPILED_GRAPH, FUSED, FUSED_GRAPH, *ATTENTION_OF)
GRAPHS = (GRAPH, COMPILED_GRAPH, FUSED_GRAPH, GRAPH_ATTENTION, GRAPH_TERMS)
COMPILES = (COMPILED, COMPILED_GRAPH, COMPILED_ATTENTION, COMPILED_TERMS)
"""A CUDA graph holds the whole step; the trainer's graphs (`trainer.cuda_graphs`) forward and backward pass of our
model, beside which loss and optimizer run as they are. Fused norms are `norm_form="triton"`; Triton attention and terms
are `attention_form`, of our models alone."""
SMALL = {"depth": 2, "stage_starts": (1,), "crop_size": 32, "kv_stride": (1, 4, 4), "num_classes": 3}


def config_of(preset: str, context: Context, **changes: object) -> MViTConfig:
    """A preset without drop path and dropout; in a rehearsal two narrow blocks of it, on small clips."""
    config = get_config(preset, drop_path=0.0, dropout=0.0, **changes)
    if not context.rehearse:
        return config
    frames = 1 if config.is_image else 4
    return dataclasses.replace(config, **SMALL, num_frames=frames, embed_dim=8 * config.num_heads)  # type: ignore[arg-type]


def input_shape(config: MViTConfig, batch: int) -> tuple[int, ...]:
    size = (config.crop_size, config.crop_size)
    return (
        (batch, config.in_channels, *size) if config.is_image else (batch, config.in_channels, config.num_frames, *size)
    )


def stir(model: nn.Module) -> None:
    """Move every parameter away from its initial value, so that nothing is one or zero by accident."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "pos" in name or "cls" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def twins(config: MViTConfig) -> tuple[MViT, nn.Module]:
    """Our model and torchvision's (image models: timm's) with the same weights.

    Raises:
        ImportError: the other library is not installed.
    """
    torch.manual_seed(0)
    ours = MViT(config)
    stir(ours)
    if config.is_image:
        theirs = timm_twin(config)
        shapes = theirs.state_dict()
        names = timm_names(config, list(ours.state_dict()))
        state = {names[name]: value.reshape(shapes[names[name]].shape) for name, value in ours.state_dict().items()}
        theirs.load_state_dict(state)
    else:
        theirs = torchvision_twin(config)
        theirs.load_state_dict(save_as(ours, "torchvision"))
    return ours, theirs


def pair(config: MViTConfig, context: Context, *, ours: str, theirs: str) -> dict[str, nn.Module]:
    """Our model and its twin by name; ours alone, with a note, where the other library is not installed."""
    try:
        return dict(zip((ours, theirs), twins(config)))
    except ImportError as error:
        context.note(f"Ours alone: {error}.")
        return {ours: MViT(config)}


def timm_twin(config: MViTConfig) -> nn.Module:
    """timm's MultiScaleVit with the geometry of an image configuration."""
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    starts = (0, *config.stage_starts, config.depth)
    stages = len(starts) - 1
    geometry = MultiScaleVitCfg(
        depths=tuple(end - start for start, end in pairwise(starts)),
        embed_dim=tuple(config.embed_dim * 2**stage for stage in range(stages)),
        num_heads=tuple(config.num_heads * 2**stage for stage in range(stages)),
        expand_attn=config.expand_in == "attention",
        use_cls_token=config.cls_token,
        residual_pooling=config.residual_pooling,
        stride_q=((1, 1), *[(2, 2)] * (stages - 1)),
        stride_kv_adaptive=config.kv_stride[1:],
    )
    twin: nn.Module = MultiScaleVit(geometry, img_size=config.crop_size, num_classes=config.num_classes)
    return twin


def timm_names(config: MViTConfig, names: list[str]) -> dict[str, str]:
    """Our names of parameters -> timm's."""
    starts = (0, *config.stage_starts)
    projection = "shortcut_proj_attn" if config.expand_in == "attention" else "shortcut_proj_mlp"

    def renamed(name: str) -> str:
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if block is None:
            return name.replace("head.projection.", "head.fc.")
        index = int(block[1])
        stage = max(number for number, start in enumerate(starts) if start <= index)
        rest = re.sub(r"^proj\.", f"{projection}.", block[2])
        return f"stages.{stage}.blocks.{index - starts[stage]}.{rest}"

    return {name: renamed(name) for name in names}


def autocast(device: str, enabled: bool = True) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=enabled)


def compile_arguments(*, ours: bool, rehearse: bool) -> dict[str, Any]:
    """For `torch.compile`: ours is compiled as the trainer does, others as the library's defaults have it."""
    if rehearse:
        return {"backend": "eager"}
    return {"options": COMPILE_OPTIONS} if ours else {}


class TrainStep:
    """Forward, loss, backward and AdamW of a model in bf16 autocast, on the same batch every time."""

    def __init__(self, model: nn.Module, config: MViTConfig, batch: int, context: Context) -> None:
        self.device, self.rehearse = context.device, context.rehearse
        self.model = model.to(self.device).train()
        self.model.zero_grad(set_to_none=True)
        self.forward: Callable[[Tensor], Tensor] = self.model
        generator = torch.Generator().manual_seed(1)
        self.clips = torch.randn(input_shape(config, batch), generator=generator).to(self.device)
        self.targets = torch.arange(batch, device=self.device) % config.num_classes
        on_gpu = self.device == "cuda"
        # capturable: the step count lies on the device, so that a CUDA graph can hold the update.
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=on_gpu, capturable=on_gpu)

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            loss = F.cross_entropy(self.forward(self.clips), self.targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def compile(self) -> None:
        """Compile the model, ours as the trainer does; in a rehearsal with a back end that takes no minutes."""
        how = compile_arguments(ours=isinstance(self.model, MViT), rehearse=self.rehearse)
        self.forward = torch.compile(self.model, dynamic=False, **how)

    def as_form(self, form: str) -> Callable[[], object]:
        """The step as it is timed; the first call of a compiled one compiles."""
        for module in self.model.modules():
            if isinstance(module, Block):
                module.fused_norms = form in WITH_NORMS
            if isinstance(module, MultiscaleAttention):
                module.form = ATTENTION_OF.get(form, "auto")
        if form in COMPILES and self.forward is self.model:
            self.compile()
        if form == TRAINER_GRAPHS and self.device == "cuda":
            graphed = GraphedModel(self.model)
            graphed.capture(self.clips.shape, bf16=True)
            self.forward = graphed
        return self.graphed() if form in GRAPHS else self

    def graphed(self) -> Callable[[], object]:
        """The step as one CUDA graph; on the CPU, which has none, as it is."""
        if self.device != "cuda":
            return self
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self()
        self._graph = graph
        return graph.replay


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def once(work: Callable[[], object], device: str) -> float:
    """Seconds of one call, with whatever it does for the first time."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], device: str, *, span: float = 1.0, most: int = 50) -> float:
    """Median seconds of a call: device time between events on CUDA, else wall time.

    Args:
        span: about so many seconds are measured, at least three calls and at most `most`.
    """
    estimate = once(work, device)
    if device == "cpu":  # a rehearsal, whose times mean nothing
        return estimate
    repeats = max(3, min(most, int(span / max(estimate, 1e-6))))
    if device != "cuda":
        return statistics.median(once(work, device) for _ in range(repeats))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    for number, event in enumerate(events):
        event.record()
        if number < repeats:
            work()
    torch.cuda.synchronize()
    times = [first.elapsed_time(last) for first, last in pairwise(events)]
    return statistics.median(times) / 1000


def host_seconds(work: Callable[[], object], device: str) -> float:
    """Seconds for which the host is busy with one call, not waiting for the device."""
    repeats = 3 if device == "cuda" else 1
    synchronise(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    busy = time.perf_counter() - start
    synchronise(device)
    return busy / repeats


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak_gb(device: str) -> float:
    """Most memory that was allocated since `reset_peak`, in 10^9 bytes; 0 on the CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0


def allocated_gb(device: str) -> float:
    """Memory that tensors hold now, in 10^9 bytes; 0 on the CPU."""
    return torch.cuda.memory_allocated() / 1e9 if device == "cuda" else 0.0


def bytes_of(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def matrix_rate(device: str) -> float:
    """Operations per second of a large bf16 matrix product on random data."""
    size = 8192 if device == "cuda" else 64
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b, device, span=0.2)


def copy_rate(device: str) -> float:
    """Bytes per second, read and written, of a copy on the device that no cache holds."""
    count = 2**30 if device == "cuda" else 2**16
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device, span=0.2)


def relative(ours: Tensor, theirs: Tensor, what: str = "the result") -> float:
    """|ours - theirs| / |theirs|, by the sums of squares, in float64; infinite where ours is not finite.

    On the null GPU, where neither was computed, it is not a number.

    Args:
        ours: what is judged.
        theirs: what it is compared with, of the same shape.
        what: they are, for the message of the error.

    Raises:
        ValueError: theirs is zero, or not finite: nothing can be compared with it.
    """
    if null_gpu.present():
        return math.nan
    ours, theirs = ours.detach().double(), theirs.detach().double()
    norm = float(theirs.norm())
    if not math.isfinite(norm) or norm == 0.0:
        raise ValueError(
            f"{what}: the norm of the reference is {norm}, so nothing can be compared with it: find out why it is so"
        )
    difference = float((ours - theirs).norm()) / norm
    return difference if math.isfinite(difference) else math.inf


def launches_of(work: Callable[[], object]) -> dict[str, int]:
    """Launches of one call as a column, where they can be counted: on the null GPU alone."""
    if not null_gpu.present():
        return {}
    before = null_gpu.counts()
    work()
    return {"launches": (null_gpu.counts() - before).launches}
