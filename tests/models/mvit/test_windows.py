"""Attention within windows: the blocks that have them, their padding, features and gradients term by term."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mvit_video.models import MViT, MViTConfig, get_config
from mvit_video.models.mvit.attention import resize_table
from mvit_video.models.mvit.windows import cut_windows, join_windows
from tests.models import reference
from tests.models.helpers import image_fields, randomised, small_config

State = dict[str, Tensor]


def backbone_config(**changes: object) -> MViTConfig:
    """Six blocks in four stages, heads of 8, nominal grid 8 x 8."""
    fields = {"depth": 6, "stage_starts": (1, 3, 4), "num_classes": 0, "cls_token": False, "head_pooling": "norm_mean"}
    return small_config(**image_fields(**(fields | {"windows": "hybrid", "stage_norms": True} | changes)))


def windowed_block(state: State, index: int, x: Tensor, grid: tuple[int, int], heads: int, plan: dict) -> Tensor:
    """The attention of a block as published: every window on its own, in a loop, its bias and map written out."""
    block = f"blocks.{index}"
    q, k, v = reference.linear(state, f"{block}.attn.qkv", x).chunk(3, dim=-1)
    outputs = []
    for one in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
        strides = [(1, plan["q"], plan["q"])] + [(1, plan["kv"], plan["kv"])] * 2
        pooled = [
            reference.pool(state, block, name, tokens, (1, *grid), stride, 0)
            for name, tokens, stride in zip("qkv", one, strides)
        ]
        (one_q, grid_q), (one_k, grid_k), (one_v, _) = pooled
        if plan["window"] is None:
            out = plain(state, block, one_q, one_k, one_v, grid_q, grid_k)
        else:
            out = in_windows(state, block, (one_q, one_k, one_v), (grid_q, grid_k), plan)
        outputs.append(out + one_q)
    return reference.linear(state, f"{block}.attn.proj", torch.cat(outputs, -1))


def plain(state: State, block: str, q: Tensor, k: Tensor, v: Tensor, grid_q, grid_k) -> Tensor:
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + reference.bias(state, block, q, grid_q, grid_k)
    return logits.softmax(-1) @ v


def in_windows(state: State, block: str, tensors, grids, plan) -> Tensor:
    sides = [plan["window"] // plan["q"], plan["window"] // plan["kv"], plan["window"] // plan["kv"]]
    maps = []
    for tensor, (_, height, width), side in zip(tensors, (grids[0], grids[1], grids[1]), sides):
        rows, columns = -(-height // side), -(-width // side)
        padded = torch.zeros(tensor.shape[0], rows * side, columns * side, tensor.shape[-1], dtype=tensor.dtype)
        padded[:, :height, :width] = tensor.unflatten(1, (height, width))
        maps.append(padded)
    out = torch.zeros_like(maps[0])
    side_q, side_k = sides[0], sides[1]
    for row in range(maps[0].shape[1] // side_q):
        for column in range(maps[0].shape[2] // side_q):
            place = [
                (slice(None), slice(row * s, row * s + s), slice(column * s, column * s + s)) for s in (side_q, side_k)
            ]
            q, k, v = (m[p].flatten(1, 2) for m, p in zip(maps, (place[0], place[1], place[1])))
            window = plain(state, block, q, k, v, (1, side_q, side_q), (1, side_k, side_k))
            out[place[0]] = window.unflatten(1, (side_q, side_q))
    return out[:, : grids[0][1], : grids[0][2]].flatten(1, 2)


def literal_features(state: State, x: Tensor, plans: list[dict]) -> list[Tensor]:
    """scale2 to scale5 of the six blocks."""
    maps = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4, padding=3)
    grid, tokens, heads, features = tuple(maps.shape[2:]), maps.flatten(2).transpose(1, 2), 1, []
    for index, plan in enumerate(plans):
        block = f"blocks.{index}"
        starts = index in (1, 3, 4)
        heads = heads * 2 if starts else heads
        normed = reference.layer_norm(state, f"{block}.norm1", tokens)
        attended = windowed_block(state, index, normed, grid, heads, plan)
        if starts:
            skip = reference.linear(state, f"{block}.proj", normed)
            tokens = reference.skip_pool(skip, (1, *grid), 0)
            grid = tuple((n - 1) // 2 + 1 for n in grid)
        tokens = tokens + attended
        tokens = tokens + reference.mlp(state, block, reference.layer_norm(state, f"{block}.norm2", tokens))
        if index in (0, 2, 3, 5):
            normed = reference.layer_norm(state, f"scale{len(features) + 2}_norm", tokens)
            features.append(normed.transpose(1, 2).unflatten(2, grid))
    return features


def plans_of(windows: str) -> list[dict]:
    """Strides and windows of the six blocks by hand."""
    hybrid = [(1, 4, 8), (2, 2, 8), (1, 4, None), (2, 2, None), (2, 1, 2), (1, 1, None)]
    everywhere = [(1, 4, 8), (2, 2, 8), (1, 2, 4), (2, 1, 4), (2, 1, 2), (1, 1, 1)]
    plans = hybrid if windows == "hybrid" else everywhere
    return [{"q": q, "kv": kv, "window": None if windows == "none" else side} for q, kv, side in plans]


@pytest.mark.parametrize("form", ["flash", "explicit", "auto"])
@pytest.mark.parametrize("windows", ["hybrid", "all", "none"])
def test_features_and_gradients_term_by_term(windows, form):
    model = randomised(backbone_config(windows=windows, attention_form=form))
    x = torch.randn(2, 3, 44, 72, dtype=torch.float64)  # grids 11 x 18, 6 x 9, 3 x 5, 2 x 3: all need padding
    state = {name: value.detach().clone().requires_grad_() for name, value in model.state_dict().items()}
    literal = literal_features(state, x, plans_of(windows))
    ours = [maps.squeeze(2) for maps in model.forward_features(x)]
    weights = [torch.randn_like(maps) for maps in literal]
    sum((maps * weight).sum() for maps, weight in zip(literal, weights)).backward()
    sum((maps * weight).sum() for maps, weight in zip(ours, weights)).backward()
    for mine, theirs in zip(ours, literal, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-7, atol=1e-8, msg=name)


def test_windows_are_cut_row_by_row_and_put_back():
    tokens = torch.arange(1.0, 16.0).view(1, 15, 1, 1)  # 3 x 5, windows of 2: 2 x 3 of them
    cut = cut_windows(tokens, (1, 3, 5), (1, 2, 2))
    assert cut.flatten(1).tolist() == [
        [1, 2, 6, 7],
        [3, 4, 8, 9],
        [5, 0, 10, 0],
        [11, 12, 0, 0],
        [13, 14, 0, 0],
        [15, 0, 0, 0],
    ]
    assert torch.equal(join_windows(cut.flatten(2), (1, 3, 5), (1, 2, 2)), tokens.flatten(2))


def test_padding_takes_part_in_attention():
    """Padded keys have the logit 0 + bias and the value 0, so they draw weight off the others."""
    model = randomised(backbone_config(windows="all", rel_pos="none"))
    attention = model.blocks[0].attn
    q = torch.zeros(1, 8 * 9, 8, dtype=torch.float64)
    kv = torch.randn(1, 8 * 9, 16, dtype=torch.float64)
    attention.residual_pooling = False
    attention.proj = torch.nn.Identity()
    attention.norm_q.bias.data.zero_()
    out, _ = attention.attend(q, kv, (1, 8, 9))
    _, values, _ = attention._pool_keys(kv, (1, 8, 9), False)  # (1, 1, 2 * 3, 8)
    values = values[0, 0].view(2, 3, 8)
    out = out.view(8, 9, 8)
    torch.testing.assert_close(out[0, 0], values[:, :2].mean((0, 1)))
    # The second window holds one real column of keys and one of zeros: half of the weight goes to the padding.
    torch.testing.assert_close(out[0, 8], values[:, 2].mean(0) / 2)


def published(depth_of_stages: list[int]) -> list[tuple[int | None, int, int, int]]:
    """Window, q stride, kv stride and table rows of every block, by the published table."""
    blocks: list[tuple[int | None, int, int, int]] = [(56, 1, 4, 111)] * depth_of_stages[0]
    for stage, (window, kv, rows) in enumerate([(28, 2, 55), (14, 1, 27), (7, 1, 13)], start=1):
        first = (window * 2, 2, max(4 // 2**stage, 1), {1: 55, 2: 55, 3: 27}[stage])
        last = (None, 1, {1: 4, 2: 2, 3: 1}[stage], rows)
        blocks += [first, *[(window, 1, kv, rows)] * (depth_of_stages[stage] - 2), last]
    return blocks


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("mvitv2_t_image", [1, 2, 5, 2]),
        ("mvitv2_s_image", [1, 2, 11, 2]),
        ("mvitv2_b_image", [2, 3, 16, 3]),
        ("mvitv2_h_image", [4, 8, 60, 8]),
    ],
)
def test_geometry_of_the_published_backbones(name, stages):
    config = get_config(name, windows="hybrid", num_classes=0, stage_norms=True)
    found = [
        (block.window[1] if block.window else None, block.stride_q[1], block.stride_kv[1], block.table_rows[1])
        for block in config.blocks
    ]
    assert found == published(stages)


def test_windowed_weights_are_those_of_the_classifier():
    plain_model, windowed = (get_config("mvitv2_t_image", windows=windows) for windows in ("none", "hybrid"))
    with torch.device("meta"):
        shapes = [{n: t.shape for n, t in MViT(config).state_dict().items()} for config in (plain_model, windowed)]
    assert shapes[0] == shapes[1]


def test_interpolation_of_tables_is_the_published_rule():
    """800 x 1344: rows -> 2 * max(q, k) - 1 on each axis, linear, align_corners False."""
    table = torch.randn(55, 4, dtype=torch.float64)
    for rows in (199, 335):
        centres = ((torch.arange(rows, dtype=torch.float64) + 0.5) * 55 / rows - 0.5).clamp(0, 54)
        low = centres.floor().long().clamp(max=53)
        share = (centres - low)[:, None]
        torch.testing.assert_close(resize_table(table, rows), table[low] * (1 - share) + table[low + 1] * share)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": "swin"}, "windows='swin' is not one of"),
        ({"windows": "hybrid", "crop_size": 40}, "which its strides .* do not divide"),
        ({"cls_token": True}, "a backbone has no class token"),
        ({"num_classes": 5}, "a backbone has no class token, no head"),
        ({"activation_budget_gb": 1.0}, "with stage_norms=True: what a detector keeps"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        backbone_config(**changes)


def test_a_video_model_has_no_windows_and_a_backbone_no_classes():
    with pytest.raises(ValueError, match="windows are for image models"):
        small_config(windows="all")
    with pytest.raises(ValueError, match="a backbone without a head"):
        randomised(backbone_config())(torch.zeros(1, 3, 32, 32, dtype=torch.float64))


def test_recomputed_blocks_give_the_same():
    kept, recomputed = (randomised(backbone_config(activation_checkpointing=c)).train() for c in (False, True))
    x = torch.randn(1, 3, 40, 56, dtype=torch.float64)
    for model in (kept, recomputed):
        sum(maps.square().sum() for maps in model.forward_features(x)).backward()
    for one, other in zip(kept.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
