import copy
from collections.abc import Iterator

import pytest
import torch

from mvit_video.interop.baselines import Baseline, create_baseline, list_baselines, slow_pathway_indices
from mvit_video.interop.pytorchvideo import import_pytorchvideo

NAMES = ["slow_r50", "slowfast_r50", "x3d_m", "x3d_s"]


@pytest.fixture(autouse=True)
def one_thread_fixed_seed() -> Iterator[None]:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


def weight_of_classifier(model: torch.nn.Module) -> str:
    return next(name for name, _ in model.named_parameters() if name.endswith(".proj.weight"))


def network_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights under PyTorchVideo's names."""
    return {key.removeprefix("network."): value for key, value in model.state_dict().items()}


def test_list_baselines() -> None:
    assert list_baselines() == NAMES


# X3D-S 3.79 M (X3D, table 3), Slow 8x8 32.45 M and SlowFast 8x8 34.57 M (PyTorchVideo model zoo), to the last weight.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("x3d_s", 3_794_274), ("x3d_m", 3_794_274), ("slow_r50", 32_454_096), ("slowfast_r50", 34_566_488)],
)
def test_published_parameter_counts(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = create_baseline(name, num_classes=400, num_frames=16, crop_size=224)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_logits_in_training_and_evaluation_and_gradients(name: str) -> None:
    model = create_baseline(name, num_classes=5, num_frames=4, crop_size=32, dropout=0.0)
    # The published initialisation of the classifier is so small that all its logits are nearly 0.
    torch.nn.init.normal_(model.get_parameter(weight_of_classifier(model)), std=0.5)
    clips = torch.randn(2, 3, 4, 32, 32)
    for training in (True, False):
        logits = model.train(training)(clips)
        assert logits.shape == (2, 5)
        assert logits.min() < 0
        assert not torch.allclose(logits.sum(1), torch.ones(2), atol=1e-3)
    torch.nn.functional.cross_entropy(model.train()(clips), torch.tensor([1, 3])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())  # type: ignore[arg-type]


def test_equal_to_pytorchvideo_at_the_published_clip_size() -> None:
    x3d = create_baseline("x3d_s", num_classes=7, num_frames=13, crop_size=160).eval()
    theirs = import_pytorchvideo("models.x3d").create_x3d(
        input_clip_length=13, input_crop_size=160, model_num_class=7, head_activation=None
    )
    theirs.load_state_dict(network_weights(x3d))
    clips = torch.randn(1, 3, 13, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(x3d(clips), theirs.eval()(clips))


def test_slowfast_equals_pytorchvideo_on_packed_pathways() -> None:
    model = create_baseline("slowfast_r50", num_classes=7, num_frames=32, crop_size=64).eval()
    theirs = import_pytorchvideo("models.slowfast").create_slowfast(
        model_num_class=7, head_pool_kernel_sizes=((8, 2, 2), (32, 2, 2))
    )
    theirs.load_state_dict(network_weights(model))
    clips = torch.randn(1, 3, 32, 64, 64)
    with torch.no_grad():
        expected = theirs.eval()([clips[:, :, [0, 4, 8, 13, 17, 22, 26, 31]], clips])
        torch.testing.assert_close(model(clips), expected)


def test_slow_pathway_indices() -> None:
    assert slow_pathway_indices(32, alpha=4).tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    assert slow_pathway_indices(16, alpha=4).tolist() == [0, 5, 10, 15]
    assert slow_pathway_indices(4, alpha=4).tolist() == [0]


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_crops_may_be_larger_and_oblong(name: str) -> None:
    model = create_baseline(name, num_classes=5, num_frames=4, crop_size=32).eval()
    assert model(torch.randn(1, 3, 4, 40, 72)).shape == (1, 5)


def test_copies_and_state_dicts_hold_the_weights_alone() -> None:
    model = create_baseline("slowfast_r50", num_classes=5, num_frames=8, crop_size=32).eval()
    assert all(key.startswith("network.") for key in model.state_dict())
    clips = torch.randn(1, 3, 8, 32, 32)
    torch.testing.assert_close(copy.deepcopy(model)(clips), model(clips))


def test_dropout_reaches_the_head() -> None:
    for name in NAMES:
        with torch.device("meta"):
            model = create_baseline(name, num_classes=5, num_frames=4, crop_size=32, dropout=0.25)
        assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.25]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "x3d_l"}, r"unknown baseline 'x3d_l'; the baselines are slow_r50, slowfast_r50, x3d_m, x3d_s"),
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
        ({"num_frames": 0}, "num_frames=0 must be at least 1"),
        ({"num_frames": 13}, r"num_frames=13 must be a multiple of 4 for slowfast_r50, .*; try 16"),
        ({"crop_size": 31}, "a crop of 31 pixels is too small: the network divides height and width by 32"),
        ({"dropout": 1.0}, r"dropout=1\.0 must be at least 0 and less than 1"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, object], message: str) -> None:
    arguments = {"name": "slowfast_r50", "num_classes": 5, "num_frames": 8, "crop_size": 32, **changes}
    with pytest.raises(ValueError, match=message):
        create_baseline(**arguments)  # type: ignore[arg-type]


def test_clips_of_another_shape_are_refused() -> None:
    model = Baseline(torch.nn.Identity(), num_frames=4)
    for shape in [(1, 3, 8, 32, 32), (1, 4, 3, 32, 32), (3, 4, 32, 32)]:
        with pytest.raises(ValueError, match=r"do not fit this model, which takes \(batch, 3, 4, height, width\)"):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match="a crop of 16 pixels is too small"):
        model(torch.zeros(1, 3, 4, 64, 16))
