"""When outputs are close enough to those that they should be. Knows arrays alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edged.backends.memory import Array
from edged.backends.tensorrt.orders import Parity

COSINE = 0.999
DIFFERENCE = 0.02  # share of the output's range
SAME_TOP1 = 0.99
CLEAR = 0.01  # share of the range; what leads by less is no best class

Rows = npt.NDArray[np.float64]


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
