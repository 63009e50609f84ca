"""Benchmarks: each prints one JSON line a result, with command, machine, seed and what it says."""
