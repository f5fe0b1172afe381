"""In which form the steps of a run are computed: `trainer.compile` and `trainer.cuda_graphs`, true, false or auto.

With auto the forms are timed where the run begins, and the fastest is kept by the run: a compiled model sums in another
order, so a run that chose anew after a restart would not go on with the same bits.
"""

import gc
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mvit_video.build.run_identity import recorded_options
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.config import Train
from mvit_video.distributed.process_group import World, from_main, mean_over_ranks
from mvit_video.engine.graphs import GraphedModel
from mvit_video.engine.precision import autocast, uses_bf16
from mvit_video.models import MViT
from mvit_video.runtime.compilation import COMPILE_OPTIONS

logger = logging.getLogger(__name__)

AUTO = "auto"
OPTIONS = ("compile", "cuda_graphs")
STEPS = 5
"""Timed steps of each form, after two that are not."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How forward and backward pass are computed."""

    compile: bool = False
    cuda_graphs: bool = False

    @property
    def words(self) -> str:
        """As in "12 ms ...": "compiled", "as CUDA graphs", "compiled as CUDA graphs", "as it is"."""
        found = ["compiled"] * self.compile + ["as CUDA graphs"] * self.cuda_graphs
        return " ".join(found) or "as it is"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A form, and why it was chosen."""

    form: Form
    reason: str


def resolve_form(config: Train, builder: TaskBuilder, model: nn.Module, world: World) -> None:
    """Replace `auto` in `trainer.compile` and `trainer.cuda_graphs` by true or false, the same on all ranks.

    A run that goes on keeps its own. To be called with the model on its device, its recomputed blocks chosen, and
    `trainer.batch_size` a number. Weights, gradients and random state are left as they are.

    Raises:
        ValueError: CUDA graphs are asked for, and there cannot be any.
        RuntimeError: the GPU cannot be used any more after a form that failed.
    """
    trainer = config.trainer
    asked = [name for name in OPTIONS if getattr(trainer, name) == AUTO]
    recorded = from_main(_recorded(config.run_dir) if asked and world.is_main else None, world)
    if asked and recorded is None:
        exchange_s = _exchange_s(config, model, world)
        choice = from_main(_choose(config, builder, model, world, exchange_s) if world.is_main else None, world)
        recorded = choice.form
        logger.info("%s, %s", _answers(asked, recorded), choice.reason)
    elif asked:
        logger.info("%s, as the run began", _answers(asked, recorded))
    for name in OPTIONS:
        setattr(trainer, name, bool(getattr(recorded if name in asked else trainer, name)))
    refused = why_no_graphs(config, model, world) if trainer.cuda_graphs else None
    if refused is not None:
        raise ValueError(f"trainer.cuda_graphs=true: {refused}; set trainer.cuda_graphs=false")


def _answers(asked: Sequence[str], form: Form) -> str:
    return " and ".join(f"trainer.{name}=auto: {str(getattr(form, name)).lower()}" for name in asked)


def graphed_shape(config: Train, builder: TaskBuilder, model: nn.Module) -> tuple[int, ...] | None:
    """Shape of every batch of a run with CUDA graphs, None for others; after `resolve_form`."""
    if not config.trainer.cuda_graphs:
        return None
    assert isinstance(model, MViT)
    return builder.input_shape(config, model.config)


def why_no_graphs(config: Train, model: nn.Module, world: World) -> str | None:
    """Why the passes of a model cannot be CUDA graphs in this run; None where they can."""
    if world.device.type != "cuda":
        return f"there are none on this device ({world.device.type}), only on CUDA GPUs"
    if not isinstance(model, MViT):
        return f"{type(model).__name__} is no MViT model, whose inputs all have one shape"
    if config.trainer.strategy == "fsdp" and world.size > 1:
        return "trainer.strategy=fsdp divides the model among the ranks, whose exchange is not captured"
    return None


def _exchange_s(config: Train, model: nn.Module, world: World) -> float:
    """Seconds in which the ranks sum all gradients, measured by all of them; 0 where no form has to wait for it."""
    if world.size == 1 or config.trainer.cuda_graphs != AUTO or why_no_graphs(config, model, world) is not None:
        return 0.0
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    gradients = torch.zeros(count, device=world.device)

    def exchange() -> None:
        mean_over_ranks(gradients, world)

    return median_s(exchange, world.device)


def _choose(config: Train, builder: TaskBuilder, model: nn.Module, world: World, exchange_s: float = 0.0) -> Choice:
    forms = [
        Form(compile=compile, cuda_graphs=cuda_graphs)
        for compile in _values(config.trainer.compile)
        for cuda_graphs in _values(config.trainer.cuda_graphs)
    ]
    no_graphs = why_no_graphs(config, model, world)
    if no_graphs is not None:
        forms = [form for form in forms if not form.cuda_graphs] or forms[:1]
    unmeasured = _why_unmeasured(config, model, world)
    if unmeasured is not None and config.trainer.compile == AUTO:
        return Choice(form=forms[0], reason=unmeasured)
    about_graphs = None
    if no_graphs is not None and config.trainer.cuda_graphs == AUTO:
        about_graphs = f"no CUDA graphs because {no_graphs}"
    if len(forms) == 1:
        return Choice(form=forms[0], reason=str(about_graphs))
    assert isinstance(model, MViT)
    bf16 = uses_bf16(config.trainer.precision, world.device)  # type: ignore[arg-type]
    shape = builder.input_shape(config, model.config)
    choice = fastest(model, shape, bf16=bf16, forms=forms, exchange_s=exchange_s)
    return Choice(form=choice.form, reason="; ".join(filter(None, (choice.reason, about_graphs))))


def _why_unmeasured(config: Train, model: nn.Module, world: World) -> str | None:
    if world.device.type == "cpu":
        return (
            "because it is measured on GPUs alone: on a CPU most of a step is the libraries' matrix products, "
            "compiled or not, and compiling takes minutes"
        )
    if not isinstance(model, MViT):
        return f"because {type(model).__name__} is no MViT model, whose inputs all have one shape"
    if config.trainer.strategy == "fsdp" and world.size > 1:
        return "because it is not measured for models that are divided among the ranks"
    return None


def _values(option: bool | str) -> tuple[bool, ...]:
    return (False, True) if option == AUTO else (bool(option),)


def fastest(
    model: nn.Module, shape: tuple[int, ...], *, bf16: bool, forms: Sequence[Form], exchange_s: float = 0.0
) -> Choice:
    """Time forward and backward passes of a batch of noise in several forms.

    Among several ranks, gradients travel beside the backward pass, as far as it is long enough; those of a CUDA graph
    after it.

    Args:
        model: on its device; takes one tensor and gives one.
        shape: of the batch.
        bf16: computed in bf16.
        forms: of which the first is taken where none can be measured.
        exchange_s: seconds in which the ranks sum all gradients.

    Raises:
        RuntimeError: the GPU cannot be used any more after a form that failed.
    """
    device = next(model.parameters()).device
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    runners = Runners(model, shape, bf16=bf16)
    times: dict[Form, float] = {}
    failures = []

    def step(forward: Callable[[Tensor], Tensor]) -> None:
        with autocast(bf16, device):
            outputs = forward(inputs)
        outputs.float().square().mean().backward()
        model.zero_grad(set_to_none=True)

    with _as_before(model, device):
        for form in forms:
            gc.collect()  # what the form before has left, also where it failed
            try:
                with runners.of(form, first_step=step) as forward:
                    passes = median_s(lambda: step(forward), device)
                    times[form] = passes + waited_s(form, passes, exchange_s)
            except Exception as error:  # compilers, captures and memory fail in many ways; the run can go on without
                model.zero_grad(set_to_none=True)
                failures.append(f"{form.words} it failed: {_first_line(error)}")
                _still_usable(device, form, error)
    if not times:
        return Choice(form=forms[0], reason=f"because the measurement failed: {'; '.join(failures)}")
    said = [f"{1e3 * times[form]:.1f} ms {form.words}" for form in sorted(times, key=lambda form: times[form])]
    texts = [f"forward and backward pass take {', '.join(said)}", *failures]
    if exchange_s:
        texts.append(f"of that the ranks wait for their gradients, whose sum takes {1e3 * exchange_s:.1f} ms")
    if runners.compiling_s is not None:
        texts.append(f"compiling took {runners.compiling_s:.0f} s")
    return Choice(form=min(times, key=lambda form: times[form]), reason=f"because {'; '.join(texts)}")


def waited_s(form: Form, passes_s: float, exchange_s: float) -> float:
    """Seconds of a step that go by while gradients travel and nothing is computed; a backward pass is two thirds."""
    return exchange_s if form.cuda_graphs else max(0.0, exchange_s - passes_s * 2 / 3)


class Runners:
    """A model in each form, for batches of a shape; compiled once for all forms that are.

    Attributes:
        compiling_s: seconds of the first compiled step; None: there was none.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...], *, bf16: bool) -> None:
        self.model = model
        self.shape = shape
        self.bf16 = bf16
        self.compiling_s: float | None = None
        self._compiled: nn.Module | None = None

    @contextmanager
    def of(self, form: Form, *, first_step: Callable[[nn.Module], None]) -> Iterator[nn.Module]:
        """The model in a form; the memory of its graphs is free again after the block."""
        network = self.compiled(first_step) if form.compile else self.model
        if not form.cuda_graphs:
            yield network
            return
        graphed = GraphedModel(network)
        try:
            graphed.capture(self.shape, bf16=self.bf16)
            yield graphed
        finally:
            graphed.release()
            torch.cuda.empty_cache()

    def compiled(self, first_step: Callable[[nn.Module], None]) -> nn.Module:
        """The compiled model, after its first step."""
        if self._compiled is None:
            compiled: nn.Module = torch.compile(self.model, options=COMPILE_OPTIONS)  # type: ignore[assignment]
            start = time.perf_counter()
            first_step(compiled)
            self.compiling_s = time.perf_counter() - start
            self._compiled = compiled
        return self._compiled


@contextmanager
def _as_before(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Train in the block; mode and random state are afterwards what they were."""
    was_training = model.training
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model.train()
            yield
        finally:
            model.train(was_training)
            gc.collect()


def _first_line(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:200]}"


def _still_usable(device: torch.device, form: Form, error: Exception) -> None:
    """Compute and draw something on the device.

    Raises:
        RuntimeError: that is not possible any more.
    """
    try:
        torch.rand(2, device=device).sum().item()
    except RuntimeError as after:
        option = "trainer.cuda_graphs" if form.cuda_graphs else "trainer.compile"
        raise RuntimeError(
            f"{device} cannot be used any more ({_first_line(after)}) after a step {form.words} failed "
            f"({_first_line(error)}): start the run again with {option}=false"
        ) from error


def median_s(step: Callable[[], None], device: torch.device) -> float:
    """Median seconds of a step."""
    for _ in range(2):
        step()
    times = []
    for _ in range(STEPS):
        _synchronise(device)
        start = time.perf_counter()
        step()
        _synchronise(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _recorded(run_dir: Path) -> Form | None:
    """What the run in a directory was begun with; None if it has not begun. Older ones know no CUDA graphs."""
    options = recorded_options(run_dir)
    if options is None:
        return None
    trainer = options["trainer"]
    return Form(compile=bool(trainer["compile"]), cuda_graphs=bool(trainer.get("cuda_graphs", False)))
