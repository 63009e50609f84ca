"""How much the front may hold of what clients send, and of answers that they do not read. Pure.

A small part of the budget is always reserved for this (the ledger counts it as fixed). The rest is
what blocks and activations leave free, in equal parts for four things: payloads that wait, payloads
that the device has, incomplete messages inside ZeroMQ, and answers that nobody has read yet.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from edged.config import Config
from edged.core.residency.ledger import Account

_PARTS = 4  # the four things


def kept_bytes(config: Config, budget_bytes: int) -> int:
    """The part of the budget that is reserved for payloads and messages."""
    return min(config.limits.max_message_bytes // 4, budget_bytes // 16)


class BufferLimits(NamedTuple):
    """The most bytes that the front may hold."""

    payload_bytes: int  # payloads of requests that wait; as many again of those on the device
    hidden_bytes: int  # messages inside ZeroMQ that are not complete
    unread_bytes: int  # answers that clients have not read, all together

    @classmethod
    def of(cls, config: Config, account: Account | None, held_bytes: int = 0) -> BufferLimits:
        """`held_bytes`: the payloads that are part of the account."""
        queue_bytes = config.scheduler.queue_bytes
        message_bytes = config.limits.max_message_bytes
        if account is None or math.isinf(account.budget):
            return cls(queue_bytes, 2 * message_bytes, 2 * message_bytes)
        least = kept_bytes(config, int(account.budget))
        free = account.budget - account.total + min(held_bytes, account.unexplained)
        part = max(least, int(free) // _PARTS)
        return cls(
            min(queue_bytes, part),
            min(2 * message_bytes, max(part, 2 * least)),
            min(2 * message_bytes, part),
        )
