import dataclasses

import pytest

from mvit_video.models import MViTConfig, get_config


def test_block_geometry_of_s_16x4():
    blocks = get_config("mvitv2_s_16x4").blocks
    seen = [
        (b.dim_in, b.dim_out, b.num_heads, b.grid_in[1], b.grid_q[1], b.grid_kv[1], b.table_rows[1]) for b in blocks
    ]
    assert seen[:5] == [
        (96, 96, 1, 56, 56, 7, 111),
        (96, 192, 2, 56, 28, 14, 55),
        (192, 192, 2, 28, 28, 7, 55),
        (192, 384, 4, 28, 14, 14, 27),
        (384, 384, 4, 14, 14, 7, 27),
    ]
    assert seen[14:] == [(384, 768, 8, 14, 7, 14, 27), (768, 768, 8, 7, 7, 7, 13)]
    assert {b.head_dim for b in blocks} == {96} and {b.table_rows[0] for b in blocks} == {15}
    assert [b.stage for b in blocks] == [0, 1, 1] + [2] * 11 + [3] * 2


def test_block_geometry_of_l_keeps_floor_sized_tables_on_ceil_sized_grids():
    blocks = get_config("mvitv2_l_40x3").blocks
    seen = {i: (blocks[i].grid_q[1], blocks[i].grid_kv[1], blocks[i].table_rows[1]) for i in (0, 2, 3, 8, 9, 44, 45)}
    assert seen == {
        0: (78, 10, 155),
        2: (39, 20, 77),
        3: (39, 10, 77),
        8: (20, 20, 37),
        9: (20, 10, 37),
        44: (10, 20, 37),
        45: (10, 10, 17),
    }
    assert {b.head_dim for b in blocks} == {72} and {b.table_rows[0] for b in blocks} == {39}


def test_geometry_of_the_motion_model():
    blocks = get_config("mvitv2_motion").blocks
    assert [b.grid_q for b in blocks] == [(4, 12, 12), (4, 6, 6), (4, 6, 6), (4, 3, 3)]
    assert [b.grid_kv for b in blocks] == [(4, 3, 3), (4, 6, 6), (4, 3, 3), (4, 6, 6)]
    assert [(b.dim_out, b.num_heads) for b in blocks] == [(48, 1), (96, 2), (96, 2), (192, 4)]


def test_mlp_expansion_widens_one_block_earlier():
    blocks = get_config("mvitv1_b_16x4").blocks
    assert [(b.dim_in, b.dim_attn, b.dim_out, b.num_heads) for b in blocks[:3]] == [
        (96, 96, 192, 1),
        (192, 192, 192, 2),
        (192, 192, 384, 2),
    ]
    assert [i for i, b in enumerate(blocks) if b.kernel_q is not None] == [1, 3, 14]


def test_pool_kernel_none_is_stride_plus_one():
    blocks = get_config("mvitv1_b_16x4", pool_kernel=None).blocks
    assert [blocks[i].kernel_kv for i in (0, 1, 3, 14)] == [(1, 9, 9), (1, 5, 5), (1, 3, 3), None]
    assert (blocks[0].kernel_q, blocks[1].kernel_q) == (None, (1, 3, 3))


def test_drop_path_rises_linearly_from_zero():
    rates = [b.drop_path for b in get_config("mvitv2_s_16x4", drop_path=0.3).blocks]
    assert rates[0] == 0.0 and rates[-1] == pytest.approx(0.3) and rates[5] == pytest.approx(0.1)


def test_lists_are_taken_for_tuples_and_the_config_is_frozen():
    config = MViTConfig(stage_starts=[1, 3, 14], pool_kernel=[3, 3, 3])  # type: ignore[arg-type]
    assert config == MViTConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.depth = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage_starts": (1, 16)}, r"stage_starts=\(1, 16\) must rise and stay below depth=16"),
        ({"stage_starts": (3, 1)}, "must rise"),
        ({"stage_starts": 3}, "must be a list of block indices"),
        ({"num_heads": 5}, "embed_dim=96 must be a multiple of num_heads=5"),
        ({"num_classes": -1}, "num_classes=-1 must be at least 0"),
        ({"num_frames": "16"}, "num_frames='16' must be a whole number"),
        ({"depth": True}, "depth=True must be a whole number"),
        ({"drop_path": 1.0}, r"drop_path=1.0 must lie in \[0, 1\)"),
        ({"dropout": "half"}, "dropout='half' must be a number"),
        ({"mlp_ratio": 0}, "mlp_ratio=0.0 must be positive"),
        ({"pool_kernel": (2, 3, 3)}, r"pool_kernel=\(2, 3, 3\) must be odd"),
        ({"pool_kernel": 3}, "pool_kernel=3 must be three whole numbers"),
        ({"kv_stride": (1, 0, 8)}, "kv_stride=0 must be at least 1"),
        ({"rel_pos": "temporal"}, "rel_pos='temporal' is not one of 'none', 'spatial', 'spatiotemporal'"),
        ({"cls_token": "yes"}, "cls_token='yes' must be True or False"),
        ({"cls_token": False}, "head_pooling='cls' needs cls_token=True"),
        ({"num_frames": 1}, r"num_frames=1 makes an image model, where patch_kernel=\(3, 7, 7\) must have 1"),
        ({"crop_size": 3}, "give an empty patch grid"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MViTConfig(**changes)


def test_image_model_has_no_temporal_table():
    with pytest.raises(ValueError, match="without rel_pos='spatiotemporal'; use 'spatial'"):
        get_config("mvitv2_t_image", rel_pos="spatiotemporal")
