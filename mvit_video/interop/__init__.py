"""Other libraries behind one door each: PyTorchVideo, and its networks as baselines."""
