"""The ledger: who holds how many bytes of the budget.

Bytes are counted before they are taken: a block is reserved before it is read, and workspace is
that of the largest batch that is allowed, whether or not one runs. What is measured above all
that is counted as unexplained. Knows no models and evicts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from edged.core.events import Overhead


class Account(msgspec.Struct, frozen=True):
    """The ledger as a value, in bytes. The entries add up to `total`."""

    budget: float  # infinite before one was told
    total: int
    fixed: int
    staging: int
    workspace: int
    blocks: int
    unexplained: int


class Ledger:
    """Owns the account. Its sum is above the budget only after the budget, or what is measured of
    the rest, has changed, and until enough blocks are released."""

    def __init__(self, max_batch_rows: int, shared_bytes: Callable[[], int] = lambda: 0) -> None:
        """`shared_bytes`: what blocks that are held or reserved have in common, which counts for
        each of them and is taken once."""
        self.budget_bytes = math.inf
        self.ceiling_bytes = math.inf  # of the budget, when nobody else takes memory
        self.batch_rows = max_batch_rows  # of the largest batch that workspace is counted for
        self.most_batch_rows = max_batch_rows  # of the largest one under the ceiling
        self.overhead = Overhead()
        self.blocks: dict[str, int] = {}  # bytes of each one that is held or reserved, as if alone
        self._alone_bytes = 0  # their sum
        self._shared_bytes = shared_bytes
        self._max_batch_rows = max_batch_rows
        self._excess_bytes = 0  # measured above fixed, staging and blocks; workspace is part of it

    @property
    def blocks_bytes(self) -> int:
        """What all these blocks hold together."""
        return self._alone_bytes - self._shared_bytes()

    @property
    def total_bytes(self) -> int:
        return self._besides_bytes(self.batch_rows, self._excess_bytes) + self.blocks_bytes

    @property
    def capacity_bytes(self) -> float:
        """What blocks may hold together."""
        return self.budget_bytes - self._besides_bytes(self.batch_rows, self._excess_bytes)

    @property
    def most_capacity_bytes(self) -> float:
        """What blocks may hold together at the ceiling, beside a batch of one row."""
        return self.ceiling_bytes - self._besides_bytes(1, 0)

    @property
    def room_bytes(self) -> float:
        """What may still be reserved; negative while the sum is above the budget."""
        return self.budget_bytes - self.total_bytes

    def account(self) -> Account:
        workspace_bytes = self.overhead.row_bytes * self.batch_rows
        return Account(
            budget=self.budget_bytes,
            total=self.total_bytes,
            fixed=self.overhead.fixed_bytes,
            staging=self.overhead.staging_bytes,
            workspace=workspace_bytes,
            blocks=self.blocks_bytes,
            unexplained=max(0, self._excess_bytes - workspace_bytes),
        )

    def reserve(self, block: str, size_bytes: int) -> None:
        """Set bytes aside for a block that will be read next."""
        if block in self.blocks:
            raise ValueError(f"block {block} has its bytes already: this is a bug")
        if size_bytes > self.room_bytes:
            raise ValueError(f"block {block} is over the budget: this is a bug")
        self.hold(block, size_bytes)

    def hold(self, block: str, size_bytes: int) -> None:
        """Count a block with the bytes that it was measured to hold, reserved before or not."""
        self._alone_bytes += size_bytes - self.blocks.get(block, 0)
        self.blocks[block] = size_bytes

    def release(self, block: str) -> None:
        """The block holds nothing any more."""
        self._alone_bytes -= self.blocks.pop(block)

    def release_all(self) -> None:
        self.blocks.clear()
        self._alone_bytes = 0

    def measured(self, used_bytes: int) -> None:
        """What all processes hold together: the sum is not below it until blocks are released."""
        overhead = self.overhead
        counted_bytes = overhead.fixed_bytes + overhead.staging_bytes + self.blocks_bytes
        self._excess_bytes = used_bytes - counted_bytes

    def fit_batch(self, blocks_bytes: Callable[[float], int]) -> None:
        """Allow batches of as many rows as leave room for the blocks: `blocks_bytes` says what they
        take of the capacity that a batch of one row leaves."""
        budget_bytes, excess_bytes = self.budget_bytes, self._excess_bytes
        self.batch_rows = self._fitting_rows(budget_bytes, excess_bytes, blocks_bytes)
        self.most_batch_rows = self._fitting_rows(self.ceiling_bytes, 0, blocks_bytes)

    def _fitting_rows(
        self, budget_bytes: float, excess_bytes: int, blocks_bytes: Callable[[float], int]
    ) -> int:
        row_bytes = self.overhead.row_bytes
        if not row_bytes or math.isinf(budget_bytes):
            return self._max_batch_rows
        capacity_bytes = budget_bytes - self._besides_bytes(1, excess_bytes)
        spare_bytes = capacity_bytes - blocks_bytes(capacity_bytes)
        rows = (max(row_bytes, excess_bytes) + spare_bytes) // row_bytes
        return int(max(1, min(self._max_batch_rows, rows)))

    def _besides_bytes(self, rows: int, excess_bytes: int) -> int:
        """What all but blocks hold, with workspace for a batch of `rows` rows."""
        overhead = self.overhead
        measured_bytes = max(overhead.row_bytes * rows, excess_bytes)
        return overhead.fixed_bytes + overhead.staging_bytes + measured_bytes
