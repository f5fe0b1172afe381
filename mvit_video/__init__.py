"""Training framework for video recognition with MViTv2 (arXiv 2112.01526)."""

__version__ = "0.1.0"
