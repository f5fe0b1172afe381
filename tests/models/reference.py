"""MViT term by term, slow and plain: the equations of the two papers on a dictionary of tensors.

Nothing here is shared with the package but the names of the tensors: geometry is derived again, the attention map and
its bias are written out for every pair of tokens, and each head is pooled on its own.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Grid = tuple[int, int, int]


@dataclass
class Plan:
    """What the tensors do not tell."""

    stage_starts: tuple[int, ...]
    heads: int
    kv_stride: Grid
    patch_stride: Grid
    residual_pooling: bool = True
    head_pooling: str = "cls"


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def as_3d(weight: Tensor) -> Tensor:
    return weight[:, :, None] if weight.dim() == 4 else weight


def pool(state: State, block: str, name: str, x: Tensor, grid: Grid, stride: Grid, cls: int) -> tuple[Tensor, Grid]:
    """One head (B, N, c): depthwise convolution of all but the class token, then LayerNorm of everything."""
    if f"{block}.attn.pool_{name}.weight" not in state:
        return x, grid
    weight = as_3d(state[f"{block}.attn.pool_{name}.weight"])
    padding = [k // 2 for k in weight.shape[2:]]
    maps = x[:, cls:].transpose(1, 2).reshape(x.shape[0], -1, *grid)
    maps = F.conv3d(maps, weight, stride=stride, padding=padding, groups=weight.shape[0])
    tokens = torch.cat([x[:, :cls], maps.flatten(2).transpose(1, 2)], dim=1)
    return layer_norm(state, f"{block}.attn.norm_{name}", tokens), tuple(maps.shape[2:])


def rows(table: Tensor, queries: int, keys: int) -> Tensor:
    """(queries, keys, c): table rows at the published distances, computed in float32 and truncated."""
    longest = 2 * max(queries, keys) - 1
    if table.shape[0] != longest:
        table = F.interpolate(table.T[None], size=longest, mode="linear")[0].T
    query_ratio, key_ratio = max(keys / queries, 1.0), max(queries / keys, 1.0)
    distance = torch.arange(queries)[:, None].float() * query_ratio - torch.arange(keys)[None, :].float() * key_ratio
    return table[(distance + (keys - 1) * key_ratio).long()]


def bias(state: State, block: str, q: Tensor, grid_q: Grid, grid_k: Grid) -> Tensor:
    """q_i . (R_t + R_h + R_w) for every query and key token: (B, queries, keys)."""
    spread = torch.zeros(*grid_q, *grid_k, q.shape[-1], dtype=q.dtype)
    for axis, name in enumerate("thw"):
        table = state.get(f"{block}.attn.rel_pos_{name}")
        if table is not None:
            shape = [1] * 6 + [q.shape[-1]]
            shape[axis], shape[axis + 3] = grid_q[axis], grid_k[axis]
            spread = spread + rows(table, grid_q[axis], grid_k[axis]).reshape(shape)
    spread = spread.reshape(q.shape[1], -1, q.shape[-1])
    return torch.einsum("bic,ijc->bij", q, spread)


def attention(
    state: State, plan: Plan, index: int, heads: int, strides: tuple[Grid, Grid], x: Tensor, grid: Grid, cls: int
):
    block = f"blocks.{index}"
    q, k, v = linear(state, f"{block}.attn.qkv", x).chunk(3, dim=-1)
    outputs = []
    for one_q, one_k, one_v in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
        one_q, grid_q = pool(state, block, "q", one_q, grid, strides[0], cls)
        one_k, grid_k = pool(state, block, "k", one_k, grid, strides[1], cls)
        one_v, _ = pool(state, block, "v", one_v, grid, strides[1], cls)
        logits = one_q @ one_k.transpose(1, 2) / one_q.shape[-1] ** 0.5
        if f"{block}.attn.rel_pos_h" in state:
            logits[:, cls:, cls:] += bias(state, block, one_q[:, cls:], grid_q, grid_k)
        out = logits.softmax(-1) @ one_v
        if plan.residual_pooling:
            out[:, cls:] += one_q[:, cls:]
        outputs.append(out)
    return linear(state, f"{block}.attn.proj", torch.cat(outputs, -1)), grid_q


def skip_pool(x: Tensor, grid: Grid, cls: int) -> Tensor:
    maps = x[:, cls:].transpose(1, 2).reshape(x.shape[0], -1, *grid)
    maps = F.max_pool3d(maps, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    return torch.cat([x[:, :cls], maps.flatten(2).transpose(1, 2)], dim=1)


def mlp(state: State, block: str, x: Tensor) -> Tensor:
    return linear(state, f"{block}.mlp.fc2", F.gelu(linear(state, f"{block}.mlp.fc1", x)))


def embed(state: State, plan: Plan, x: Tensor) -> tuple[Tensor, Grid, int]:
    weight = as_3d(state["patch_embed.proj.weight"])
    x = x[:, :, None] if x.dim() == 4 else x
    padding = [k // 2 for k in weight.shape[2:]]
    maps = F.conv3d(x, weight, state["patch_embed.proj.bias"], plan.patch_stride, padding)
    tokens, cls = maps.flatten(2).transpose(1, 2), int("cls_token" in state)
    if cls:
        tokens = torch.cat([state["cls_token"].repeat(len(x), 1, 1), tokens], dim=1)
    frames, places = maps.shape[2], maps.shape[3] * maps.shape[4]
    if "pos_embed" in state:
        tokens = tokens + state["pos_embed"]
    if "pos_embed_spatial" in state:
        places_first = state["pos_embed_spatial"].repeat(1, frames, 1)
        added = places_first + state["pos_embed_temporal"].repeat_interleave(places, dim=1)
        tokens = tokens + torch.cat([state["pos_embed_class"], added], dim=1)
    return tokens, tuple(maps.shape[2:]), cls


def forward(state: State, plan: Plan, x: Tensor) -> Tensor:
    """Logits of the network that the tensors describe."""
    x, grid, cls = embed(state, plan, x)
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    heads, kv = plan.heads, list(plan.kv_stride)
    for index in range(depth):
        block, start = f"blocks.{index}", index in plan.stage_starts
        stride = (1, 2, 2) if start else (1, 1, 1)
        if start:
            heads, kv = heads * 2, [max(k // s, 1) for k, s in zip(kv, stride)]
        normed = layer_norm(state, f"{block}.norm1", x)
        attended, new_grid = attention(state, plan, index, heads, (stride, tuple(kv)), normed, grid, cls)
        widens = f"{block}.proj.weight" in state
        in_attention = widens and attended.shape[-1] != x.shape[-1]
        skip = linear(state, f"{block}.proj", normed) if in_attention else x
        x = (skip_pool(skip, grid, cls) if start else skip) + attended
        normed = layer_norm(state, f"{block}.norm2", x)
        skip = linear(state, f"{block}.proj", normed) if widens and not in_attention else x
        x, grid = skip + mlp(state, block, normed), new_grid
    if plan.head_pooling == "cls":
        feature = layer_norm(state, "norm", x)[:, 0]
    elif plan.head_pooling == "norm_mean":
        feature = layer_norm(state, "norm", x)[:, cls:].mean(1)
    else:
        feature = layer_norm(state, "norm", x[:, cls:].mean(1))
    return linear(state, "head.projection", feature)
