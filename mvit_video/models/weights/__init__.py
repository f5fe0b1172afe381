"""Weights of files and state dicts: reading, whose names they are, which model they describe, fitting to a model."""
