"""A check of edged on an NVIDIA GPU, step by step, with its results on one page."""
