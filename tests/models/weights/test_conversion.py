"""Fitting weights to a model: other classes, frames and crops, image weights for video, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mvit_video.models import MViT, load_weights
from tests.models.helpers import image_fields, randomised, small_config, v1_fields

V2, V1 = small_config(), small_config(**v1_fields())
IMAGE = small_config(**image_fields(cls_token=False, head_pooling="norm_mean", num_classes=7))
TABLE = "blocks.0.attn.rel_pos_t"


def state_of(config, seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(randomised(config, seed).float().state_dict())


class TestRefusals:
    def test_missing_and_unexpected_names_are_listed(self):
        state = state_of(V2)
        del state["blocks.1.norm2.bias"]
        state["mask_token"] = torch.zeros(1)
        model = MViT(V2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=r"do not fit the model \(2 problems\)") as caught:
            load_weights(model, state)
        assert "mask_token: in the file, not in the model" in str(caught.value)
        assert "blocks.1.norm2.bias: in the model, not in the file" in str(caught.value)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_names_are_the_files_own(self):
        from tests.models.peers import torchvision_state

        theirs = torchvision_state(state_of(V2))
        theirs["blocks.0.mlp.3.weight"] = torch.zeros(3, 3)
        with pytest.raises(
            ValueError, match=r"blocks\.0\.mlp\.3\.weight: \(3, 3\) in the file, \(8, 32\) in the model"
        ):
            load_weights(MViT(V2), theirs)

    def test_allowed_by_pattern(self):
        state = state_of(V2)
        del state["blocks.1.norm2.bias"]
        state |= {"mask_token": torch.zeros(1), "pred_head.0.weight": torch.zeros(2, 2)}
        report = load_weights(MViT(V2), state, allow=["mask_token", "pred_head.*", "blocks.*.norm2.*"])
        assert report.left_out == ["mask_token", "pred_head.0.weight"]
        assert report.new == ["blocks.1.norm2.bias"]

    def test_one_pattern_is_no_list(self):
        with pytest.raises(ValueError, match="must be a list of patterns"):
            load_weights(MViT(V2), state_of(V2), allow="mask_token")

    def test_another_width_or_expansion(self):
        with pytest.raises(ValueError, match=r"cls_token: \(1, 1, 8\) in the file, \(1, 1, 16\) in the model"):
            load_weights(MViT(small_config(embed_dim=16)), state_of(V2))
        with pytest.raises(ValueError, match=r"blocks\.0\.proj\.weight: in the model, not in the file"):
            load_weights(MViT(small_config(expand_in="mlp")), state_of(V2))

    def test_what_makes_it_another_model_is_said(self):
        with pytest.raises(
            ValueError, match=r"has 3 blocks from 8 channels on, this one 4 from 8: take weights of the"
        ):
            load_weights(MViT(V2), state_of(small_config(depth=3, stage_starts=(1,))))
        said = r"the file's model widens in the mlp .*, this one in the attention: build it with expand_in='mlp'"
        with pytest.raises(ValueError, match=said):
            load_weights(MViT(V2), state_of(small_config(expand_in="mlp")))
        said = r"widens in the attention .*, this one in the mlp: .*model\.expand_in=attention in a command"
        with pytest.raises(ValueError, match=said):
            load_weights(
                MViT(small_config(expand_in="mlp")), state_of(IMAGE), image_to_video="corrected", new_head=True
            )
        with_cls = small_config(**image_fields(num_classes=7))
        with pytest.raises(ValueError, match=r"has a class token, as those of ImageNet-21k have, this one has none"):
            load_weights(MViT(IMAGE), state_of(with_cls))

    def test_weights_of_a_video_model_do_not_become_an_image_models(self):
        said = r"holds a video model, and this is an image model: .* not the other way\. Start from image weights"
        with pytest.raises(ValueError, match=said):
            load_weights(MViT(IMAGE), state_of(V2), new_head=True)

    def test_tables_of_other_head_widths_are_not_interpolated(self):
        state = state_of(V2) | {TABLE: torch.zeros(3, 4)}
        with pytest.raises(ValueError, match=r"rel_pos_t: \(3, 4\) in the file, \(3, 8\) in the model"):
            load_weights(MViT(V2), state)


class TestHead:
    def test_another_class_count(self):
        model = MViT(small_config(num_classes=3))
        with pytest.raises(
            ValueError, match=r"\(5, 32\) in the file, \(3, 32\) in the model.*num_classes=5.*new_head=True"
        ):
            load_weights(model, state_of(V2))
        before = model.head.projection.weight.clone()
        report = load_weights(model, state_of(V2), new_head=True)
        assert report.new == report.left_out == ["head.projection.weight", "head.projection.bias"]
        assert torch.equal(model.head.projection.weight, before)
        assert torch.equal(model.norm.weight, state_of(V2)["norm.weight"])

    def test_a_fitting_head_is_kept(self):
        report = load_weights(MViT(V2), state_of(V2), new_head=True)
        assert not report.new and "head.projection.weight" in report.loaded

    def test_a_model_without_head(self):
        report = load_weights(MViT(small_config(num_classes=0)), state_of(V2))
        assert report.left_out == ["head.projection.weight", "head.projection.bias"] and not report.new


class TestInterpolation:
    def test_relative_tables_are_linear_over_rows(self):
        state = state_of(V2)
        assert state[TABLE].shape == (3, 8)
        state[TABLE] = torch.tensor([0.0, 1.0, 2.0])[:, None].expand(3, 8)
        model = MViT(small_config(num_frames=6))
        report = load_weights(model, state)
        wanted = torch.tensor([0.0, 0.4, 1.0, 1.6, 2.0])
        torch.testing.assert_close(model.state_dict()[TABLE], wanted[:, None].expand(5, 8), rtol=0, atol=1e-6)
        assert report.interpolated == [f"blocks.{i}.attn.rel_pos_t" for i in range(4)]

    def test_temporal_positions_are_linear(self):
        state = state_of(V1)
        state["pos_embed_temporal"] = torch.tensor([0.0, 1.0])[None, :, None].expand(1, 2, 8)
        model = MViT(small_config(**v1_fields(num_frames=8)))
        report = load_weights(model, state)
        wanted = torch.tensor([0.0, 0.25, 0.75, 1.0])[None, :, None].expand(1, 4, 8)
        torch.testing.assert_close(model.pos_embed_temporal.data, wanted, rtol=0, atol=1e-6)
        assert report.interpolated == ["pos_embed_temporal"]

    def test_spatial_positions_are_bicubic(self):
        state = state_of(V1)
        model = MViT(small_config(**v1_fields(crop_size=48)))
        report = load_weights(model, state)
        maps = state["pos_embed_spatial"].view(8, 8, 8).permute(2, 0, 1)[None]
        wanted = F.interpolate(maps, size=(12, 12), mode="bicubic")[0].flatten(1).t()[None]
        torch.testing.assert_close(model.pos_embed_spatial.data, wanted, rtol=0, atol=1e-6)
        assert report.interpolated == ["pos_embed_spatial"]

    def test_joint_positions_keep_the_class_token(self):
        fields = v1_fields(abs_pos="joint")
        state = state_of(small_config(**fields))
        assert state["pos_embed"].shape == (1, 129, 8)
        state["pos_embed"] = torch.cat([torch.full((1, 1, 8), 5.0), torch.full((1, 128, 8), 2.0)], dim=1)
        model = MViT(small_config(**fields, crop_size=48))
        report = load_weights(model, state)
        assert model.pos_embed.shape == (1, 289, 8)
        assert model.pos_embed[0, 0].tolist() == [5.0] * 8
        torch.testing.assert_close(model.pos_embed.data[:, 1:], torch.full((1, 288, 8), 2.0), rtol=0, atol=1e-5)
        assert report.interpolated == ["pos_embed"]

    def test_joint_positions_of_an_unknown_grid_are_refused(self):
        fields = v1_fields(abs_pos="joint")
        with pytest.raises(ValueError, match=r"pos_embed: \(1, 129, 8\) in the file, \(1, 193, 8\) in the model"):
            load_weights(MViT(small_config(**fields, num_frames=6)), state_of(small_config(**fields)))

    def test_the_function_hardly_changes_at_another_size(self):
        """A model fed a larger crop interpolates at run time; loading for that crop must do the same."""
        state = state_of(V2)
        small, large = MViT(V2).eval(), MViT(small_config(crop_size=64)).eval()
        load_weights(small, state)
        load_weights(large, state)
        x = torch.randn(1, 3, 4, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(large(x), small(x), rtol=0, atol=1e-4)


class TestImageToVideo:
    def test_it_must_be_asked_for(self):
        with pytest.raises(
            ValueError, match=r"an image model, and this is a video model: pass image_to_video='correct"
        ):
            load_weights(MViT(V2), state_of(IMAGE), new_head=True)
        with pytest.raises(ValueError, match=r"the file holds a video model, this is a video model"):
            load_weights(MViT(V2), state_of(V2), image_to_video="corrected")
        with pytest.raises(ValueError, match=r"image_to_video='mean' is not 'published', 'corrected' or None"):
            load_weights(MViT(V2), state_of(IMAGE), image_to_video="mean")

    @pytest.mark.parametrize("with_time_axis", [False, True])
    def test_corrected_divides_by_the_frames_of_the_kernel(self, with_time_axis):
        state = state_of(IMAGE)
        wanted_pool = state["blocks.0.attn.pool_k.weight"].clone()
        if with_time_axis:
            state = {name: value.unsqueeze(2) if ".pool_" in name else value for name, value in state.items()}
        model = MViT(V2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        report = load_weights(model, state, image_to_video="corrected", new_head=True)
        stem, pool = model.patch_embed.proj.weight, model.blocks[0].attn.pool_k.weight
        assert stem.shape == (8, 3, 3, 7, 7) and pool.shape == (8, 1, 3, 3, 3)
        for frame in range(3):
            torch.testing.assert_close(stem[:, :, frame], state["patch_embed.proj.weight"] / 3, rtol=0, atol=1e-7)
            torch.testing.assert_close(pool[:, :, frame], wanted_pool / 3, rtol=0, atol=1e-7)
        assert len(report.inflated) == 1 + 12
        tables = [f"blocks.{i}.attn.rel_pos_t" for i in range(4)]
        assert sorted(report.new) == sorted(["cls_token", *tables, "head.projection.weight", "head.projection.bias"])
        assert all(torch.equal(model.state_dict()[name], before[name]) for name in report.new)
        assert report.left_out == ["head.projection.weight", "head.projection.bias"]

    def test_a_still_clip_gets_the_images_stem_response(self):
        state = state_of(IMAGE)
        model = MViT(small_config(num_frames=8))
        load_weights(model, state, image_to_video="corrected", new_head=True)
        image = torch.randn(1, 3, 32, 32)
        with torch.inference_mode():
            clip = model.patch_embed.proj(image[:, :, None].expand(-1, -1, 8, -1, -1))
            wanted = F.conv2d(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 4, 3)
        for frame in (1, 2, 3):
            torch.testing.assert_close(clip[:, :, frame], wanted, rtol=0, atol=1e-4)

    def test_published_repeats(self):
        state = {n: v.unsqueeze(2) if ".pool_" in n else v for n, v in state_of(IMAGE).items()}
        model = MViT(V2)
        load_weights(model, state, image_to_video="published", new_head=True)
        for frame in range(3):
            assert torch.equal(model.patch_embed.proj.weight[:, :, frame], state["patch_embed.proj.weight"])
            pool = model.blocks[2].attn.pool_v.weight[:, :, frame]
            assert torch.equal(pool, state["blocks.2.attn.pool_v.weight"][:, :, 0])

    def test_the_published_rule_loses_pools_without_a_time_axis(self):
        state, model = state_of(IMAGE), MViT(V2)
        with pytest.raises(
            ValueError, match=r"pool_q\.weight: \(8, 1, 3, 3\) in the file.*allow=\['blocks\.\*\.attn\.pool"
        ):
            load_weights(model, state, image_to_video="published", new_head=True)
        before = model.blocks[0].attn.pool_q.weight.clone()
        patterns = ["blocks.*.attn.pool_*"]
        report = load_weights(model, state, image_to_video="published", new_head=True, allow=patterns)
        assert torch.equal(model.blocks[0].attn.pool_q.weight, before)
        assert report.inflated == ["patch_embed.proj.weight"]
        assert sum(".pool_" in name for name in report.new) == sum(".pool_" in name for name in report.left_out) == 12

    def test_tables_of_another_key_stride_are_interpolated(self):
        image = small_config(**image_fields(cls_token=False, head_pooling="norm_mean", kv_stride=(1, 2, 2)))
        state = state_of(image)
        assert state["blocks.1.attn.rel_pos_h"].shape == (15, 8)
        report = load_weights(MViT(V2), state, image_to_video="corrected", new_head=True)
        assert report.interpolated == ["blocks.1.attn.rel_pos_h", "blocks.1.attn.rel_pos_w"]

    def test_the_class_token_of_an_image_model_is_taken_over(self):
        """ImageNet-21k's models have one; ImageNet-1k's leave it to chance."""
        state = state_of(small_config(**image_fields(num_classes=7)))
        model = MViT(V2)
        report = load_weights(model, state, image_to_video="corrected", new_head=True)
        assert torch.equal(model.cls_token, state["cls_token"]) and "cls_token" in report.loaded

    def test_version_1_loses_its_joint_positions(self):
        state = state_of(small_config(**(v1_fields() | image_fields(abs_pos="joint", rel_pos="none"))))
        report = load_weights(MViT(V1), state, image_to_video="corrected")
        assert report.left_out == ["pos_embed"]
        assert report.new == ["pos_embed_spatial", "pos_embed_temporal", "pos_embed_class"]


def test_other_networks_take_their_own_names():
    source, target = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3))
    report = load_weights(target, {f"module.{name}": value for name, value in source.state_dict().items()})
    assert torch.equal(target[0].weight, source[0].weight)
    assert report.format is None and report.loaded == ["0.weight", "0.bias"]
    with pytest.raises(ValueError, match=r"0\.weight: \(3, 2\) in the file, \(4, 2\) in the model"):
        load_weights(nn.Sequential(nn.Linear(2, 4)), source.state_dict())


def test_the_report_in_words():
    model = MViT(small_config(num_frames=6, num_classes=3))
    text = str(load_weights(model, state_of(V2), new_head=True))
    assert text.startswith("101 tensors loaded; interpolated: blocks.0.attn.rel_pos_t, ")
    assert text.endswith("; new: head.projection.weight, head.projection.bias")
