"""`edged profile`: the times and memory of each block on this device, as the daemon runs it."""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edged.cli.console import print_json, say, show_bytes, table
from edged.cli.serve import DEFAULT_CONFIG
from edged.errors import ConfigError, EdgedError, InvalidArgument, from_code
from edged.manifest import Manifest
from edged.profiles.form import SCHEMA, BlockProfile, DeviceProfile, affine, encode

if TYPE_CHECKING:
    from edged.device.measuring import Measured, Order
    from edged.profiles.modules import ModuleProfile

_START_S = 300.0  # time to start, prepare and load, apart from the timing


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "profile",
        help="measure the blocks of a store on this device",
        description="Measure the blocks that a configuration would serve, on this device, with "
        "the backend, threads and lanes that it names. Stop the daemon first.",
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE")
    parser.add_argument(
        "--model", action="append", metavar="NAME", help="only this model's blocks; repeatable"
    )
    parser.add_argument(
        "--rows", type=_rows, metavar="N,..", help="of the runs; without it 1, 2, 4 .. the largest"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing for each block")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the profile here")
    parser.add_argument(
        "--show",
        metavar="PROFILE",
        help="measure nothing, show this one: a file.json, smooth-table2, or a module of a Jetson "
        "as orin-nano-8gb",
    )
    parser.add_argument("--json", action="store_true", help="the profile itself on standard output")
    parser.set_defaults(run=_run)


def _rows(text: str) -> tuple[int, ...]:
    try:
        rows = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        rows = (0,)
    if rows[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, as 1,2,4,8")
    return rows


def _run(args: argparse.Namespace) -> int:
    from edged import profiles
    from edged.profiles import modules

    if args.show is not None:
        if (module := modules.shipped().get(args.show)) is not None:
            return _show_module(module, as_json=args.json)
        profile = profiles.read(args.show)
    else:
        if args.out is not None and args.out.suffix != ".json":
            raise InvalidArgument(f"--out {args.out}: name a file that ends in .json")
        profile = _measure(args)
        if args.out is not None:
            profiles.write(args.out, profile)
    if args.json:
        print_json(msgspec.json.decode(encode(profile)))
    else:
        say(shown(profile))
    return 0


def _show_module(module: ModuleProfile, *, as_json: bool) -> int:
    if as_json:
        print_json(msgspec.to_builtins(module))
        return 0
    rows = [
        [name.replace("_", " "), f"{figure.value:,}", figure.source, figure.ref]
        for name, figure in module.known().items()
    ]
    say(f"{module.name}: {module.chip}, compute capability {module.compute_capability}, "
        f"{' or '.join(module.parts)}")  # fmt: skip
    say(table(["figure", "value", "source", "from"], rows))
    return 0


def _measure(args: argparse.Namespace) -> DeviceProfile:
    from edged import config as configuration
    from edged import profiles
    from edged.daemon.preflight import chosen, worker_settings
    from edged.device.measuring import Order
    from edged.store import Store

    config, _ = chosen(configuration.read(args.config))
    store = Store(config.store)
    manifests = store.models(args.model or config.models)
    settings = worker_settings(config, tuple(manifests))
    rows = args.rows or _doubled(settings.max_batch_rows)
    alone = blocks_alone(manifests)
    found: dict[str, Measured] = {}
    with store.hold(alone):
        for number, (block, manifest) in enumerate(alone.items(), start=1):
            say(f"block {number} of {len(alone)}: {block[:12]}", error=True)
            found[block] = measure_apart(Order(settings, manifest, rows, args.seconds))
    device = next(iter(found.values()))
    if device.emulated:
        raise ConfigError(
            f"backend {device.backend} computes nothing, so its times say nothing of this device: "
            "name another one in device.backend"
        )
    return DeviceProfile(
        schema=SCHEMA,
        source=f"edged profile, {args.seconds:g} s for each block",
        device=device.device,
        blocks={block: one.block for block, one in found.items()},
        backend=device.backend,
        machine=profiles.machine(),
        lanes=device.lanes,
        versions=device.versions,
        date=datetime.date.today().isoformat(),
    )


def blocks_alone(manifests: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Each block, as a model of its own."""
    return {
        step.block: msgspec.structs.replace(
            manifest,
            name=step.block,
            task=step.block,
            inputs=tuple(dict.fromkeys(step.reads)),
            outputs=step.writes,
            steps=(msgspec.structs.replace(step, layers=()),),
            preprocess=None,
            labels=(),
            accuracy=None,
            head_of=None,
        )
        for manifest in manifests.values()
        for step in manifest.steps
    }


def measure_apart(order: Order) -> Measured:
    """Measure one block in a process of its own. Raises that process's error, or EdgedError."""
    from edged.children import command
    from edged.device.measuring import Failed, Measured
    from edged.device.process import environment

    try:
        done = subprocess.run(
            command("edged.device.measuring"),
            input=msgspec.json.encode(order),
            stdout=subprocess.PIPE,
            env={**os.environ, **environment(order.settings)},
            timeout=_START_S + 10 * order.seconds,
        )
        found = msgspec.json.decode(done.stdout, type=Measured | Failed)
    except (subprocess.TimeoutExpired, msgspec.DecodeError) as error:
        raise EdgedError(
            f"block {order.manifest.name[:12]} could not be measured: its process "
            f"{'took too long' if isinstance(error, subprocess.TimeoutExpired) else 'died'}"
        ) from error
    if isinstance(found, Failed):
        raise from_code(found.code, found.message)
    return found


def _doubled(most: int) -> tuple[int, ...]:
    """The numbers 1, 2, 4, .. below `most`, and `most`."""
    rows = []
    count = 1
    while count < most:
        rows.append(count)
        count *= 2
    return (*rows, most)


def shown(profile: DeviceProfile) -> str:
    """A profile for people: one line for each block, times in ms."""
    facts = [profile.device, profile.machine, f"{profile.lanes} lanes", profile.date]
    versions = ", ".join(f"{name} {version}" for name, version in profile.versions.items())
    head = [", ".join(fact for fact in facts if fact), profile.source, versions]
    rows = max((block.rows for block in profile.blocks.values()), key=len)
    headers = ["block", *(f"{n} rows" for n in rows), "spread", "fixed + each row", "all lanes"]
    headers += ["weights", "workspace", "load cold", "warm"]
    lines = [_line(name, block, rows) for name, block in profile.blocks.items()]
    return "\n".join([*filter(None, head), "times in ms", table(headers, lines)])


def _line(name: str, block: BlockProfile, rows: tuple[int, ...]) -> list[str]:
    times = dict(zip(block.rows, block.time_s, strict=True))
    fixed_s, each_s = affine(block)
    spread = ""
    if block.spread_s is not None:
        worst = max(s / t for s, t in zip(block.spread_s, block.time_s, strict=True))
        spread = f"{worst:.0%}"
    workspace = block.workspace_bytes[-1] if block.workspace_bytes else None
    return [
        name[:12],
        *(_ms(times.get(n)) for n in rows),
        spread,
        f"{_ms(fixed_s)} + {_ms(each_s)}",
        _ms(block.wide_s),
        "" if block.weight_bytes is None else show_bytes(block.weight_bytes),
        "" if workspace is None else show_bytes(workspace),
        _ms(block.load_cold_s),
        _ms(block.load_warm_s),
    ]


def _ms(time_s: float | None) -> str:
    return "" if time_s is None else f"{time_s * 1e3:.3g}"
