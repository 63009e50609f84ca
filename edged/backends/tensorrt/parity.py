"""The parity gate: whether a typed graph computes what the block itself does.

Both run in ONNX Runtime on the CPU, on rows of noise, the typed one as rounding.py writes it: each
value is rounded as TensorRT stores it, but sums are added up in FP32. What the gate finds wrong is
wrong, what it lets pass may still drift on a device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edged.backends.memory import NUMPY, Array
from edged.backends.tensorrt.orders import EnginePort, Parity
from edged.backends.tensorrt.rounding import rounded
from edged.errors import EdgedError

ROWS, MORE_ROWS = 32, 256  # the second where the best classes differ: 1 % of 32 rows is none
_AT_ONCE = 8  # rows of one run

COSINE = 0.999
DIFFERENCE = 0.02  # share of the output's range
SAME_TOP1 = 0.99
CLEAR = 0.01  # share of the range; what leads by less is no best class

Rows = npt.NDArray[np.float64]


def judge(block: ModelProto, typed: ModelProto, inputs: Sequence[EnginePort]) -> tuple[Parity, str]:
    """How far apart they are, and what is wrong about that; empty if it is good enough.

    Raises EdgedError if one of them does not run.
    """
    began_s = time.monotonic()
    sessions = _session(block), _session(rounded(typed))
    fixed = inputs[0].shape[0]
    at_once = _AT_ONCE if fixed is None else int(fixed)
    wanted, found = _outputs(sessions, inputs, ROWS, at_once)
    parity = compare(wanted, found)
    if parity.same_top1 < SAME_TOP1 and parity.difference is not None:
        parity = compare(*_outputs(sessions, inputs, MORE_ROWS, at_once))
    took_s = round(time.monotonic() - began_s, 3)
    return msgspec.structs.replace(parity, seconds=took_s), verdict(parity)


def compare(wanted: Sequence[Array], found: Sequence[Array]) -> Parity:
    """Of outputs (rows, ..) as the block itself gives them, and as they were found."""
    cosine, difference, same = 1.0, 0.0, 1.0
    for one, other in zip(wanted, found, strict=True):
        a, b = one.astype(np.float64), other.astype(np.float64)
        if not np.isfinite(b).all():
            return Parity(len(a), 0.0, None, 0.0)
        cosine = min(cosine, _cosine(a, b))
        difference = max(difference, float(np.abs(a - b).max()) / (float(np.ptp(a)) or 1.0))
        if a.ndim == 2 and a.shape[1] > 1:
            lead = a.max(axis=1) - np.take_along_axis(a, b.argmax(axis=1)[:, None], 1)[:, 0]
            same = min(same, float(np.mean(lead <= CLEAR * np.ptp(a))))
    return Parity(len(wanted[0]), cosine, difference, same)


def verdict(parity: Parity) -> str:
    """What is wrong, in a few words; empty if nothing is."""
    if parity.difference is None:
        return "values overflow"
    if parity.cosine < COSINE:
        return f"cosine {parity.cosine:.4f}"
    if parity.difference > DIFFERENCE:
        return f"off by {parity.difference:.1%} of the range"
    if parity.same_top1 < SAME_TOP1:
        return f"another best class in {1 - parity.same_top1:.1%} of the rows"
    return ""


def _cosine(a: Rows, b: Rows) -> float:
    """The least cosine of two rows."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = np.einsum("ij,ij->i", a, b)
    both_zero = (norms == 0) & (np.abs(a - b).max(axis=1) < 1e-6)
    return float(np.where(both_zero, 1.0, products / np.where(norms == 0, 1.0, norms)).min())


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
