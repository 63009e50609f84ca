"""CUDA behind an interface of our own: the calls that serving needs, real or emulated."""
