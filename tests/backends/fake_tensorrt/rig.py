"""Backend tensorrt on the fake, in this process: no child builds, and builds are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edged.backends.base import Progress
from edged.backends.tensorrt.backend import TensorRt
from edged.backends.tensorrt.build import outcome
from edged.backends.tensorrt.orders import BuildOrder, Built, NotBuilt
from edged.cuda.emulated import EmulatedCuda
from edged.options import TensorRtOptions
from tests.backends.fake_tensorrt import VERSIONS, tensorrt

SITE = Path(__file__).parent / "site"  # in PYTHONPATH, it makes the fake what processes import


class Rig:
    """One backend, and the orders that were given to its builder."""

    def __init__(self, folder: Path, version: str = VERSIONS[-1], **options: Any) -> None:
        self.orders: list[BuildOrder] = []
        self.cuda = EmulatedCuda(memory_bytes=32 << 20)
        self.backend = TensorRt(
            TensorRtOptions(**{"arena_bytes": 4 << 20, **options}),
            trt=tensorrt(version, self.cuda),
            cuda=self.cuda,
            cache_dir=folder,
            run_build=self._build,
        )

    def _build(self, order: BuildOrder, progress: Progress) -> Built | NotBuilt:
        self.orders.append(order)
        return outcome(order, progress)

    @property
    def engines(self) -> int:
        """How many engines were built; the weights of heads are none."""
        built = [order for order in self.orders if not isinstance(order.what, str)]
        blocks = [order for order in self.orders if isinstance(order.what, str)]
        heads = [o for o in blocks if self._about_head(o)]
        return len(built) + len(blocks) - len(heads)

    def _about_head(self, order: BuildOrder) -> bool:
        about = self.backend._about(Path(str(order.what)).stem)
        return about is not None and about.head is not None
