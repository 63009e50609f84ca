"""The parity gate: whether a typed graph computes what the block itself does.

Both run in ONNX Runtime on the CPU, on rows of noise, the typed one as rounding.py writes it: each
value is rounded as TensorRT stores it, but sums are added up in FP32. What the gate finds wrong is
wrong, what it lets pass may still drift on a device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from onnx import ModelProto

from edged.backends.memory import NUMPY, Array
from edged.backends.tensorrt.closeness import SAME_TOP1, compare, verdict
from edged.backends.tensorrt.orders import EnginePort, Parity
from edged.backends.tensorrt.rounding import rounded
from edged.errors import EdgedError

ROWS, MORE_ROWS = 32, 256  # the second where the best classes differ: 1 % of 32 rows is none
_AT_ONCE = 8  # rows of one run


class Judgement(NamedTuple):
    """What the gate found. `rows`: some inputs and the block's own outputs, by their names."""

    parity: Parity
    wrong: str  # empty if it is good enough
    rows: dict[str, Array]


def judge(block: ModelProto, typed: ModelProto, inputs: Sequence[EnginePort]) -> Judgement:
    """How far apart they are. Raises EdgedError if one of them does not run."""
    began_s = time.monotonic()
    sessions = _session(block), _session(rounded(typed))
    fixed = inputs[0].shape[0]
    at_once = _AT_ONCE if fixed is None else int(fixed)
    wanted, found = _outputs(sessions, inputs, ROWS, at_once)
    parity = compare(wanted, found)
    if parity.same_top1 < SAME_TOP1 and parity.difference is not None:
        parity = compare(*_outputs(sessions, inputs, MORE_ROWS, at_once))
    took_s = round(time.monotonic() - began_s, 3)
    names = [output.name for output in block.graph.output]
    rows = next(_noise(inputs, at_once, at_once))
    rows |= {name: array[:at_once] for name, array in zip(names, wanted, strict=True)}
    return Judgement(msgspec.structs.replace(parity, seconds=took_s), verdict(parity), rows)


def _outputs(
    sessions: Sequence[Any], inputs: Sequence[EnginePort], rows: int, at_once: int
) -> list[list[Array]]:
    """The outputs of each session on the same noise."""
    parts: list[list[list[Array]]] = [[] for _ in sessions]
    for feeds in _noise(inputs, rows, at_once):
        for session, of in zip(sessions, parts, strict=True):
            try:
                of.append(session.run(None, feeds))
            except Exception as error:  # onnxruntime's exceptions have no common base
                raise EdgedError(f"it does not run on noise: {error}") from error
    return [[np.concatenate(of) for of in zip(*runs, strict=True)] for runs in parts]


def _noise(inputs: Sequence[EnginePort], rows: int, at_once: int) -> Iterator[dict[str, Array]]:
    """Rows of a normal distribution; of integers small ones, which are indices more often."""
    rng = np.random.default_rng(0)
    for _ in range(0, rows, at_once):
        feeds: dict[str, Array] = {}
        for port in inputs:
            shape = (at_once, *(extent or 1 for extent in port.shape[1:]))
            is_float = port.datatype in ("FP16", "FP32", "FP64")
            values: Array = rng.standard_normal(shape) if is_float else rng.integers(0, 2, shape)
            feeds[port.name] = values.astype(NUMPY[port.datatype])
        yield feeds


def _session(model: ModelProto) -> Any:
    import onnxruntime as ort  # half a second, which heads do without

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    data = model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
