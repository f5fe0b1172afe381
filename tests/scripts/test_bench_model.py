"""scripts/bench_model.py, on the smallest model: what it measures and what it prints."""

import importlib.util
from types import ModuleType

import pytest
import torch

from mvit_video.models import MViT, get_config, load_weights
from tests.paths import ROOT

pytest.importorskip("torchvision.models.video.mvit")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = ROOT / "scripts" / "bench_model.py"
    spec = importlib.util.spec_from_file_location("bench_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_twin_of_torchvision_is_the_same_model(bench: ModuleType) -> None:
    config = get_config("mvitv2_motion")
    ours, theirs = MViT(config).eval(), bench.torchvision_twin(config).eval()
    load_weights(ours, theirs.state_dict())
    clips = torch.randn(1, 3, 8, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(ours(clips), theirs(clips), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="torchvision has video models with class token"):
        bench.torchvision_twin(get_config("mvitv2_t_image"))


def test_the_twin_of_timm_is_the_same_model(bench: ModuleType) -> None:
    pytest.importorskip("timm")
    for name in ("mvitv2_s_image", "mvitv2_l_image"):
        config = get_config(name, depth=3, stage_starts=(1, 2), crop_size=64, num_classes=5)
        ours, theirs = MViT(config).eval(), bench.timm_twin(config).eval()
        load_weights(ours, theirs.state_dict())
        images = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="timm has image models of MViTv2"):
        bench.timm_twin(get_config("mvitv2_t_image", rel_pos="none"))


def test_images_are_measured_beside_timm(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    threads = torch.get_num_threads()
    small = {"crop_size": 32, "embed_dim": 8, "depth": 2, "stage_starts": (1,)}
    monkeypatch.setattr(bench, "get_config", lambda name, **changes: get_config(name, **small, **changes))
    monkeypatch.setattr(bench, "matrix_rate", lambda device, dtype: 1e11)
    try:
        bench.main(["--model", "mvitv2_t_image", "--reps", "2", "--markdown"])
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "| mvitv2_t_image, batch 1, float32 | ours | timm | theirs / ours |" in printed
    for row in ("| step, median of 2 turns |", "| images/s, train step |", "| 0 | 1 heads, 64 queries, 4 keys |"):
        assert printed.count(row) == 1
    assert "timm 1." in printed


def test_saved_bytes_are_distinct_storages_without_parameters(bench: ModuleType) -> None:
    layer = torch.nn.Linear(3, 5)
    x = torch.randn(7, 3)
    assert bench.saved_bytes(layer, lambda: layer(x)) == 7 * 3 * 4
    assert bench.saved_bytes(layer, lambda: layer(x) + layer(x[1:])[:1]) == 7 * 3 * 4


def test_operations_are_sorted_by_kind(bench: ModuleType) -> None:
    kinds = {
        "aten::addmm": "matrix products (linear layers)",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "fused attention",
        "aten::bmm": "batched products (maps, position terms)",
        "aten::mkldnn_convolution": "convolution",
        "aten::native_layer_norm_backward": "LayerNorm",
        "aten::gelu": "GELU",
        "aten::cat": "copies, concatenations, fills",
        "aten::topk": "other",
    }
    assert {name: bench.kind_of(name) for name in kinds} == kinds


def test_blocks_of_one_geometry_are_one_kind(bench: ModuleType) -> None:
    kinds = bench.block_kinds(get_config("mvitv2_s_16x4"))
    assert kinds == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 10), (14, 1), (15, 1)]


def test_all_tables_are_printed(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    small = {"num_frames": 4, "crop_size": 32, "embed_dim": 8, "depth": 2, "stage_starts": (1,)}
    monkeypatch.setattr(bench, "get_config", lambda name, **changes: get_config(name, **small, **changes))
    monkeypatch.setattr(bench, "matrix_rate", lambda device, dtype: 1e11)
    try:
        bench.main(["--model", "mvitv2_motion", "--reps", "1", "--dtype", "float32", "bfloat16", "--markdown"])
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    for dtype in ("float32", "bf16 autocast"):
        assert f"| mvitv2_motion, batch 1, {dtype} | ours | torchvision | theirs / ours |" in printed
    for row in ("forward, ms", "train step, ms", "saved for backward, MB", "peak memory, MB", "clips/s, train step"):
        assert printed.count(f"| {row} |") == 2
    assert printed.count("| GFLOP/s |") == 2 and printed.count("| share of the matrix rate (100 GFLOP/s) |") == 2
    assert printed.count("| 0 | 1 heads, 129 queries, 9 keys |") == 2
    assert printed.count("| matrix products (linear layers) |") == 2
    assert f"torch {torch.__version__}" in printed and "1 CPU thread(s)" in printed and "eager" in printed
