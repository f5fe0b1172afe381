"""The Triton pooling, run on the CPU in Triton's interpreter, as test_in_the_interpreter.py explains."""

import ast
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from mvit_video.models.config import Triple
from mvit_video.models.kernels import gradient, triton_pool
from mvit_video.models.kernels.pooling import depthwise_pool, on_grid
from mvit_video.models.kernels.triton_pool import INTERPRETED, pool_norm, supports
from mvit_video.models.mvit.presets import create_model
from tests import interpreters
from tests.models.helpers import HopperWithoutDevice
from tests.paths import ROOT

INTERPRETED_TESTS = 18
EPS = 1e-6

Case = tuple[Triple, Triple, Triple, int, int, int, int]
CASES: list[Case] = [  # kernel, stride, grid, batch, heads, channels, cls
    ((3, 3, 3), (1, 1, 1), (3, 3, 4), 1, 1, 8, 1),
    ((1, 3, 3), (1, 1, 1), (1, 2, 3), 1, 1, 96, 1),
    ((3, 3, 3), (1, 2, 2), (2, 3, 5), 1, 1, 24, 1),
    ((3, 3, 3), (1, 4, 4), (2, 2, 5), 1, 1, 72, 0),
    ((3, 3, 3), (1, 8, 8), (1, 9, 17), 1, 1, 8, 1),
    ((1, 3, 3), (1, 8, 8), (1, 9, 10), 1, 2, 8, 0),
    ((1, 3, 3), (1, 1, 1), (1, 1, 1), 1, 1, 8, 1),
    ((3, 1, 1), (1, 1, 1), (4, 2, 3), 1, 1, 8, 0),
    ((1, 3, 1), (1, 2, 1), (2, 5, 3), 2, 2, 8, 1),
]


def plain(
    tokens: Tensor, weight: Tensor, gain: Tensor, shift: Tensor, grid: Triple, stride: Triple, cls: int, heads: int
) -> Tensor:
    pooled = on_grid(tokens, grid, cls, lambda maps: depthwise_pool(maps, weight, stride, form="library"))
    return F.layer_norm(pooled.unflatten(-1, (heads, -1)), gain.shape, gain, shift, EPS)


def operands(kernel: Triple, grid: Triple, batch: int, heads: int, channels: int, cls: int) -> list[Tensor]:
    """qkv, weight, gain and shift, all random."""
    torch.manual_seed(0)
    shapes = [(batch, cls + grid[0] * grid[1] * grid[2], 3 * heads * channels), (channels, 1, *kernel)]
    return [torch.randn(shape, requires_grad=True) for shape in [*shapes, (channels,), (channels,)]]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach().double() - theirs.detach()).abs().max() / theirs.detach().abs().max())


def errors(case: Case, dtype: torch.dtype, device: str = "cpu") -> list[float]:
    """Relative errors of the output and of the four gradients, against the plain form in float64."""
    kernel, stride, grid, batch, heads, channels, cls = case
    made = operands(kernel, grid, batch, heads, channels, cls)
    qkv, *parameters = (x.detach().to(device).requires_grad_() for x in made)
    qkv = qkv.detach().to(dtype).requires_grad_()
    ours = pool_norm(qkv.chunk(3, dim=-1)[1], *parameters, grid, stride, cls=cls, heads=heads, eps=EPS)
    # Attention hands back gradients with the heads before the tokens.
    grad = torch.randn(ours.transpose(1, 2).shape).to(device, dtype).transpose(1, 2)
    exact = [x.detach().double().requires_grad_() for x in (qkv, *parameters)]
    theirs = plain(exact[0].chunk(3, dim=-1)[1], *exact[1:], grid, stride, cls, heads)
    our_grads = torch.autograd.grad(ours, [qkv, *parameters], grad)
    their_grads = torch.autograd.grad(theirs, exact, grad.double())
    assert ours.is_contiguous() and ours.dtype == dtype
    assert [g.dtype for g in our_grads] == [dtype, torch.float32, torch.float32, torch.float32]
    return [relative_error(a, b) for a, b in zip([ours, *our_grads], [theirs, *their_grads])]


if INTERPRETED:

    def test_a_model_with_the_kernel_equals_the_plain_one(monkeypatch):
        monkeypatch.setattr(triton_pool, "PROGRAMS", 1)
        calls = []
        monkeypatch.setattr(triton_pool, "pool_norm", lambda *a, f=pool_norm, **k: calls.append(1) or f(*a, **k))
        small = {"embed_dim": 8, "num_frames": 2, "crop_size": 16, "num_classes": 3, "depth": 2, "stage_starts": (1,)}
        small["pool_kernel"] = (1, 3, 3)  # a third of the products
        clip = torch.randn(1, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
        gradients = []
        for form in ("triton", "library"):
            torch.manual_seed(0)
            model = create_model("mvitv2_motion", pooling_form=form, **small)
            model(clip).square().sum().backward()
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        assert len(calls) >= 4
        assert float((gradients[0] - gradients[1]).abs().max()) < 1e-4 * float(gradients[1].abs().max())

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_values_and_gradients_equal_the_plain_form(case, monkeypatch):
        monkeypatch.setattr(triton_pool, "PROGRAMS", 1)  # fewer programs: the interpreter runs one after the other
        assert max(errors(case, torch.float32)) < 1e-5

    def test_frames_dealt_out_to_several_programs_equal_the_plain_form(monkeypatch):
        monkeypatch.setattr(triton_pool, "PROGRAMS", 4)
        launch, chunk = triton_pool._programs(6, 4096, 5, 2)
        assert launch == (2, 2) and chunk == 3  # frames 0-2 and 3-4
        assert max(errors(((3, 1, 1), (1, 2, 2), (5, 3, 4), 2, 1, 8, 1), torch.float32)) < 1e-5

    def test_several_tiles_equal_the_plain_form(monkeypatch):
        monkeypatch.setattr(triton_pool, "PROGRAMS", 1)
        monkeypatch.setattr(triton_pool, "TILE", 16 * 8)
        monkeypatch.setattr(triton_pool, "WEIGHT_TILE", 16 * 4)
        assert max(errors(((1, 3, 1), (1, 1, 1), (2, 3, 6), 1, 1, 8, 1), torch.float32)) < 1e-5

    @pytest.mark.parametrize(
        ("dtype", "bound"), [(torch.bfloat16, 0.02), (torch.float16, 0.0025)], ids=["bfloat16", "float16"]
    )
    def test_half_precision_differs_by_its_rounding(dtype, bound, monkeypatch):
        monkeypatch.setattr(triton_pool, "PROGRAMS", 1)
        found = errors(((1, 3, 3), (1, 2, 2), (1, 6, 7), 1, 1, 8, 1), dtype)
        assert max(found) < bound
        # The output is rounded once, from float32 sums (the interpreter truncates to bfloat16).
        assert found[0] <= torch.finfo(dtype).eps

    def test_called_as_an_operator_it_gives_the_same(monkeypatch):
        """While something records or counts operations; on plain tensors the kernels are started directly."""
        monkeypatch.setattr(triton_pool, "PROGRAMS", 1)
        inputs = operands((1, 3, 3), (1, 2, 3), 1, 2, 8, 1)
        results, called = [], []
        operator = torch.ops.mvit_video.pool_norm
        monkeypatch.setattr(torch.ops.mvit_video, "pool_norm", lambda *a: called.append(1) or operator(*a))
        for direct in (True, False):
            for module in (triton_pool, gradient):
                monkeypatch.setattr(module, "runs_now", lambda *_, d=direct: d)
            tokens = inputs[0].chunk(3, dim=-1)[1]
            normed = pool_norm(tokens, *inputs[1:], (1, 2, 3), (1, 1, 1), cls=1, heads=2, eps=EPS)
            results.append([normed, *torch.autograd.grad(normed.pow(3).sum(), inputs)])
        assert called == [1]
        assert all(torch.equal(a, b) for a, b in zip(*results))
        with torch.no_grad():
            monkeypatch.setattr(gradient, "runs_now", lambda *_: True)
            tokens = inputs[0].chunk(3, dim=-1)[1]
            alone = pool_norm(tokens, *inputs[1:], (1, 2, 3), (1, 1, 1), cls=1, heads=2, eps=EPS)
        assert torch.equal(alone, results[0][0]) and called == [1]

    def test_tokens_with_strided_channels_are_copied():
        qkv, *parameters = operands((1, 3, 3), (1, 2, 3), 1, 1, 8, 0)
        tokens = qkv[..., ::3]
        ours = pool_norm(tokens, *parameters, (1, 2, 3), (1, 1, 1), cls=0, heads=1, eps=EPS)
        torch.testing.assert_close(ours, plain(tokens, *parameters, (1, 2, 3), (1, 1, 1), 0, 1), rtol=1e-5, atol=1e-5)

    def test_operators_pass_the_checks_of_torch(monkeypatch):
        monkeypatch.setattr(triton_pool, "PROGRAMS", 1)
        qkv, weight, gain, shift = operands((1, 1, 3), (2, 2, 3), 1, 2, 8, 1)
        taps = weight.flatten(1).t().contiguous().detach().requires_grad_()
        geometry = ([2, 2, 3], [1, 1, 3], [1, 2, 2], 1, 2, EPS)
        tokens = qkv.detach().chunk(3, dim=-1)[1].requires_grad_()
        checks = ("test_schema", "test_faketensor", "test_autograd_registration")
        torch.library.opcheck(triton_pool._pool_norm, (tokens, taps, gain, shift, *geometry), test_utils=checks)
        args = (torch.randn(1, 5, 2, 8), tokens.detach(), taps.detach(), gain.detach(), *geometry)
        torch.library.opcheck(triton_pool._pool_norm_backward, args, test_utils=checks[:2])

    def test_compiles_to_one_graph_for_every_batch(monkeypatch):
        monkeypatch.setattr(triton_pool, "PROGRAMS", 1)
        counter = CompileCounterWithBackend("aot_eager")

        def cubes(qkv: Tensor, weight: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
            tokens = qkv.chunk(3, dim=-1)[2]
            assert supports(tokens, weight, (1, 2, 2))
            normed = pool_norm(tokens, weight, gain, shift, (1, 2, 3), (1, 2, 2), cls=1, heads=1, eps=EPS)
            return normed.transpose(1, 2).pow(3).sum()

        compiled = torch.compile(cubes, backend=counter, fullgraph=True)
        for batch in (2, 3):
            inputs = operands((1, 3, 3), (1, 2, 3), batch, 1, 8, 1)
            torch._dynamo.mark_dynamic(inputs[0], 0)
            ours = torch.autograd.grad(compiled(*inputs), inputs)
            normed = plain(inputs[0].chunk(3, dim=-1)[2], *inputs[1:], (1, 2, 3), (1, 2, 2), 1, 1)
            theirs = torch.autograd.grad(normed.pow(3).sum(), inputs)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert counter.frame_count == 1

else:

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("dtype", triton_pool.DTYPES, ids=str)
    def test_a_device_equals_the_plain_form(dtype):
        bound = {torch.float32: 1e-5, torch.float16: 0.005, torch.bfloat16: 0.03}[dtype]
        strides: list[Triple] = [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)]
        for stride, (heads, channels, cls) in product(strides, [(1, 96, 1), (2, 72, 0), (4, 8, 1)]):
            case = ((3, 3, 3), stride, (8, 27, 28), 2, heads, channels, cls)
            assert max(errors(case, dtype, "cuda")) < bound, case

    def test_the_cpu_keeps_the_plain_form():
        qkv, *parameters = operands((3, 3, 3), (2, 2, 2), 1, 1, 8, 0)
        tokens = qkv.chunk(3, dim=-1)[0]
        assert not supports(tokens, parameters[0], (1, 1, 1))
        with pytest.raises(ValueError, match=r"No Triton pooling for torch.float32 on cpu.*use depthwise_pool"):
            pool_norm(tokens, *parameters, (2, 2, 2), (1, 1, 1), cls=0, heads=1, eps=EPS)

    @pytest.mark.parametrize(
        ("dtype", "kernel", "channels", "stride", "supported"),
        [
            (torch.bfloat16, (3, 3, 3), 96, (1, 8, 8), True),
            (torch.float16, (1, 3, 3), 256, (1, 1, 1), True),
            (torch.float32, (3, 3, 3), 72, (1, 2, 2), True),
            (torch.float64, (3, 3, 3), 96, (1, 1, 1), False),
            (torch.bfloat16, (3, 3, 3), 96, (2, 1, 1), False),
            (torch.bfloat16, (1, 5, 5), 96, (1, 4, 4), False),
            (torch.bfloat16, (3, 3, 3), 257, (1, 1, 1), False),
        ],
    )
    def test_cuda_is_chosen_by_dtype_kernel_and_stride(dtype, kernel, channels, stride, supported):
        pytest.importorskip("triton")
        with FakeTensorMode():
            tokens = torch.empty(2, 8, channels, dtype=dtype, device="cuda")
            weight = torch.empty(channels, 1, *kernel, device="cuda")
            assert supports(tokens, weight, stride) is supported

    @pytest.mark.parametrize(
        ("form", "dtype", "hooked", "fused"),
        [
            ("auto", torch.bfloat16, False, 6),
            ("auto", torch.float64, False, 0),
            ("auto", torch.bfloat16, True, 5),
            ("library", torch.bfloat16, False, 0),
        ],
    )
    def test_a_model_on_cuda_chooses_the_kernel_itself(form, dtype, hooked, fused, monkeypatch):
        """Two blocks pool q, k and v each. A norm with a hook has to be called, so its pooling is not fused."""
        pytest.importorskip("triton")
        calls = []
        monkeypatch.setattr(triton_pool, "pool_norm", lambda *a, f=pool_norm, **k: calls.append(1) or f(*a, **k))
        small = {"num_frames": 4, "crop_size": 16, "num_classes": 3, "depth": 2, "stage_starts": (1,)}
        model = create_model("mvitv2_motion", pooling_form=form, **small)
        if hooked:
            model.blocks[0].attn.norm_q.register_forward_hook(lambda *_: None)
        with FakeTensorMode():
            for module in model.modules():
                for tensors in (module._parameters, module._buffers):
                    for name, tensor in tensors.items():
                        if tensor is not None:
                            kind = dtype if tensor.is_floating_point() else tensor.dtype
                            tensors[name] = torch.empty(tensor.shape, device="cuda", dtype=kind)
            model.forward_features(torch.empty(1, 3, 4, 16, 16, device="cuda", dtype=dtype))
        assert len(calls) == fused

    @pytest.mark.parametrize(
        ("compiler", "capability", "answer"), [(True, (9, 0), True), (True, (7, 5), False), (False, (9, 0), False)]
    )
    def test_a_device_needs_a_compiler_and_ampere(compiler, capability, answer, monkeypatch):
        monkeypatch.setattr(triton_pool, "_is_able", triton_pool._is_able.__wrapped__)  # without what it remembers
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(triton_pool.shutil, "which", lambda name: f"/usr/bin/{name}" if compiler else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        assert triton_pool._can_run(0) is answer

    def test_fake_tensors_have_the_shapes_of_the_result():
        with FakeTensorMode():
            tokens = torch.empty(2, 1 + 2 * 5 * 7, 3 * 48, dtype=torch.bfloat16)[..., 48:96]
            taps, gain = torch.empty(27, 24), torch.empty(24)
            geometry = ([2, 5, 7], [3, 3, 3], [1, 2, 2], 1, 2, EPS)
            out = torch.ops.mvit_video.pool_norm(tokens, taps, gain, gain, *geometry)
            grads = torch.ops.mvit_video.pool_norm_backward(out, tokens, taps, gain, *geometry)
        assert out.shape == (2, 1 + 2 * 3 * 4, 2, 24) and out.dtype == torch.bfloat16
        assert [tuple(grad.shape) for grad in grads] == [(2, 71, 48), (27, 24), (2, 24)]
        assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32, torch.float32]

    def test_bounds_of_unrolled_loops_are_names():
        """Triton 3.6 refuses entries of tuples there, when it compiles and not in its interpreter."""
        for path in Path(triton_pool.__file__).parent.glob("triton_*.py"):
            calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
            bounds = [argument for call in calls if "static_range" in ast.unparse(call.func) for argument in call.args]
            assert all(isinstance(bound, (ast.Name, ast.Constant)) for bound in bounds), path.name

    def test_imports_without_triton():
        """In a fork of a process that has imported torch with Triton, and of this project only what needs none."""
        program = (
            "import sys; sys.modules['triton'] = None\n"
            "assert 'mvit_video.models.kernels.triton_pool' not in sys.modules\n"
            "import torch; from mvit_video.models.kernels.triton_pool import supports\n"
            "print(supports(torch.empty(1, 8, 8), torch.empty(8, 1, 3, 3, 3), (1, 1, 1)))"
        )
        run = interpreters.run("-c", program, cwd=ROOT)
        assert run.stdout == "False\n", run.stderr

    def test_kernels_compile_for_hopper_as_they_are_launched(tmp_path, monkeypatch):
        """The interpreter accepts more than the compiler does, which needs no GPU. One frame and one head: sizes of one
        are constants to the compiler."""
        pytest.importorskip("triton")
        from triton.runtime import driver
        from triton.runtime.jit import JITFunction

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        launch, compiled = JITFunction.run, {}

        def compile_only(self, *args, warmup, **options):
            binary = launch(self, *args, warmup=True, **options)
            compiled[self.__name__] = (
                options["grid"],
                len(binary.asm["cubin"]) > 0,
                ".target sm_90" in binary.asm["ptx"],
            )

        monkeypatch.setattr(JITFunction, "run", compile_only)
        tokens = torch.zeros(2, 1 + 14 * 14, 3 * 96, dtype=torch.bfloat16).chunk(3, dim=-1)[1]
        taps, gain, geometry = torch.zeros(27, 96), torch.zeros(96), ([1, 14, 14], [3, 3, 3], [1, 2, 2], 1, 1, EPS)
        monkeypatch.setattr(driver, "_active", HopperWithoutDevice())
        out = torch.ops.mvit_video.pool_norm(tokens, taps, gain, gain, *geometry)
        torch.ops.mvit_video.pool_norm_backward(out, tokens, taps, gain, *geometry)
        assert compiled == {  # tiles x batch x heads, chunks of frames; the last: batch x heads, tiles
            "_forward_kernel": ((4, 1), True, True),
            "_norm_backward_kernel": ((4, 1), True, True),
            "_input_gradient_kernel": ((14, 1), True, True),
            "_weight_gradient_kernel": ((2, 7), True, True),
        }

    def test_more_heads_than_an_axis_of_a_launch_takes(monkeypatch):
        """65,536 images with one head: CUDA starts at most 65,535 programs on every axis but the first."""
        pytest.importorskip("triton")
        from triton.runtime.jit import JITFunction

        grids = []
        monkeypatch.setattr(JITFunction, "run", lambda *args, grid, **options: grids.append(grid))
        tokens = torch.zeros(1, 1 + 2 * 2, 8).expand(65536, -1, -1)
        taps, gain, geometry = torch.zeros(9, 8), torch.zeros(8), ([1, 2, 2], [1, 3, 3], [1, 1, 1], 1, 1, EPS)
        out = torch.ops.mvit_video.pool_norm(tokens, taps, gain, gain, *geometry)
        torch.ops.mvit_video.pool_norm_backward(out, tokens, taps, gain, *geometry)
        assert [max((*grid, 1)[1:]) for grid in grids] == [1, 1, 1, 1] and all(grid[0] >= 65536 for grid in grids)
