"""`python -m tools.bench NAME [options]`: run one benchmark.

A benchmark is a module with `register(commands)`, which adds a subcommand of its name and sets
`run(args) -> int` as its default. Only the module that is asked for is imported.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from edged.cli.console import run_command

BENCHES = {
    "attack": "tools.bench.attack",
    "chain": "tools.bench.chain",
    "doors": "tools.bench.doors",
    "grants": "tools.bench.grants",
    "loading": "tools.bench.loading",
    "memory": "tools.bench.memory",
    "overhead": "tools.bench.overhead",
    "overload": "tools.bench.overload",
    "papers": "tools.bench.papers",
    "partial": "tools.bench.partial",
    "partial-live": "tools.bench.partial_live",
    "pictures": "tools.bench.pictures",
    "pipeline": "tools.bench.pipeline",
    "planners-fleet": "tools.bench.fleet",
    "planners-loading": "tools.bench.planners_loading",
    "policies": "tools.bench.policies",
    "qos": "tools.bench.qos",
    "scheduler": "tools.bench.scheduler",
    "sizes": "tools.bench.sizes",
    "start": "tools.bench.start",
    "table2": "tools.bench.table2",
    "throughput": "tools.bench.throughput",
    "versus": "tools.bench.versus",
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.bench", description="Run one benchmark.")
    commands = parser.add_subparsers(title="benchmarks", metavar="NAME", required=True)
    for name in BENCHES.keys() & set(argv[:1]) or BENCHES:
        importlib.import_module(BENCHES[name]).register(commands)
    return run_command(parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
