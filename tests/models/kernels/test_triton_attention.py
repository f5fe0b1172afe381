"""The Triton attention, run on the CPU in Triton's interpreter, as test_in_the_interpreter.py explains."""

import re

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from mvit_video.models.config import Triple
from mvit_video.models.kernels import gradient, triton_attention, triton_terms
from mvit_video.models.kernels.position_columns import queries_with_terms
from mvit_video.models.kernels.triton_attention import Tiles, attention
from mvit_video.models.kernels.triton_pool import INTERPRETED
from mvit_video.models.kernels.triton_terms import supports
from mvit_video.models.mvit.attention import (
    MultiscaleAttention,
    choose_form,
    explicit_attention,
    one_hot_positions,
    position_terms,
)
from tests.models.helpers import HopperWithoutDevice, image_fields, small_config

INTERPRETED_TESTS = 18
ALL, SPATIAL = (0, 1, 2), (1, 2)
BOUNDS = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}

Case = tuple[Triple, Triple, int, int, int, int, tuple[int, ...]]
CASES: list[Case] = [  # grids of queries and keys, batch, heads, channels, cls, axes
    ((2, 3, 3), (2, 2, 2), 1, 1, 8, 1, ALL),
    ((1, 2, 2), (1, 3, 6), 1, 2, 8, 0, SPATIAL),
    ((1, 2, 2), (1, 1, 2), 2, 2, 8, 1, SPATIAL),
    ((1, 1, 2), (2, 2, 1), 1, 1, 96, 1, ALL),
    ((1, 1, 2), (1, 2, 2), 1, 2, 72, 0, SPATIAL),
    ((1, 2, 1), (2, 36, 1), 1, 1, 16, 1, ALL),
]


def operands(case: Case, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """Queries, keys, values and the tables of the axes, all random."""
    grid_q, grid_kv, batch, heads, channels, cls, axes = case
    torch.manual_seed(0)
    tokens = (cls + grid[0] * grid[1] * grid[2] for grid in (grid_q, grid_kv, grid_kv))
    shapes = [(batch, count, heads, channels) for count in tokens]
    shapes += [(grid_q[axis], grid_kv[axis], channels) for axis in axes]
    return [torch.randn(shape).to(device, dtype).requires_grad_() for shape in shapes]


def plain(inputs: list[Tensor], case: Case) -> Tensor:
    """The bias written out."""
    grid_q, grid_kv, _, _, channels, cls, axes = case
    q, k, v = (x.transpose(1, 2) for x in inputs[:3])
    terms = position_terms(q[:, :, cls:], inputs[3:], axes, grid_q) * channels**-0.5
    bias = terms @ one_hot_positions(grid_kv, axes, 0, q.device).to(q.dtype).t()
    return explicit_attention(q, k, v, bias, cls).transpose(1, 2)


def fused(inputs: list[Tensor], case: Case) -> Tensor:
    grid_q, grid_kv, _, _, channels, cls, _ = case
    q, k, v, *tables = inputs
    return attention(q, k, v, tables, grid_q, grid_kv, cls=cls, scale=channels**-0.5)


def errors(case: Case, dtype: torch.dtype, device: str = "cpu") -> list[float]:
    """Relative errors of the result and all gradients, against the plain form in float64."""
    inputs = operands(case, dtype, device)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    results = []
    for form, tensors in ((fused, inputs), (plain, exact)):
        result = form(tensors, case)
        grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(device, dtype).to(result.dtype)
        results.append([result.detach(), *torch.autograd.grad(result, tensors, grad)])
    assert all(a.dtype == dtype and a.shape == b.shape for a, b in zip(*results))
    return [float((a.double() - b).norm() / b.norm().clamp_min(0.1)) for a, b in zip(*results)]


if INTERPRETED:

    @pytest.fixture(autouse=True)
    def small_tiles(monkeypatch):
        """Several tiles at small sizes, each with a part left over; the gradient's parts are added up."""
        for name in ("SINGLE", "HALF"):
            monkeypatch.setattr(triton_attention, name, (Tiles(16, 16, 4, 2),) * 3)
        monkeypatch.setattr(triton_attention, "PROGRAMS", 4)
        monkeypatch.setattr(triton_terms, "GRADIENT_ROWS", 16)
        monkeypatch.setattr(triton_terms, "PROGRAMS", 2)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_result_and_gradients_equal_the_plain_form(case):
        assert max(errors(case, torch.float32)) < BOUNDS[torch.float32]

    @pytest.mark.parametrize(
        "case", [((2, 2, 1), (2, 3, 2), 1, 2, 8, 1, ALL), ((1, 2, 3), (1, 3, 2), 2, 1, 48, 0, SPATIAL)]
    )
    def test_extended_queries_equal_those_of_library_products(case):
        q, _, _, *tables = operands(case, torch.float32)
        results = []
        for form in ("kernel", "products"):
            if form == "kernel":
                result = triton_terms.extended_queries(q, tables, case[0], cls=case[5], fill=3)
            else:
                result = queries_with_terms(q, tables, case[6], case[0], cls=case[5], fill=3)
            grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
            results.append([result.detach(), *torch.autograd.grad(result, [q, *tables], grad)])
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_differs_by_its_roundings(dtype):
        assert max(errors(((1, 2, 2), (1, 2, 2), 1, 1, 24, 1, SPATIAL), dtype)) < BOUNDS[dtype]

    def test_large_logits_do_not_overflow():
        case = ((1, 2, 2), (1, 2, 9), 1, 1, 8, 1, SPATIAL)
        inputs = [(6 * x).detach().requires_grad_() for x in operands(case, torch.float32)]
        ours, theirs = (form(inputs, case) for form in (fused, plain))
        gradients = [torch.autograd.grad(result.sum(), inputs) for result in (ours, theirs)]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)

    def test_operands_may_lie_anywhere():
        case = ((1, 2, 2), (1, 2, 1), 1, 2, 8, 1, SPATIAL)
        inputs = operands(case, torch.float32)
        within = torch.randn(1, 3, 3, 2, 8)
        strided = [torch.randn(1, 2, 5, 8).transpose(1, 2), *within.unbind(1)[1:], *inputs[3:]]
        torch.testing.assert_close(fused(strided, case), plain(strided, case), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("ours", "changes", "grid"),
        [
            ("triton", {}, (1, 2, 2)),
            ("triton", image_fields(cls_token=False, head_pooling="norm_mean"), (1, 2, 3)),
            ("triton_terms", {}, (1, 2, 2)),
        ],
    )
    def test_a_layer_with_the_kernels_equals_the_plain_one(ours, changes, grid):
        results = []
        for form in (ours, "explicit"):
            config = small_config(attention_form=form, pooling_form="library", **changes)
            layer = MultiscaleAttention(config, config.blocks[1])
            torch.manual_seed(0)
            for parameter in layer.parameters():
                torch.nn.init.normal_(parameter, std=0.4)
            x = torch.randn(1, layer.cls + grid[0] * grid[1] * grid[2], layer.geometry.dim_in, requires_grad=True)
            out, _ = layer(x, grid)
            out.square().sum().backward()
            results.append([out.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())])
        for a, b in zip(*results):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 + 1e-4 * float(b.abs().max()))

    def test_called_as_operators_they_give_the_same(monkeypatch):
        case = ((1, 1, 2), (1, 2, 1), 1, 2, 8, 1, SPATIAL)
        inputs = operands(case, torch.float32)
        results = []
        for direct in (True, False):
            for module in (triton_attention, triton_terms, gradient):
                monkeypatch.setattr(module, "runs_now", lambda *_, d=direct: d)
            extended = triton_terms.extended_queries(inputs[0], inputs[3:], (1, 1, 2), cls=1, fill=2)
            out = fused(inputs, case)
            results.append([out, extended, *torch.autograd.grad(out.pow(3).sum() + extended.pow(3).sum(), inputs)])
        assert all(torch.equal(a, b) for a, b in zip(*results))
        monkeypatch.undo()
        with torch.no_grad():
            alone = fused(inputs, case), triton_terms.extended_queries(inputs[0], inputs[3:], (1, 1, 2), cls=1, fill=2)
        assert all(torch.equal(a, b) for a, b in zip(alone, results[0]))

    def test_operators_pass_the_checks_of_torch():
        case = ((1, 1, 2), (1, 2, 1), 1, 2, 8, 1, SPATIAL)
        q, k, v, *tables = operands(case, torch.float32)
        rows = torch.cat([table.detach().flatten(0, 1) for table in tables]).requires_grad_()
        geometry = ([1, 1, 2], [1, 2, 1], False, 1, 0.5)
        checks = ("test_schema", "test_faketensor", "test_autograd_registration")
        torch.library.opcheck(triton_attention._attention, (q, k, v, rows, *geometry), test_utils=checks)
        inputs = [x.detach() for x in (q, k, v, rows)]
        output = torch.ops.mvit_video.attention(*inputs, *geometry)
        arguments = (torch.randn_like(output[0]), *inputs, *output, *geometry)
        torch.library.opcheck(triton_attention._attention_backward, arguments, test_utils=checks[:2])
        geometry = ([1, 1, 2], [1, 2, 1, 0], 1)
        torch.library.opcheck(triton_terms._extended_queries, (q, rows, *geometry, 12), test_utils=checks)
        extended = torch.ops.mvit_video.extended_queries(inputs[0], inputs[3], *geometry, 12)
        arguments = (torch.randn_like(extended), extended, inputs[3], *geometry)
        torch.library.opcheck(triton_terms._extended_queries_backward, arguments, test_utils=checks[:2])

    def test_compiles_to_one_graph_for_every_batch():
        counter = CompileCounterWithBackend("aot_eager")
        case = ((1, 1, 2), (1, 2, 1), 2, 1, 8, 1, SPATIAL)
        compiled = torch.compile(lambda *inputs: fused(list(inputs), case), backend=counter, fullgraph=True)
        for batch in (2, 3):
            inputs = operands((*case[:2], batch, *case[3:]), torch.float32)
            for operand in inputs[:3]:
                torch._dynamo.mark_dynamic(operand, 0)
            theirs = plain(inputs, case)
            grads = [torch.autograd.grad(result.square().sum(), inputs) for result in (compiled(*inputs), theirs)]
            torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)
        assert counter.frame_count == 1

else:

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("dtype", BOUNDS, ids=str)
    def test_a_device_equals_the_plain_form(dtype):
        cases: list[Case] = [
            ((8, 28, 28), (8, 7, 7), 2, 2, 96, 1, ALL),
            ((4, 14, 13), (4, 14, 13), 1, 4, 96, 1, ALL),
            ((5, 20, 20), (20, 20, 20), 1, 2, 72, 1, ALL),
            ((1, 64, 64), (1, 16, 17), 1, 2, 96, 0, SPATIAL),
        ]
        for case in cases:
            assert max(errors(case, dtype, "cuda")) < 10 * BOUNDS[dtype], case

    def test_the_cpu_keeps_the_plain_form():
        inputs = operands(CASES[0], torch.float32)
        assert not supports(inputs[0], 7)
        with pytest.raises(ValueError, match=r"No Triton attention for torch.float32 on cpu.*attention_form='flash'"):
            fused(inputs, CASES[0])
        small, large = torch.empty(1, 1, 100, 4), torch.empty(1, 1, 2000, 4)
        for form in ("triton", "triton_terms"):
            assert choose_form(form, 100, small, 7) == "matmul" and choose_form(form, 2000, large, 7) == "flash"

    @pytest.mark.parametrize(
        ("dtype", "channels", "terms", "supported"),
        [
            (torch.bfloat16, 96, 36, True),
            (torch.float16, 128, 128, True),
            (torch.float32, 72, 60, True),
            (torch.float64, 96, 22, False),
            (torch.bfloat16, 129, 22, False),
            (torch.bfloat16, 96, 129, False),
            (torch.bfloat16, 96, 0, False),
        ],
    )
    def test_cuda_takes_heads_and_terms_that_fit(dtype, channels, terms, supported):
        pytest.importorskip("triton")
        with FakeTensorMode():
            assert supports(torch.empty(2, 5, 1, channels, dtype=dtype, device="cuda"), terms) is supported

    def test_heads_are_tiles_of_powers_of_two():
        widths = {8: (16, 0), 24: (32, 0), 48: (32, 16), 64: (64, 0), 72: (64, 16), 96: (64, 32), 128: (128, 0)}
        assert {width: triton_terms.split_width(width) for width in widths} == widths

    @pytest.mark.parametrize(("rows", "wanted", "dealt"), [(100, 3, (3, 48)), (100, 99, (7, 16)), (5, 4, (1, 16))])
    def test_rows_are_dealt_out_in_whole_tiles(rows, wanted, dealt):
        assert triton_terms.deal(rows, 16, wanted) == dealt

    @pytest.mark.parametrize(
        ("form", "module", "name"),
        [("triton", triton_attention, "attention"), ("triton_terms", triton_terms, "extended_queries")],
    )
    def test_a_layer_on_cuda_takes_the_kernels_where_they_fit(form, module, name, monkeypatch):
        pytest.importorskip("triton")
        calls = []
        ours = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: calls.append(1) or ours(*a, **k))
        config = small_config(attention_form=form)
        with FakeTensorMode(), torch.device("cuda"):
            for dtype in (torch.float32, torch.float64):
                torch.set_default_dtype(dtype)
                try:
                    layer = MultiscaleAttention(config, config.blocks[1])
                    out, _ = layer(torch.empty(1, 129, layer.geometry.dim_in), (2, 8, 8))
                finally:
                    torch.set_default_dtype(torch.float32)
                assert out.shape == (1, 33, layer.geometry.dim_attn) and calls == [1]

    @pytest.mark.slow
    def test_kernels_compile_for_hopper_as_they_are_launched_and_without_atomics(tmp_path, monkeypatch):
        """The interpreter accepts more than the compiler does, which needs no GPU. 36 terms are two tiles."""
        pytest.importorskip("triton")
        from triton.runtime import driver
        from triton.runtime.jit import JITFunction

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        launch, compiled = JITFunction.run, {}

        def compile_only(self, *args, warmup, **options):
            binary = launch(self, *args, warmup=True, **options)
            form = "extended." if options.get("FIRST") else ""
            name = f"{form}{self.fn.__module__.rpartition('.')[2]}.{self.__name__}"
            text = binary.asm["ptx"]
            compiled[name] = (
                len(binary.asm["cubin"]) > 0,
                ".target sm_90" in text,
                bool(re.search(r"\b(atom|red)\.", text)),
            )

        monkeypatch.setattr(JITFunction, "run", compile_only)
        monkeypatch.setattr(driver, "_active", HopperWithoutDevice())
        q, k = (torch.zeros(1, tokens, 2, 96, dtype=torch.bfloat16) for tokens in (1 + 8 * 4, 1 + 8 * 14 * 14))
        tables, geometry = torch.zeros(8 * 8 + 2 * 14 + 2 * 14, 96).bfloat16(), ([8, 2, 2], [8, 14, 14], True, 1, 0.1)
        output = torch.ops.mvit_video.attention(q, k, k, tables, *geometry)
        torch.ops.mvit_video.attention_backward(q, q, k, k, tables, *output, *geometry)
        extended = torch.ops.mvit_video.extended_queries(q, tables, [8, 2, 2], [8, 14, 14, 8], 1, 136)
        torch.ops.mvit_video.extended_queries_backward(extended, extended, tables, [8, 2, 2], [8, 14, 14, 8], 1)
        names = ("_forward_kernel", "_query_gradient_kernel", "_key_gradient_kernel")
        terms = ("_terms_kernel", "_query_gradient_kernel", "_table_gradient_kernel")
        expected = [*(f"triton_attention.{n}" for n in names), *(f"triton_terms.{n}" for n in terms)]
        expected += [f"extended.triton_terms.{n}" for n in terms]
        assert compiled == dict.fromkeys(expected, (True, True, False))
