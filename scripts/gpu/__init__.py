"""The steps of scripts/bench_gpu.py, one file each, and the small runner around them."""
