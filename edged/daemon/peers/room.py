"""How much the front may hold of what clients send and do not take. Pure.

A small part of the budget is kept for it always (it counts as fixed in the ledger); beyond that it
takes what blocks and workspace leave free, in equal parts for payloads that wait, payloads that the
device has, what hides in ZeroMQ, and answers that nobody has read yet.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from edged.config import Config
from edged.core.residency.ledger import Account

_PARTS = 4


def kept_bytes(config: Config, budget_bytes: int) -> int:
    """Of the budget, for payloads and messages whatever else there is."""
    return min(config.limits.max_message_bytes // 4, budget_bytes // 16)


class BufferLimits(NamedTuple):
    """Bytes, at most."""

    payload_bytes: int  # of requests that wait; as many of those that are being served
    hidden_bytes: int  # of messages that have not ended
    unread_bytes: int  # of answers, of all clients

    @classmethod
    def of(cls, config: Config, account: Account | None, held_bytes: int = 0) -> BufferLimits:
        """`held_bytes`: payloads that were there when the account was made, and are in it."""
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
