"""Weights by name and of files: fetching, reading, whose names they are, which model they describe, fitting to a model."""

from mvit_video.models.weights.zoo import ResolvedWeights, resolve

__all__ = ["ResolvedWeights", "resolve"]
