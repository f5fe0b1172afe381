"""Maps of where a model looks: shares add up to what the clip adds to the logit, and say where that comes from."""

import pytest
import torch

from mvit_video.models import MViT
from mvit_video.models.mvit.attribution import class_maps, token_shares
from tests.models.helpers import image_fields, randomised, small_config, v1_fields


@pytest.mark.parametrize("changes", [{}, {"cls_token": False, "head_pooling": "norm_mean"}, v1_fields()])
def test_shares_add_up_to_the_difference(changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the clip without content. With a quadratic model in the place of the blocks one step is exact."""
    model = randomised(small_config(**changes)).eval()
    clips, classes = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64), torch.tensor([1, 0])
    _, _, (_, logits) = token_shares(model, clips, classes, steps=1)
    torch.testing.assert_close(logits, model(clips))
    assert all(parameter.grad is None for parameter in model.parameters())
    tokens, grid = model.embed(clips)
    weights = torch.randn(2, *tokens.shape[1:], dtype=torch.float64)
    both = lambda x, grid: torch.stack([(w * x + w.flip(0) * x**2).sum((1, 2)) for w in weights], 1)  # noqa: E731
    monkeypatch.setattr("mvit_video.models.mvit.attribution._logits", lambda model, x, grid: both(x, grid))
    shares, found, (empty, logits) = token_shares(model, clips, classes, steps=1)
    assert found == grid and shares.shape == (2, grid[0] * grid[1] * grid[2])
    torch.testing.assert_close(shares.sum(1), (logits - empty).gather(1, classes[:, None])[:, 0])


def test_the_clip_without_content_has_the_positions_of_the_clip() -> None:
    """So a clip whose tokens are all the same has no shares at all."""
    model = randomised(small_config(**v1_fields())).eval()
    clips = torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)
    tokens, grid = model.embed(clips)
    flat = model.positions(grid) + (tokens - model.positions(grid))[:, model.cls :].mean(1, keepdim=True)
    model.embed = lambda x: (torch.cat([tokens[:, : model.cls], flat[:, model.cls :]], 1), grid)  # type: ignore[method-assign]
    shares, _, (empty, logits) = token_shares(model, clips, torch.tensor([0]), steps=2)
    torch.testing.assert_close(empty, logits)
    assert shares.abs().max() < 1e-9


def test_maps_are_parts_of_the_clip() -> None:
    model = randomised(small_config()).eval()
    maps, logits = class_maps(model, torch.randn(2, 3, 4, 32, 32, dtype=torch.float64), torch.tensor([1, 0]), steps=2)
    assert maps.shape == (2, 4, 32, 32) and (maps >= 0).all()
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), torch.ones(2))
    assert logits.shape == (2, model.config.num_classes)
    image = randomised(small_config(**image_fields())).eval()
    maps, _ = class_maps(image, torch.randn(1, 3, 32, 32, dtype=torch.float64), torch.tensor([0]), steps=1)
    assert maps.shape == (1, 1, 32, 32)


def test_what_cannot_be_explained() -> None:
    model = MViT(small_config())
    with pytest.raises(ValueError, match="training mode"):
        token_shares(model, torch.randn(1, 3, 4, 32, 32), torch.tensor([0]))
    with pytest.raises(ValueError, match="steps=0: at least one gradient"):
        token_shares(model.eval(), torch.randn(1, 3, 4, 32, 32), torch.tensor([0]), steps=0)
