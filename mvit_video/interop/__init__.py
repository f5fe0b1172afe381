"""Other libraries behind the interface of this project: PyTorchVideo, repaired, and its networks as baselines."""
