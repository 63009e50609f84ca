"""Tools that run beside the daemon: the demo and the benchmarks. Not part of the wheel."""
