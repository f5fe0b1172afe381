"""Configurations read off tensors, and what the configuration stored in a file adds."""

import dataclasses

import pytest
import torch
import yaml

from mvit_video.models import MViT, MViTConfig, from_checkpoint, get_config, list_models
from mvit_video.models.weights.files import StoredConfig
from mvit_video.models.weights.infer import infer_config, stored_fields
from mvit_video.models.weights.loading import checkpoint_content
from tests.models.helpers import image_fields, randomised, small_config, v1_fields
from tests.models.peers import mmaction2_state

MASKFEAT = {"expand_in": "mlp", "head_pooling": "mean_norm"}


def shapes_of(config: MViTConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(MViT(config).state_dict())


def inferred(config: MViTConfig, stored: dict | None = None, **overrides: object) -> MViTConfig:
    return infer_config(shapes_of(config), stored=stored or {}, overrides=overrides, mean_of_tokens=True)


@pytest.mark.parametrize("name", list_models())
def test_every_preset_is_known_from_its_tensors(name):
    assert inferred(get_config(name)) == get_config(name)


@pytest.mark.parametrize(
    "config",
    [
        get_config("mvitv2_s_16x4", **MASKFEAT, num_classes=174),
        get_config("mvitv2_l_40x3", **MASKFEAT, num_frames=16, crop_size=224),
        get_config("mvitv2_b_32x3", num_frames=16, num_classes=0),
        get_config("mvitv2_s_16x4", crop_size=352, kv_stride=(1, 4, 4)),
        get_config("mvitv2_s_16x4", patch_kernel=(1, 7, 7), patch_stride=(1, 4, 4)),
        get_config("mvitv2_s_16x4", qkv_bias=False, mlp_ratio=3.0, in_channels=1),
        get_config("mvitv2_s_16x4", pool_all_queries=False),
        get_config("mvitv1_b_32x3", depth=24, stage_starts=(2, 5, 21), pool_kernel=None),
        get_config("mvitv1_b_16x4", cls_token=False, head_pooling="norm_mean"),
        get_config("mvitv2_s_image", cls_token=True, head_pooling="cls"),
    ],
)
def test_variations(config):
    got = inferred(config)
    training = {"drop_path": config.drop_path, "dropout": config.dropout, "init": config.init}
    assert dataclasses.replace(got, **training) == config


def test_a_version_1_image_model():
    config = get_config("mvitv2_s_image", **v1_fields(abs_pos="joint"), cls_token=True, head_pooling="cls")
    assert shapes_of(config)["pos_embed"].shape == (1, 3137, 96)
    got = inferred(config)
    assert (got.abs_pos, got.crop_size, got.num_frames, got.residual_pooling) == ("joint", 224, 1, False)


class TestWhatTensorsDoNotTell:
    def test_defaults_and_overrides(self):
        config = small_config()  # its keys are strided by 4, 2 and 1
        assert inferred(config).kv_stride == (1, 4, 4)
        state = shapes_of(small_config(rel_pos="none", stage_starts=(2,)))
        got = infer_config(state, stored={}, overrides={}, mean_of_tokens=True)
        assert (got.kv_stride, got.num_frames, got.crop_size, got.residual_pooling) == ((1, 8, 8), 16, 224, False)
        given = {"kv_stride": (1, 2, 2), "num_frames": 4, "crop_size": 32, "residual_pooling": True}
        got = infer_config(state, stored={}, overrides=given, mean_of_tokens=True)
        assert {name: getattr(got, name) for name in given} == given

    def test_pooling_of_the_head(self):
        config = small_config(expand_in="mlp")
        assert inferred(config).head_pooling == "mean_norm"
        assert inferred(config, head_pooling="cls").head_pooling == "cls"
        assert inferred(config, {"head_pooling": "norm_mean"}).head_pooling == "norm_mean"
        assert from_checkpoint(mmaction2_state(dict(randomised(config).state_dict()))).config.head_pooling == "cls"

    def test_heads_without_pooling(self):
        config = small_config(rel_pos="none", kv_stride=(1, 1, 1), pool_kernel=None, stage_starts=())
        with pytest.raises(ValueError, match=r"neither pooling weights nor relative tables.*pass num_heads="):
            inferred(config)
        assert inferred(config, num_heads=2).num_heads == 2

    def test_frames_of_a_joint_embedding(self):
        config = small_config(**v1_fields(abs_pos="joint"))
        with pytest.raises(ValueError, match="does not tell the number of frames: pass num_frames="):
            inferred(config)
        got = inferred(config, num_frames=4)
        assert (got.num_frames, got.crop_size) == (4, 32)

    def test_an_unknown_override(self):
        with pytest.raises(ValueError, match="unknown override 'frames'; known: abs_pos"):
            inferred(small_config(), frames=4)

    def test_an_incomplete_state_dict(self):
        state = shapes_of(small_config())
        del state["blocks.2.attn.qkv.weight"]
        with pytest.raises(ValueError, match=r"some of blocks\.0 to blocks\.3 are missing"):
            infer_config(state, stored={}, overrides={}, mean_of_tokens=False)


PYSLOWFAST = {
    "MVIT": {
        "RESIDUAL_POOLING": True,
        "USE_MEAN_POOLING": False,
        "CLS_EMBED_ON": True,
        "DROPPATH_RATE": 0.75,
        "NUM_HEADS": 2,
        "PATCH_STRIDE": [2, 4, 4],
        "PATCH_PADDING": "(1, 3, 3)",
        "POOL_KV_STRIDE_ADAPTIVE": [1, 8, 8],
        "POOL_KV_STRIDE": [[0, 1, 4, 4]],
    },
    "DATA": {"NUM_FRAMES": 16, "TRAIN_CROP_SIZE": 224},
    "MODEL": {"DROPOUT_RATE": 0.25, "NUM_CLASSES": 400},
}


class TestStoredConfigurations:
    def test_pyslowfast(self):
        fields = stored_fields(StoredConfig(kind="pyslowfast", text=yaml.safe_dump(PYSLOWFAST)))
        assert fields == {
            "residual_pooling": True,
            "drop_path": 0.75,
            "dropout": 0.25,
            "num_heads": 2,
            "num_frames": 16,
            "crop_size": 224,
            "patch_stride": (2, 4, 4),
            "patch_padding": (1, 3, 3),
            "kv_stride": (1, 8, 8),
            "head_pooling": "cls",
        }

    @pytest.mark.parametrize(
        ("section", "wanted"),
        [
            (
                {"POOL_KV_STRIDE_ADAPTIVE": [4, 4], "PATCH_PADDING": [3, 3]},
                {"kv_stride": (1, 4, 4), "patch_padding": (0, 3, 3)},
            ),
            (
                {"POOL_KV_STRIDE_ADAPTIVE": None, "POOL_KV_STRIDE": [[0, 1, 4, 4], [1, 1, 2, 2]]},
                {"kv_stride": (1, 4, 4)},
            ),
            ({"POOL_KV_STRIDE_ADAPTIVE": "None", "USE_MEAN_POOLING": True}, {"head_pooling": "mean_norm"}),
            ({"POOL_KV_STRIDE_ADAPTIVE": [], "RESIDUAL_POOLING": "None"}, {}),
        ],
    )
    def test_other_ways_to_write_it(self, section, wanted):
        assert stored_fields(StoredConfig(kind="pyslowfast", text=yaml.safe_dump({"MVIT": section}))) == wanted

    def test_it_decides_what_tensors_leave_open(self):
        config = small_config(expand_in="mlp", residual_pooling=False, crop_size=34, drop_path=0.3)
        stored = {"head_pooling": "cls", "residual_pooling": False, "crop_size": 34, "drop_path": 0.3, "dropout": 0.0}
        got = inferred(config, stored)
        assert got == dataclasses.replace(config, init="pyslowfast")
        assert inferred(config, stored, crop_size=32).crop_size == 32

    def test_the_tensors_go_before_it(self):
        got = inferred(small_config(), {"crop_size": 224, "num_frames": 16, "num_heads": 3})
        assert (got.crop_size, got.num_frames, got.num_heads) == (32, 4, 1)

    def test_a_run_of_ours(self):
        model = {"_target_": "mvit_video.models.create_model", "name": "mvitv2_motion", "drop_path": 0.1, "init": None}
        fields = stored_fields(StoredConfig(kind="mvit_video", text=yaml.safe_dump({"model": model})))
        assert fields == dataclasses.asdict(get_config("mvitv2_motion", drop_path=0.1))

    def test_another_network(self):
        text = yaml.safe_dump(
            {"model": {"_target_": "mvit_video.interop.baselines.create_baseline", "name": "slow_r50"}}
        )
        with pytest.raises(ValueError, match=r"is of mvit_video\.interop\.baselines\.\w+, which is no MViT"):
            stored_fields(StoredConfig(kind="mvit_video", text=text))

    def test_damaged_text(self):
        with pytest.raises(ValueError, match=r"cannot be read \(.*\): pass its state dict alone"):
            stored_fields(StoredConfig(kind="pyslowfast", text="MVIT: [1, 2"))

    def test_objects_in_the_text_are_refused(self):
        with pytest.raises(ValueError, match="cannot be read"):
            stored_fields(StoredConfig(kind="pyslowfast", text="MVIT: !!python/object/apply:os.system ['true']"))


class TestFromCheckpoint:
    def test_the_same_function(self, tmp_path):
        config = small_config(residual_pooling=False, expand_in="mlp", head_pooling="norm_mean", drop_path=0.1)
        model = randomised(config).float()
        torch.save(checkpoint_content(model, "mvit_video"), tmp_path / "a.pt")
        read = from_checkpoint(tmp_path / "a.pt").eval()
        assert read.config == config
        x = torch.randn(1, 3, 4, 32, 32)
        with torch.inference_mode():
            assert torch.equal(read(x), model(x))

    def test_a_pyslowfast_file(self, tmp_path):
        config = small_config(expand_in="mlp", head_pooling="mean_norm")
        model = randomised(config).float()
        cfg = yaml.safe_dump({"MVIT": {"USE_MEAN_POOLING": True, "CLS_EMBED_ON": True, "DROPPATH_RATE": 0.1}})
        content = {"epoch": 9, "model_state": model.state_dict(), "optimizer_state": {}, "cfg": cfg}
        torch.save(content, tmp_path / "checkpoint_epoch_00010.pyth")
        read = from_checkpoint(str(tmp_path / "checkpoint_epoch_00010.pyth"))
        assert (read.config.head_pooling, read.config.drop_path) == ("mean_norm", 0.1)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in read.state_dict().items())

    def test_other_sizes_and_classes(self):
        state = dict(randomised(small_config()).float().state_dict())
        model = from_checkpoint(state, num_frames=8, crop_size=64, num_classes=2)
        assert model(torch.randn(1, 3, 8, 64, 64)).shape == (1, 2)
        assert torch.equal(model.norm.bias, state["norm.bias"])

    def test_strides_that_do_not_explain_the_tables(self):
        state = dict(randomised(small_config()).float().state_dict())
        with pytest.raises(
            ValueError, match=r"tables of the file do not have the sizes of a 4 x 32 model with kv_stride"
        ):
            from_checkpoint(state, kv_stride=(1, 2, 2))

    def test_leftovers_must_be_allowed(self):
        state = dict(randomised(small_config()).float().state_dict()) | {"mask_token": torch.zeros(1)}
        with pytest.raises(ValueError, match="mask_token: in the file, not in the model"):
            from_checkpoint(state)
        assert from_checkpoint(state, allow=["mask_*"]).config.depth == 4

    def test_an_image_file(self):
        config = small_config(**image_fields(cls_token=False, head_pooling="norm_mean"))
        model = randomised(config).float()
        read = from_checkpoint(dict(model.state_dict())).eval()
        x = torch.randn(2, 3, 32, 32)
        with torch.inference_mode():
            assert torch.equal(read(x), model(x))


def test_the_published_l_model_at_312():
    """Its later tables are shorter than their grids need; floor division explains all of them."""
    state = shapes_of(get_config("mvitv2_l_40x3"))
    rows = [state[f"blocks.{i}.attn.rel_pos_h"].shape[0] for i in (0, 2, 8, 9, 44, 45)]
    assert rows == [155, 77, 37, 37, 37, 17]
    got = infer_config(state, stored={}, overrides={}, mean_of_tokens=True)
    assert (got.crop_size, got.num_frames, got.kv_stride, got.num_heads) == (312, 40, (1, 8, 8), 2)
