"""One module per decoder: PyAV (exact, the default), decord and torchcodec (to compare with)."""
