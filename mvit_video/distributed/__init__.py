"""Processes that train together: who they are, what they exchange, and how they divide a model."""
