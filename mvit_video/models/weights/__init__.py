"""Weights by name, of files and of state dicts: fetching, reading, whose they are, the model they describe, fitting."""

from mvit_video.models.weights.zoo import ResolvedWeights, resolve

__all__ = ["ResolvedWeights", "resolve"]
