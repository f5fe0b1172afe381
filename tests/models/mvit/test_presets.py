import pytest
import torch

from mvit_video.models import MViT, create_model, get_config, list_models

T_DEPTH = {"depth": 10, "stage_starts": (1, 3, 8)}
MASKFEAT = {"expand_in": "mlp", "head_pooling": "mean_norm"}
V1_24 = {"depth": 24, "stage_starts": (2, 5, 21), "pool_kernel": None}
V1_IMAGE = {
    "num_classes": 1000,
    "num_frames": 1,
    "patch_kernel": (1, 7, 7),
    "patch_stride": (1, 4, 4),
    "pool_kernel": (1, 3, 3),
    "kv_stride": (1, 4, 4),
    "abs_pos": "joint",
}


def on_meta(name: str, **overrides: object) -> MViT:
    with torch.device("meta"):
        return create_model(name, **overrides)


@pytest.mark.parametrize(
    ("name", "overrides", "parameters"),
    [
        ("mvitv2_s_16x4", {}, 34_537_744),
        ("mvitv2_s_16x4", {"num_classes": 174}, 34_363_950),
        ("mvitv2_b_32x3", {}, 51_230_128),
        ("mvitv2_b_32x3", {"num_classes": 174}, 51_056_334),
        ("mvitv2_b_32x3", {"num_classes": 600}, 51_383_928),
        ("mvitv2_b_32x3", {"num_classes": 700}, 51_460_828),
        ("mvitv2_l_40x3", {}, 213_390_112),
        ("mvitv2_l_40x3", {"num_classes": 174}, 213_129_534),
        ("mvitv2_l_40x3", {"num_classes": 600}, 213_620_712),
        ("mvitv2_s_16x4", T_DEPTH, 23_801_104),
        ("mvitv2_s_16x4", {"num_frames": 32}, 34_562_320),
        ("mvitv2_b_32x3", {"num_frames": 16}, 51_193_264),
        ("mvitv2_l_40x3", {"num_frames": 16, "crop_size": 224}, 213_220_480),
        ("mvitv2_l_40x3", {"crop_size": 224}, 213_303_424),
        ("mvitv2_l_40x3", {"crop_size": 352}, 213_438_208),
        ("mvitv2_s_16x4", MASKFEAT, 36_475_120),
        ("mvitv2_l_40x3", MASKFEAT | {"num_frames": 16, "crop_size": 224}, 217_578_064),
        ("mvitv1_b_16x4", {}, 36_610_672),
        ("mvitv1_b_32x3", {}, 36_611_440),
        ("mvitv1_b_32x3", V1_24, 53_115_280),
        ("mvitv1_b_16x4", V1_IMAGE, 36_982_600),
        ("mvitv2_t_image", {}, 24_173_320),
        ("mvitv2_s_image", {}, 34_870_216),
        ("mvitv2_b_image", {}, 51_472_744),
        ("mvitv2_l_image", {}, 217_992_952),
        ("mvitv2_l_image", {"expand_in": "attention"}, 213_635_368),
        ("mvitv2_h_image", {}, 666_879_720),
        ("mvitv2_h_image", {"expand_in": "mlp"}, 674_625_192),
        ("mvitv2_b_image_cls", {"num_classes": 1000}, 51_472_840),
        ("mvitv2_l_image_cls", {"num_classes": 1000}, 213_635_512),
        ("mvitv2_h_image_cls", {"num_classes": 1000}, 666_879_912),
        ("mvitv2_b_image_cls", {}, 51_472_840 + 18_168 * 769),
        ("mvitv2_l_image_cls", {}, 213_635_512 + 18_168 * 1153),
        ("mvitv2_h_image_cls", {}, 666_879_912 + 18_168 * 1537),
        ("mvitv2_motion", {}, 697_352),
    ],
)
def test_parameter_counts_are_the_published_ones(name, overrides, parameters):
    assert sum(p.numel() for p in on_meta(name, **overrides).parameters()) == parameters


@pytest.mark.parametrize(("name", "tensors"), [("mvitv2_s_16x4", 397), ("mvitv1_b_16x4", 313), ("mvitv2_t_image", 242)])
def test_number_of_tensors(name, tensors):
    assert len(on_meta(name).state_dict()) == tensors


def test_names_and_shapes_are_pyslowfasts():
    shapes = {name: tuple(value.shape) for name, value in on_meta("mvitv2_s_16x4").state_dict().items()}
    expected = {
        "cls_token": (1, 1, 96),
        "patch_embed.proj.weight": (96, 3, 3, 7, 7),
        "blocks.1.norm1.bias": (96,),
        "blocks.1.attn.qkv.weight": (576, 96),
        "blocks.1.attn.proj.weight": (192, 192),
        "blocks.1.attn.pool_k.weight": (96, 1, 3, 3, 3),
        "blocks.1.attn.norm_v.weight": (96,),
        "blocks.1.attn.rel_pos_w": (55, 96),
        "blocks.1.attn.rel_pos_t": (15, 96),
        "blocks.1.norm2.weight": (192,),
        "blocks.1.mlp.fc1.weight": (768, 192),
        "blocks.1.mlp.fc2.weight": (192, 768),
        "blocks.1.proj.weight": (192, 96),
        "norm.weight": (768,),
        "head.projection.weight": (400, 768),
    }
    assert {name: shapes[name] for name in expected} == expected


def test_v1_and_image_shapes():
    v1 = {name: tuple(value.shape) for name, value in on_meta("mvitv1_b_16x4").state_dict().items()}
    assert v1["pos_embed_spatial"] == (1, 3136, 96) and v1["pos_embed_temporal"] == (1, 8, 96)
    assert v1["pos_embed_class"] == (1, 1, 96) and "blocks.0.attn.pool_q.weight" not in v1
    assert "blocks.0.proj.weight" in v1 and "blocks.1.proj.weight" not in v1
    assert on_meta("mvitv1_b_16x4", **V1_IMAGE).pos_embed.shape == (1, 3137, 96)
    image = {name: tuple(value.shape) for name, value in on_meta("mvitv2_t_image").state_dict().items()}
    assert image["patch_embed.proj.weight"] == (96, 3, 7, 7) and image["blocks.0.attn.pool_q.weight"] == (96, 1, 3, 3)
    assert "cls_token" not in image and "blocks.0.attn.rel_pos_t" not in image


def test_list_models():
    assert list_models() == [
        "mvitv2_s_16x4",
        "mvitv2_b_32x3",
        "mvitv2_l_40x3",
        "mvitv1_b_16x4",
        "mvitv1_b_32x3",
        "mvitv2_t_image",
        "mvitv2_s_image",
        "mvitv2_b_image",
        "mvitv2_l_image",
        "mvitv2_h_image",
        "mvitv2_b_image_cls",
        "mvitv2_l_image_cls",
        "mvitv2_h_image_cls",
        "mvitv2_motion",
        "mvitv2_shapes",
    ]


def test_unknown_model_and_override_name_what_is_close():
    with pytest.raises(
        ValueError, match=r"unknown model 'mvitv2_s' \(did you mean .*'mvitv2_s_16x4'.*known: mvitv2_s_16x4, "
    ):
        create_model("mvitv2_s")
    with pytest.raises(ValueError, match=r"unknown override 'num_clases' \(did you mean 'num_classes'.*known: depth, "):
        create_model("mvitv2_motion", num_clases=3)
    with pytest.raises(ValueError, match="crop_size='48' must be a whole number"):
        get_config("mvitv2_motion", crop_size="48")
