"""Fast exact forms: pooling and its backward, position columns of attention, recomputed norms, Triton."""
