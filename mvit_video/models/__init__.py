"""MViT models. Imports nothing but torch, so it runs wherever PyTorch does."""

from mvit_video.models.config import BlockGeometry, MViTConfig
from mvit_video.models.mvit.network import MViT
from mvit_video.models.mvit.presets import get_config, list_models
from mvit_video.models.weights.conversion import LoadReport
from mvit_video.models.weights.files import CheckpointError
from mvit_video.models.weights.formats import save_as
from mvit_video.models.weights.loading import create_model, from_checkpoint, load_weights

__all__ = [
    "BlockGeometry",
    "CheckpointError",
    "LoadReport",
    "MViT",
    "MViTConfig",
    "create_model",
    "from_checkpoint",
    "get_config",
    "list_models",
    "load_weights",
    "save_as",
]
