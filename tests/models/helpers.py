"""Small models with every parameter away from its initial value, shared by the model tests."""

import torch

from mvit_video.models import MViT, MViTConfig, get_config


def small_config(**changes: object) -> MViTConfig:
    """A four-block video model with 8-wide heads: 4 frames, crop 32, patch grid 2 x 8 x 8."""
    fields = {"embed_dim": 8, "num_classes": 5, "num_frames": 4, "crop_size": 32, "drop_path": 0.0, "dropout": 0.0}
    return get_config("mvitv2_motion", **(fields | changes))


def image_fields(**changes: object) -> dict[str, object]:
    """Overrides that turn the small model into an image model."""
    fields: dict[str, object] = {
        "num_frames": 1,
        "patch_kernel": (1, 7, 7),
        "patch_stride": (1, 4, 4),
        "pool_kernel": (1, 3, 3),
        "rel_pos": "spatial",
    }
    return fields | changes


def v1_fields(**changes: object) -> dict[str, object]:
    """Overrides that turn the small model into an MViTv1."""
    fields: dict[str, object] = {
        "expand_in": "mlp",
        "pool_all_queries": False,
        "residual_pooling": False,
        "rel_pos": "none",
        "abs_pos": "separable",
    }
    return fields | changes


def randomised(config: MViTConfig, seed: int = 0) -> MViT:
    """A float64 model in eval mode, with noise on every parameter so that nothing is one or zero by accident."""
    torch.manual_seed(seed)
    model = MViT(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


class HopperWithoutDevice:
    """What Triton asks of a driver in order to compile."""

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0
