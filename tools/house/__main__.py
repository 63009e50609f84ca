"""`python -m tools.house [--pretty]`: the figures of the house, and where each comes from.

`tests/test_house.py` holds them below limits. A figure counts what lies in `edged` and `export`,
but for the Markdown pages, which lie anywhere.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from typing import Any

from tools.house import comments, passes, source


def measure() -> dict[str, Any]:
    """The figures by name, and under `where` the places that they count."""
    files = source.python_files("edged", "export")
    core = source.python_files("edged/core")
    scheduler, front = passes.through_the_scheduler(), passes.through_the_front()
    said = comments.in_files(files)
    decoded = [comment for comment in said if comments.begins_with_preposition(comment)]
    where: dict[str, Any] = {
        "long_files": source.long_files(files),
        "long_functions": source.long_functions(files),
        "doubled_names": source.doubled_names(files),
        "import_circles": source.import_circles(source.modules(files)),
        "long_markdown_lines": source.long_markdown_lines(),
        "scheduler": _by_file(scheduler),
        "front": _by_file(front),
    }
    return {
        "scheduler_functions": len(scheduler),
        "scheduler_files": len(where["scheduler"]),
        "front_functions": len(front),
        "front_files": len(where["front"]),
        "core_lines": sum(map(source.lines, core)),
        "core_files": len(core),
        "long_files": len(where["long_files"]),
        "long_functions": len(where["long_functions"]),
        "doubled_names": len(where["doubled_names"]),
        "import_circles": len(where["import_circles"]),
        "comments": len(said),
        "comments_with_preposition": len(decoded),
        "preposition_percent": round(100 * len(decoded) / len(said), 1),
        "long_markdown_lines": sum(where["long_markdown_lines"].values()),
        "where": where,
    }


def _by_file(passed: passes.Passed) -> dict[str, list[str]]:
    """The names of the functions of each file, in the order of their lines."""
    found = defaultdict(list)
    for file, line, name in sorted((file, line, name) for file, name, line in passed):
        found[file].append(f"{line} {name}")
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.house", description="The figures of the house.")
    parser.add_argument("--pretty", action="store_true", help="JSON in many lines, to be read")
    print(json.dumps(measure(), indent=2 if parser.parse_args().pretty else None))


if __name__ == "__main__":
    main()
