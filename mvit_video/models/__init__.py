"""MViT models. Imports nothing but torch, so it runs wherever PyTorch does."""

from mvit_video.models.config import BlockGeometry, MViTConfig
from mvit_video.models.mvit import MViT
from mvit_video.models.presets import create_model, get_config, list_models

__all__ = ["BlockGeometry", "MViT", "MViTConfig", "create_model", "get_config", "list_models"]
