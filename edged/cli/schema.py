"""`edged schema`: the JSON schema of a configuration, for editors that complete and check keys."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from edged.cli.console import print_json
from edged.config import Config


def register(commands: Any) -> None:
    parser = commands.add_parser("schema", help="print the JSON schema of a configuration")
    parser.set_defaults(run=_schema)


def _schema(args: argparse.Namespace) -> int:
    print_json(msgspec.json.schema(Config))
    return 0
