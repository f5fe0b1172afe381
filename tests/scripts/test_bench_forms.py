"""The benchmark of forms: every one that this machine offers computes the same, and the others say why not."""

import bench_forms
import pytest
import torch

from mvit_video.models import create_model
from mvit_video.models.mvit.attention import MultiscaleAttention


def attention_of(block: int) -> MultiscaleAttention:
    torch.manual_seed(0)
    module = create_model("mvitv2_motion").get_submodule(f"blocks.{block}.attn")
    assert isinstance(module, MultiscaleAttention)
    return module


def test_forms_agree_and_missing_ones_give_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    bench_forms.main(["--model", "mvitv2_motion", "--blocks", "1", "--reps", "1", "--markdown"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1: 2 heads")]
    rows = {cells[1]: cells[2:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)}
    assert {"explicit", "products and softmax", "flash kernel, equal widths", "library", "flipped"} <= set(rows)
    measured = {name: float(cells[2]) for name, cells in rows.items() if cells[0] != "-"}
    assert measured and max(measured.values()) < 1e-5
    assert all(cells[3] for cells in rows.values() if cells[0] == "-")
    if not torch.cuda.is_available():
        assert "CPU" in rows["FlexAttention, compiled"][3] and "cuDNN kernel, narrow values" in rows


@pytest.mark.parametrize("block", [0, 1])
def test_flex_attention_looks_up_the_same_terms(block: int) -> None:
    """Uncompiled: PyTorch then computes what the score function says, map and all."""
    from torch.nn.attention.flex_attention import flex_attention

    core = bench_forms.AttentionCore(attention_of(block), 2, "cpu", torch.float32)
    core.q, core.k, core.v = (operand.detach() for operand in core.inputs())
    with torch.no_grad():
        torch.testing.assert_close(core.flex(flex_attention), core.explicit(), rtol=1e-4, atol=1e-5)


def test_the_default_is_what_the_model_computes() -> None:
    attention = attention_of(1)
    core = bench_forms.AttentionCore(attention, 2, "cpu", torch.float32)
    geometry = attention.geometry
    seen = attention._attend_pooled(core.q.transpose(1, 2), core.k, core.v, geometry.grid_q, geometry.grid_kv, None)
    out = core.default().transpose(1, 2)
    if attention.residual_pooling:
        out = attention._add_queries(out, core.q.transpose(1, 2))
    torch.testing.assert_close(attention.proj(out.flatten(2)), seen, rtol=1e-4, atol=1e-5)
