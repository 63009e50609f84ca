"""`python -m tools.gpucheck`: what edged does on the NVIDIA GPU of this machine, step by step.

Each step is a process with a time-out, and prints one JSON line; a step that fails or hangs costs
only itself. All together take at most ten minutes. The page says first what they cannot verify.
Needs the repository, torch and transformers; wheels of what else is missing can be brought along.

Exit status: 0 everything held, 1 something did not or could not be measured, 2 called wrongly,
3 there is no GPU. `--dry-run` goes through every step without one, on a model of no use.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.gpucheck.plan import STEPS, Step

CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = CHECKOUT / "docs" / "results"
NO_GPU = 3


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.gpucheck", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="without a GPU, on a tiny model")
    parser.add_argument(
        "--out", type=Path, help="folder of the page (docs/results; dry: a new one)"
    )
    parser.add_argument("--dir", type=Path, help="keep models and store here and use them again")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this run")
    parser.add_argument("--steps", nargs="+", choices=[s.name for s in STEPS], help="only these")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all steps")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rows", type=int, default=16, help="of the largest batch")
    parser.add_argument("--only", metavar="EXPR", help="of the suite, as pytest's -k")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if not args.dry_run and (missing := _why_no_gpu()):
        print(f"gpucheck: {missing}; nothing was checked", file=sys.stderr)
        return NO_GPU
    with tempfile.TemporaryDirectory(prefix="edged-gpucheck-") as temporary:
        folder = args.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if args.wheels is not None:
            _install(args.wheels, folder / "site")
        lines = _steps(args, folder)
    return _judge(args, lines)


def _steps(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """The line of each step."""
    setting = {
        "device": "cpu" if args.dry_run else "cuda",
        "model": "swinv2-micro" if args.dry_run else "swinv2-base",
        "tasks": 3,
        "rows": args.rows,
        "seconds": args.seconds,
        "seed": args.seed,
        "work": str(folder),
        "only": args.only,
    }
    end_s = time.monotonic() + 60 * args.minutes
    lines = {}
    for step in STEPS:
        if args.steps and step.name not in args.steps:
            continue
        lines[step.name] = line = _step(step, setting, end_s - time.monotonic())
        print(json.dumps(line), flush=True)
    return lines


def _step(step: Step, setting: dict[str, Any], left_s: float) -> dict[str, Any]:
    """Run a step in a process of its own, which ends with all that it has started."""
    began_s = time.monotonic()
    command = [sys.executable, "-m", "tools.gpucheck.steps", step.name]
    line: dict[str, Any] = {"step": step.name}
    with subprocess.Popen(
        command,
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            limit_s = max(0.0, min(step.limit_s, left_s))
            printed, _ = process.communicate(json.dumps(setting), timeout=limit_s)
        except subprocess.TimeoutExpired:
            line["error"] = f"not done in {limit_s:.0f} s"
        else:
            line |= _last_line(printed, process.returncode)
        finally:
            _end_group(process.pid)
    line["seconds"] = round(time.monotonic() - began_s, 1)
    return line


def _last_line(printed: str, status: int) -> dict[str, Any]:
    try:
        found = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"ended with status {status} and without figures"}
    return {"found": found} if status == 0 else {"error": str(found)}


def _end_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _judge(args: argparse.Namespace, lines: dict[str, dict[str, Any]]) -> int:
    """Write the page, and say which figures reached their aims."""
    from tools.gpucheck.findings import Findings, all_held, checks  # needs what --wheels brings
    from tools.gpucheck.page import file_name, page

    command = "python -m tools.gpucheck " + " ".join(sys.argv[1:])
    findings = Findings.of(lines, command=command.strip(), dry_run=args.dry_run)
    out = args.out or (Path(tempfile.mkdtemp(prefix="gpucheck-")) if args.dry_run else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    path = out / file_name(findings)
    path.write_text(page(findings))
    for check in checks(findings):
        print(f"{check.said} (at least {check.least:g}) {check.what}")
    print(f"{findings.label}: {path}")
    return 0 if args.dry_run or all_held(findings) else 1


def _install(wheels: Path, folder: Path) -> None:
    """Install what is in `wheels` into a folder that this run alone looks at."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    found = sorted(map(str, wheels.glob("*.whl")))
    subprocess.run([*command, "--target", str(folder), *found], check=True, stdout=sys.stderr)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{before}" if before else str(folder)


def _why_no_gpu() -> str:
    """The reason why there is no GPU; empty if torch finds an NVIDIA GPU."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    return "" if torch.cuda.is_available() else "torch finds no NVIDIA GPU"


if __name__ == "__main__":
    sys.exit(main())
