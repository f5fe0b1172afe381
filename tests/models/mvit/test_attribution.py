"""Maps of where a model looks: the gradients are those of the whole model, and a place without effect has none."""

import pytest
import torch

from mvit_video.models import MViT
from mvit_video.models.mvit.attribution import class_maps, explained_block, token_gradients
from tests.models.helpers import image_fields, randomised, small_config


@pytest.mark.parametrize("changes", [{}, {"cls_token": False, "head_pooling": "norm_mean"}])
def test_gradients_are_those_of_the_whole_model(changes: dict) -> None:
    model = randomised(small_config(**changes)).eval()
    clips, classes = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64), torch.tensor([1, 0])
    seen: list[torch.Tensor] = []
    hook = model.blocks[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    logits = model(clips)
    hook.remove()
    (expected,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), seen)
    found = token_gradients(model, clips, classes, block=1)
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.gradients, expected[:, model.cls :])
    torch.testing.assert_close(found.tokens, seen[0][:, model.cls :])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_maps_are_shares_of_the_clip() -> None:
    model = randomised(small_config()).eval()
    maps, logits = class_maps(model, torch.randn(2, 3, 4, 32, 32, dtype=torch.float64), torch.tensor([1, 0]))
    assert maps.shape == (2, 4, 32, 32) and (maps >= 0).all()
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), torch.ones(2, dtype=maps.dtype))
    assert logits.shape == (2, model.config.num_classes)
    image = randomised(small_config(**image_fields())).eval()
    assert class_maps(image, torch.randn(1, 3, 32, 32, dtype=torch.float64), torch.tensor([0]))[0].shape == (
        1,
        1,
        32,
        32,
    )


def test_what_cannot_be_explained() -> None:
    model = MViT(small_config())
    with pytest.raises(ValueError, match="training mode"):
        token_gradients(model, torch.randn(1, 3, 4, 32, 32), torch.tensor([0]), block=0)
    with pytest.raises(ValueError, match="block=99: the model has the blocks 0 to"):
        token_gradients(model.eval(), torch.randn(1, 3, 4, 32, 32), torch.tensor([0]), block=99)
    assert 0 <= explained_block(model) < len(model.blocks)
