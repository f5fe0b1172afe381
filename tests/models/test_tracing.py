"""torch.jit.trace, save and load: without a gradient only plain operations run, which a trace records."""

import io

import pytest
import torch

from mvit_video.models import MViT
from tests.models.helpers import image_fields, randomised, small_config, v1_fields

TWO = {"depth": 2, "stage_starts": (1,)}
CONFIGS = {
    "v2": small_config(**TWO),
    "v2_mean": small_config(**TWO, head_pooling="norm_mean"),
    "v1": small_config(**TWO, **v1_fields()),
    "explicit": small_config(**TWO, attention_form="explicit"),
    "flash": small_config(**TWO, attention_form="flash"),
    "image": small_config(**TWO, **image_fields(cls_token=False, head_pooling="norm_mean")),
}


def shape_of(config, batch: int = 1) -> tuple[int, ...]:
    return (batch, 3, 32, 32) if config.is_image else (batch, 3, 4, 32, 32)


@pytest.mark.parametrize(("name", "gradient"), [*((name, False) for name in CONFIGS), ("v2", True)])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_saves_loads_and_gives_the_same(name, gradient):
    model = randomised(CONFIGS[name]).float()
    first, second = (torch.randn(shape_of(model.config)) for _ in range(2))
    with torch.set_grad_enabled(gradient):
        traced = torch.jit.trace(model, first, check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    with torch.no_grad():
        for clip in (first, second):
            torch.testing.assert_close(loaded(clip), model(clip), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_values_do_not_depend_on_whether_a_gradient_is_wanted(name):
    model = randomised(CONFIGS[name]).float()
    clip = torch.randn(shape_of(model.config, batch=2))
    wanted = model(clip)
    assert wanted.requires_grad
    with torch.no_grad():
        assert torch.equal(model(clip), wanted)
    assert torch.equal(model.requires_grad_(False)(clip), wanted)


def test_no_function_with_its_own_backward_runs_without_a_gradient(monkeypatch):
    model = MViT(small_config()).eval()

    def refuse(*_):
        raise AssertionError("apply was called")

    monkeypatch.setattr(torch.autograd.Function, "apply", refuse)
    with torch.no_grad():
        model(torch.randn(1, 3, 4, 32, 32))
