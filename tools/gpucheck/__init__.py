"""A check of edged on an NVIDIA GPU, with its results on one page."""
