"""Benchmarks. Each prints one JSON line a result, with command, machine, seed and figures."""
