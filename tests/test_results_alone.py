"""What the commands print, as a program that starts them reads it."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import argparse, ctypes, os, sys
from edged.cli.console import run_command

def talk(args):
    ctypes.CDLL(None).puts(b"a solver greets")
    os.write(1, b"a library warns\\n")
    print("{}" * args.times)
    return 3

parser = argparse.ArgumentParser()
parser.add_argument("times", type=int)
parser.set_defaults(run=talk)
status = run_command(parser)
print("after", flush=True)
sys.exit(status)
"""


def test_native_chatter_does_not_get_into_a_commands_output() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "1"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "{}\nafter\n")
    assert sorted(done.stderr.splitlines()) == ["a library warns", "a solver greets"]


def test_a_reader_that_has_gone_ends_a_command_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = PROGRAM.replace("a solver greets", "").replace('print("after", flush=True)', "")
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, "100000"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr.split()) == (141, ["a", "library", "warns"])
