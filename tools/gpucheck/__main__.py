"""`python -m tools.gpucheck`: what edged does on the NVIDIA GPU of this machine, on one page.

Exit status: 0 everything held, 1 something did not or could not be measured, 2 called wrongly,
3 there is no GPU. `--dry-run` goes through every line without one, on a model of no use.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from edged.cli.console import run_command
from edged.config import cores
from tools.bench.report import machine
from tools.gpucheck import measure
from tools.gpucheck.findings import Findings, all_held, checks
from tools.gpucheck.measure import CHECKOUT, Setting
from tools.gpucheck.page import page

NO_GPU = 3
RESULTS = CHECKOUT / "docs" / "results"
MEASURED, DRY_RUN = "measured", "dry run, cpu"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.gpucheck", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="without a GPU, on a tiny model")
    parser.add_argument(
        "--out", type=Path, help="folder of the page (docs/results; dry: a new one)"
    )
    parser.add_argument("--dir", type=Path, help="keep models and store here and use them again")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rows", type=int, default=16, help="of the largest batch")
    parser.add_argument("--only", metavar="EXPR", help="of the suite, as pytest's -k")
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=_run)
    return run_command(parser, argv)


def _run(args: argparse.Namespace) -> int:
    if not args.dry_run and (missing := _why_no_gpu()):
        print(f"gpucheck: {missing}; nothing was checked", file=sys.stderr)
        return NO_GPU
    with tempfile.TemporaryDirectory(prefix="edged-gpucheck-") as temporary:
        folder = args.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        setting = Setting(
            device="cpu" if args.dry_run else "cuda",
            model="swinv2-micro" if args.dry_run else "swinv2-base",
            tasks=3,
            sizes=_sizes(args.rows),
            threads=cores(),
            seconds=args.seconds,
            seed=args.seed,
            folder=folder,
        )
        findings = _findings(setting, args.only)
    out = args.out or (Path(tempfile.mkdtemp(prefix="gpucheck-")) if args.dry_run else RESULTS)
    path = out / f"gpu-{_slug(findings.device)}-{findings.date}.md"
    path.write_text(page(findings))
    for check in checks(findings):
        print(f"{check.found:.2f} (at least {check.least:g}) {check.what}")
    print(f"{findings.label}: {path}")
    return 0 if args.dry_run or all_held(findings) else 1


def _findings(setting: Setting, only: str | None) -> Findings:
    used = _gpu_bytes if setting.device == "cuda" else _pss_bytes
    before = used([])
    fixed = measure.nothing(setting, used)
    whole, whole_bytes = measure.whole(setting, used)
    serving = measure.served(setting, used)
    return Findings(
        label=MEASURED if setting.device == "cuda" else DRY_RUN,
        device=_device_name(setting.device),
        versions=_versions(),
        machine=machine(),
        date=datetime.date.today().isoformat(),
        command="python -m tools.gpucheck " + " ".join(sys.argv[1:]),
        seed=setting.seed,
        model=setting.model,
        side=serving.side,
        tasks=setting.tasks,
        rows=setting.rows,
        conformance=measure.conformance(setting.folder, only),
        whole=whole,
        cross_task=serving.cross_task,
        alone=serving.alone,
        lone_ms=serving.lone_ms,
        memory=measure.memory(fixed, whole_bytes, serving.used_bytes, before),
    )


# --- the device -------------------------------------------------------------------------------


def _why_no_gpu() -> str:
    """The reason why there is no GPU; empty if torch finds an NVIDIA GPU."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    return "" if torch.cuda.is_available() else "torch finds no NVIDIA GPU"


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "no GPU"


def _versions() -> dict[str, str]:
    import torch

    found = {"Python": platform.python_version(), "torch": str(torch.__version__)}
    return found if torch.version.cuda is None else {**found, "CUDA": torch.version.cuda}


def _gpu_bytes(pids: Sequence[int]) -> int:
    """All memory of the GPU in use, by any process: nobody else may use the GPU meanwhile."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free


def _pss_bytes(pids: Sequence[int]) -> int:
    return sum(psutil.Process(pid).memory_full_info().pss for pid in pids)


def _sizes(rows: int) -> tuple[int, ...]:
    """The batch sizes 1, 2, 4, .. and `rows`."""
    return (*(2**power for power in range(rows.bit_length()) if 2**power < rows), rows)


def _slug(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
