"""The Triton LayerNorm, run on the CPU in Triton's interpreter, as test_in_the_interpreter.py explains."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mvit_video.models.kernels import recompute, triton_norm
from mvit_video.models.kernels.triton_pool import INTERPRETED
from mvit_video.models.mvit.presets import create_model
from tests.models.helpers import HopperWithoutDevice

INTERPRETED_TESTS = 9
EPS = 1e-6


def operands(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(shape) * 3 + 1, torch.randn(shape[-1]), torch.randn(shape[-1])


def errors(x: Tensor, gain: Tensor, shift: Tensor, dtype: torch.dtype) -> list[float]:
    """Relative errors of the result and of the three gradients, against float64."""
    grad = torch.randn(x.shape, device=x.device).to(dtype)
    ours = [triton_norm.layer_norm(x, gain, shift, EPS, dtype), *triton_norm.layer_norm_backward(grad, x, gain, EPS)]
    exact = [tensor.double().requires_grad_() for tensor in (x, gain, shift)]
    result = F.layer_norm(exact[0], gain.shape, exact[1], exact[2], EPS)
    theirs = [result.detach(), *torch.autograd.grad(result, exact, grad.double())]
    assert [tensor.dtype for tensor in ours] == [dtype, x.dtype, torch.float32, torch.float32]
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(ours, theirs)]


if INTERPRETED:

    @pytest.mark.parametrize("shape", [(2, 5, 8), (1, 3, 96), (7, 16), (2, 1, 33)], ids=str)
    def test_result_and_gradients_equal_the_plain_form(shape):
        found = errors(*operands(*shape), torch.float16)
        assert found[0] < 1e-3 and max(found[1:]) < 1e-6

    def test_bf16_differs_by_its_rounding():
        found = errors(*operands(2, 5, 24), torch.bfloat16)
        assert found[0] < 5e-3 and max(found[1:]) < 1e-6

    def test_what_is_in_half_precision_already_is_read_as_it_is():
        x, gain, shift = operands(3, 5, 24)
        found = errors(x.half(), gain, shift, torch.float16)
        assert max(found[:2]) < 1e-3 and max(found[2:]) < 1e-6

    def test_several_tiles_of_one_program_equal_the_plain_form(monkeypatch):
        monkeypatch.setattr(triton_norm, "TILE", 32)
        monkeypatch.setattr(triton_norm, "PROGRAMS", 2)
        assert max(errors(*operands(11, 16), torch.float16)[1:]) < 1e-6

    def test_operators_pass_the_checks_of_torch():
        x, gain, shift = operands(3, 8)
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(triton_norm._layer_norm, (x, gain, shift, EPS, torch.float16), test_utils=checks)
        arguments = (x.half(), x, gain, EPS)
        torch.library.opcheck(triton_norm._layer_norm_backward, arguments, test_utils=checks)

    def test_a_model_with_the_kernels_equals_the_plain_one(monkeypatch):
        """In bf16 autocast, but for roundings: the interpreter truncates to bf16."""
        small = {"embed_dim": 8, "num_frames": 4, "crop_size": 16, "num_classes": 3, "depth": 2, "stage_starts": (1,)}
        clip = torch.randn(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        calls, found = [], []
        monkeypatch.setattr(triton_norm, "layer_norm", lambda *a, f=triton_norm.layer_norm: calls.append(1) or f(*a))
        for form in ("library", "triton"):
            torch.manual_seed(0)
            model = create_model("mvitv2_motion", norm_form=form, **small)
            with torch.autocast("cpu", torch.bfloat16):
                model(clip).float().square().sum().backward()
            found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                model(clip)
        assert len(calls) >= 12  # two norms a block, forward, again backward, and without gradients
        assert float((found[0] - found[1]).norm()) < 0.05 * float(found[0].norm())

else:

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("channels", [96, 144, 384, 768, 1152, 1536])
    def test_a_device_equals_the_plain_form(channels):
        found = errors(*(tensor.cuda() for tensor in operands(3, 101, channels)), torch.bfloat16)
        assert found[0] < 5e-3 and max(found[1:]) < 1e-5

    def test_the_cpu_keeps_the_plain_form():
        x, gain, shift = operands(3, 8)
        assert not triton_norm.supports(x, torch.bfloat16)
        with pytest.raises(
            ValueError, match=r"No Triton LayerNorm from torch.float32 to torch.bfloat16 on cpu, 8 chan"
        ):
            triton_norm.layer_norm(x, gain, shift, EPS, torch.bfloat16)

    @pytest.mark.parametrize(
        ("given", "wanted", "channels", "supported"),
        [
            (torch.float32, torch.bfloat16, 96, True),
            (torch.float32, torch.float16, 4096, True),
            (torch.float32, torch.float32, 96, False),
            (torch.bfloat16, torch.bfloat16, 96, True),
            (torch.float16, torch.bfloat16, 96, False),
            (torch.bfloat16, torch.float32, 96, False),
            (torch.float32, torch.bfloat16, 4097, False),
        ],
    )
    def test_cuda_is_chosen_by_dtypes_and_width(given, wanted, channels, supported):
        pytest.importorskip("triton")
        with FakeTensorMode():
            assert triton_norm.supports(torch.empty(2, 8, channels, dtype=given, device="cuda"), wanted) is supported

    def test_on_cuda_the_kernels_are_taken_in_half_precision_and_not_while_compiling(monkeypatch):
        pytest.importorskip("triton")
        calls = []
        monkeypatch.setattr(triton_norm, "layer_norm", lambda x, g, s, eps, dtype: calls.append(dtype) or x.to(dtype))
        with FakeTensorMode(), torch.device("cuda"):
            x, norm = torch.empty(2, 5, 8), torch.nn.LayerNorm(8)
            layers = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)

            def both() -> list[torch.dtype]:
                calls.clear()
                recompute.norm_mlp(x, norm, *layers, fused=True)
                recompute.norm_linears(x, norm, [(layers[0].weight, layers[0].bias)], fused=True)
                return list(calls)

            assert both() == []
            monkeypatch.setattr(recompute, "compute_dtype", lambda x: torch.bfloat16)
            assert both() == [torch.bfloat16] * 2
            kept: list[torch.dtype] = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda tensor: kept.append(tensor.dtype) or tensor, lambda t: t
            ):
                x = x.bfloat16()
                assert both() == [torch.bfloat16] * 2
            assert kept.count(torch.float32) == 4  # gain and shift, twice: no copy of x
            assert x.dtype == torch.bfloat16
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
            assert both() == []

    @pytest.mark.parametrize(("channels", "given"), [(96, torch.float32), (768, torch.bfloat16), (2304, torch.float32)])
    def test_kernels_compile_for_hopper_as_they_are_launched(channels, given, tmp_path, monkeypatch):
        """The interpreter accepts more than the compiler does, which needs no GPU."""
        pytest.importorskip("triton")
        from triton.runtime import driver
        from triton.runtime.jit import JITFunction

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        launch, compiled = JITFunction.run, {}

        def compile_only(self, *args, warmup, **options):
            binary = launch(self, *args, warmup=True, **options)
            compiled[self.__name__] = (len(binary.asm["cubin"]) > 0, ".target sm_90" in binary.asm["ptx"])

        monkeypatch.setattr(JITFunction, "run", compile_only)
        monkeypatch.setattr(driver, "_active", HopperWithoutDevice())
        x, gain = torch.zeros(2, 197, channels, dtype=given), torch.zeros(channels)
        normed = torch.ops.mvit_video.layer_norm(x, gain, gain, EPS, torch.bfloat16)
        torch.ops.mvit_video.layer_norm_backward(normed, x, gain, EPS)
        assert compiled == dict.fromkeys(("_forward_kernel", "_backward_kernel"), (True, True))
