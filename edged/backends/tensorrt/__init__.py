"""TensorRT: an engine for each block, built in a process of its own, and one for all linear heads."""
