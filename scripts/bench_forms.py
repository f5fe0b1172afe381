"""Time every form of attention and of pooling that the model could use, block by block, on the machine at hand.

    python scripts/bench_forms.py --model mvitv2_motion --batch 8            # on the CPU, one thread
    python scripts/bench_forms.py --device cuda --batch 16 --dtype bfloat16

Forward and backward of the core alone: attention from pooled queries, keys and values to its result (without
projection), pooling from the tokens of a third of qkv to normalised heads. The forms take turns; the least of the
repetitions counts. Every form is compared with the literal one: "difference" is the largest difference of results, as
a share of the largest result. A form that this machine does not offer is listed with the reason. "default" is what a
model picks by itself here; where another row is faster, that is worth a report.
"""

import argparse
import dataclasses
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from bench_model import Clock, block_kinds, machine, table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mvit_video.models import create_model, get_config
from mvit_video.models.config import BlockGeometry, Triple
from mvit_video.models.kernels.library_attention import asks_cudnn
from mvit_video.models.kernels.pooling import depthwise_pool, on_grid
from mvit_video.models.kernels.position_columns import columns_to_fill, queries_with_terms, values_padding
from mvit_video.models.mvit.attention import (
    MultiscaleAttention,
    choose_form,
    explicit_attention,
    fused_attention,
    position_terms,
)

BACKENDS = {
    "flash kernel": SDPBackend.FLASH_ATTENTION,
    "cuDNN kernel": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient kernel": SDPBackend.EFFICIENT_ATTENTION,
}
Form = Callable[[], Tensor]


@dataclasses.dataclass
class Timing:
    """One form in one block: seconds of forward and backward, bytes kept between them, the result, or why not."""

    seconds: float = float("inf")
    kept: int = 0
    result: Tensor | None = None
    reason: str = ""


class AttentionCore:
    """Attention of one block on random pooled queries, keys and values, in every form."""

    def __init__(self, attention: MultiscaleAttention, batch: int, device: str, dtype: torch.dtype) -> None:
        self.attention, self.geometry = attention, attention.geometry
        self.cls, self.width = attention.cls, attention.geometry.head_dim
        heads = self.geometry.num_heads

        def operand(grid: Triple) -> Tensor:
            # Tokens before heads in memory, as pooling leaves them.
            shape = (batch, self.cls + grid[0] * grid[1] * grid[2], heads, self.width)
            return torch.randn(shape, device=device, dtype=dtype).transpose(1, 2).requires_grad_()

        self.q = operand(self.geometry.grid_q)
        self.k, self.v = operand(self.geometry.grid_kv), operand(self.geometry.grid_kv)

    def tables(self, scale: float = 1.0) -> list[Tensor]:
        return self.attention._tables(self.geometry.grid_q, self.geometry.grid_kv, self.q.dtype, scale)

    def one_hot(self) -> Tensor:
        return self.attention._one_hot(self.geometry.grid_kv).to(self.k.dtype)

    def explicit(self) -> Tensor:
        terms = position_terms(self.q[:, :, self.cls :], self.tables(), self.attention.axes, self.geometry.grid_q)
        return explicit_attention(self.q, self.k, self.v, terms @ self.one_hot()[self.cls :].t(), self.cls)

    def extended(
        self, width: int, padding: int, *, small: bool = False, kernel: bool = False, cudnn: bool = True
    ) -> Tensor:
        """Extended operands, queries and keys filled up to a multiple of `width`, values by `padding` columns (or, if
        negative, to the width of the queries); `kernel`: queries are written by one Triton kernel; `cudnn`: the choice
        of the kernel is left to PyTorch."""
        scale = self.width**-0.5
        tables = self.tables(scale)
        fill = -(self.width + sum(rows.shape[1] for rows in tables)) % width
        queries, grid = self.q.transpose(1, 2), self.geometry.grid_q
        if kernel:
            from mvit_video.models.kernels import triton_terms

            q = triton_terms.extended_queries(queries, tables, grid, cls=self.cls, fill=fill)
        else:
            q = queries_with_terms(queries, tables, self.attention.axes, grid, cls=self.cls, fill=fill)
        one_hot = F.pad(self.one_hot(), (0, fill))
        k = torch.cat([self.k, one_hot.expand(*self.k.shape[:2], -1, -1)], dim=-1)
        values = q.shape[-1] - self.width if padding < 0 else padding
        return fused_attention(q, k, self.v, scale, small=small, padding=values, cudnn=cudnn)[..., : self.width]

    def on(self, backend: SDPBackend, padding: int) -> Tensor:
        with sdpa_kernel(backend):
            return self.extended(8, padding)

    def flex(self, kernel: Callable[..., Tensor]) -> Tensor:
        """FlexAttention that looks the terms up by the coordinates of the key; column 0 is for the class token."""
        axes, grid = self.attention.axes, self.geometry.grid_kv
        terms = position_terms(self.q[:, :, self.cls :], self.tables(), axes, self.geometry.grid_q)
        # A tensor of its own for each axis: what needs a gradient may be looked up once.
        on_axes = [F.pad(part, (1, 0, self.cls, 0)) for part in terms.split([grid[axis] for axis in axes], dim=-1)]
        places = torch.cartesian_prod(*(torch.arange(size, device=terms.device) for size in grid))
        columns = [F.pad(places[:, axis] + 1, (self.cls, 0)) for axis in axes]

        def score(value: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            for part, column in zip(on_axes, columns):
                value = value + part[b, h, query, column[key]]
            return value

        return kernel(self.q, self.k, self.v, score_mod=score)

    def triton(self) -> Tensor:
        from mvit_video.models.kernels import triton_attention

        scale, geometry = self.width**-0.5, self.geometry
        tables = self.tables(scale)
        operands = (x.transpose(1, 2) for x in (self.q, self.k, self.v))
        out = triton_attention.attention(
            *operands, tables, geometry.grid_q, geometry.grid_kv, cls=self.cls, scale=scale
        )  # fmt: skip
        return out.transpose(1, 2)

    def default(self, *, kernel: bool = False) -> Tensor:
        small = choose_form("auto", self.q.shape[2], self.k) == "matmul" and not kernel
        terms = sum(rows.shape[1] for rows in self.tables())
        if small:
            return self.extended(1, 0, small=True)
        columns = self.width + terms + columns_to_fill(self.width, terms, self.q.dtype)
        cudnn = asks_cudnn(self.q, self.k, self.v, columns=columns, steady=True)
        return self.extended(8, values_padding(self.q, columns, cudnn=cudnn), kernel=kernel, cudnn=cudnn)

    def forms(self) -> dict[str, Form]:
        """By name; the first is the literal one, the second what the model picks."""
        forms: dict[str, Form] = {"explicit": self.explicit, "default": self.default}
        forms["products and softmax"] = lambda: self.extended(1, 0, small=True)
        for name, backend in BACKENDS.items():
            forms[f"{name}, equal widths"] = lambda b=backend: self.on(b, -1)  # type: ignore[misc]
            forms[f"{name}, narrow values"] = lambda b=backend: self.on(b, -self.width % 8)  # type: ignore[misc]
        forms["Triton attention"] = self.triton
        forms["default, terms by Triton"] = lambda: self.default(kernel=True)
        from torch.nn.attention.flex_attention import flex_attention

        compiled = torch.compile(flex_attention, dynamic=False)
        forms["FlexAttention, compiled"] = lambda: self.flex(compiled)
        return forms

    def inputs(self) -> list[Tensor]:
        return [self.q, self.k, self.v]


class Pooling:
    """Pooling of the queries of one block and the norm behind it, in every form."""

    def __init__(self, attention: MultiscaleAttention, batch: int, device: str, dtype: torch.dtype) -> None:
        self.attention, self.geometry = attention, attention.geometry
        grid, heads = self.geometry.grid_in, self.geometry.num_heads
        tokens = attention.cls + grid[0] * grid[1] * grid[2]
        shape = (batch, tokens, 3 * heads * self.geometry.head_dim)
        self.qkv = torch.randn(shape, device=device, dtype=dtype).requires_grad_()
        assert attention.pool_q is not None
        self.pool = attention.pool_q

    def plain(self, form: str) -> Tensor:
        """The part of qkv that holds the queries, pooled and normalised: (B, N', heads, c)."""
        norm: nn.Module = self.attention.get_submodule("norm_q")
        bank, stride = self.pool.bank(), self.pool.stride
        pooled = on_grid(
            self.qkv.chunk(3, dim=-1)[0],
            self.geometry.grid_in,
            self.attention.cls,
            lambda maps: depthwise_pool(maps, bank, stride, form=form),  # type: ignore[arg-type]
        )
        normed: Tensor = norm(pooled.unflatten(-1, (self.geometry.num_heads, -1))).to(self.qkv.dtype)
        return normed

    def triton(self) -> Tensor:
        from mvit_video.models.kernels import triton_pool

        norm = self.attention.get_submodule("norm_q")
        return triton_pool.pool_norm(
            self.qkv.chunk(3, dim=-1)[0], self.pool.bank(), norm.weight, norm.bias, self.geometry.grid_in,
            self.pool.stride, cls=self.attention.cls, heads=self.geometry.num_heads, eps=norm.eps,
        )  # fmt: skip

    def default(self) -> Tensor:
        return self.attention._pool_queries(self.qkv.chunk(3, dim=-1)[0], self.geometry.grid_in)[0]

    def forms(self) -> dict[str, Form]:
        """By name; the first is the literal one, the second what the model picks."""
        forms: dict[str, Form] = {"library": lambda: self.plain("library"), "default": self.default}
        return forms | {"flipped": lambda: self.plain("flipped"), "Triton": self.triton}

    def inputs(self) -> list[Tensor]:
        return [self.qkv]


def kept_bytes(form: Form) -> tuple[int, Tensor]:
    """Bytes of the distinct storages that autograd keeps, and the result."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = form()
    return sum(kept.values()), result


def compare(
    core: AttentionCore | Pooling, clock: Clock, reps: int, autocast: bool, wanted: Callable[[str], bool] = bool
) -> dict[str, Timing]:
    """Every form of one core whose name is wanted: once to warm up and to compare, then taking turns."""
    device = core.inputs()[0].device.type
    parameters = [parameter for parameter in core.attention.parameters() if parameter.requires_grad]

    def step(form: Form) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            result = form()
        torch.autograd.grad(result.float().square().mean(), [*core.inputs(), *parameters], allow_unused=True)
        return result.detach()

    timings: dict[str, Timing] = {}
    usable: dict[str, Form] = {}
    for name, form in core.forms().items():
        if not wanted(name):
            continue
        timing = timings[name] = Timing()
        try:
            with warnings.catch_warnings():  # why a kernel was not used; the error that follows says it too
                warnings.simplefilter("ignore")
                timing.result = step(form)
                with torch.autocast(device, torch.bfloat16, enabled=autocast):
                    timing.kept, _ = kept_bytes(form)
            usable[name] = form
        except Exception as error:  # any library may refuse in its own way; the table says how
            timing.reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    for _ in range(reps):
        for name, form in usable.items():
            timings[name].seconds = min(timings[name].seconds, clock(lambda f=form: step(f)))  # type: ignore[misc]
    return timings


def rows_of(block: str, timings: dict[str, Timing]) -> list[list[str]]:
    """Lines of the table; the fastest form that is not called "default" is marked."""
    literal = next(iter(timings.values())).result
    named = {name: timing.seconds for name, timing in timings.items() if name != "default"}
    fastest = min(named, key=lambda name: named[name])
    rows = []
    for name, timing in timings.items():
        if timing.result is None:
            rows.append([block, name, "-", "-", "-", timing.reason[:90]])
            continue
        assert literal is not None
        off = float((timing.result.float() - literal.float()).abs().max() / literal.float().abs().max())
        mark = "fastest" if name == fastest else ""
        rows.append([block, name, f"{1e3 * timing.seconds:.2f}", f"{timing.kept / 2**20:.1f}", f"{off:.1e}", mark])
    return rows


def what(geometry: BlockGeometry) -> str:
    q, kv = (1 + g[0] * g[1] * g[2] for g in (geometry.grid_q, geometry.grid_kv))
    return f"{geometry.index}: {geometry.num_heads} heads, {q} queries, {kv} keys"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mvitv2_s_16x4", help="a preset of mvit_video.models")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, nargs="*", help="indices; without it one block of every kind")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    options.compile = False  # what `machine` reports of the other forms
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    print(machine(options), end="\n\n")
    config = get_config(options.model, drop_path=0.0)
    torch.manual_seed(0)
    model = create_model(options.model, drop_path=0.0).to(options.device)
    dtype = getattr(torch, options.dtype)
    clock = Clock(options.device)
    chosen = options.blocks or [first for first, _ in block_kinds(config)]
    for title, kind in (("attention", AttentionCore), ("pooling", Pooling)):
        rows = []
        for index in chosen:
            attention = model.get_submodule(f"blocks.{index}.attn")
            assert isinstance(attention, MultiscaleAttention)
            core = kind(attention, options.batch, options.device, dtype)
            timings = compare(core, clock, options.reps, autocast=dtype == torch.bfloat16)
            rows += rows_of(what(config.blocks[index]), timings)
            del core
        header = [title, "form", "forward and backward, ms", "kept, MiB", "difference", ""]
        print(table(header, rows, options.markdown), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
