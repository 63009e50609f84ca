"""TensorRT: an engine for each block, built in a process of its own; one for all linear heads."""
