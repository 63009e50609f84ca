"""The most promising choice near a given one, judged by cuts alone. Knows no LP and no tables.

Every pricing bounds every choice: the value of a choice is at most its Lagrangian at those prices.
The least of these bounds over all pricings so far estimates a choice well, because few prices are
shared. The search changes one client's row at a time, or one edge's row with its clients' rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edged.planner.fleet.oracle import Worth
from edged.planner.fleet.problem import Array, Ints

MOVES_MAX = 12  # the most changes between the given choice and the one proposed
_TINY = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """One row for each node: `client` (C,) and `edge` (E,) index the tables."""

    client: Ints
    edge: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """I pricings of the same tables, stacked."""

    client: Array  # (I, C, R, J)
    edge: Array  # (I, E, J)
    constant: Array  # (I,)

    @classmethod
    def of(cls, pricings: Sequence[Worth]) -> Cuts:
        return cls(
            np.stack([p.client for p in pricings]),
            np.stack([p.edge for p in pricings]),
            np.array([p.constant for p in pricings]),
        )


def best_neighbour(
    cuts: Cuts, edge_of: Ints, start: Choice, objective: float, tried: Callable[[Choice], bool]
) -> Choice | None:
    """The untried choice at most MOVES_MAX away whose bound under all cuts is highest.

    The bound must be above `objective`. None when no path on which the bound rises leads to one.
    """
    choice, found, height = start, None, objective + _TINY
    for _ in range(MOVES_MAX):
        now = _bounds(cuts, edge_of, choice)
        choice, bound = _best_step(cuts, edge_of, choice, now)
        if bound <= now.min() + _TINY and (found or bound <= height):
            break
        if bound > height and not tried(choice):
            found, height = choice, bound
    return found


def _bounds(cuts: Cuts, edge_of: Ints, choice: Choice) -> Array:
    """The bound that each cut sets for a choice, (I,)."""
    clients = cuts.client[:, np.arange(len(choice.client)), choice.client, choice.edge[edge_of]]
    edges = cuts.edge[:, np.arange(len(choice.edge)), choice.edge]
    total: Array = cuts.constant + clients.sum(axis=1) + edges.sum(axis=1)
    return total


def _best_step(cuts: Cuts, edge_of: Ints, at: Choice, now: Array) -> tuple[Choice, float]:
    """The single change that leaves the highest bound, and that bound."""
    every_client, every_edge = np.arange(len(at.client)), np.arange(len(at.edge))
    own = cuts.client[:, every_client, at.client, at.edge[edge_of]]  # (I, C)
    rows = cuts.client[:, every_client, :, at.edge[edge_of]].swapaxes(0, 1)  # (I, C, R)
    of_client = (now[:, None, None] + rows - own[:, :, None]).min(axis=0)
    of_client[every_client, at.client] = -np.inf
    # An edge changes its row together with its clients' best rows at the latest prices.
    answers = cuts.client[-1].argmax(axis=1)  # (C, J)
    columns = np.arange(answers.shape[1])
    change = np.zeros((len(now), len(every_edge), len(columns)))
    moved = cuts.client[:, every_client[:, None], answers, columns] - own[:, :, None]
    np.add.at(change.swapaxes(0, 1), edge_of, moved.swapaxes(0, 1))
    change += cuts.edge - cuts.edge[:, every_edge, at.edge][:, :, None]
    of_edge = (now[:, None, None] + change).min(axis=0)
    of_edge[every_edge, at.edge] = -np.inf
    if of_client.max() >= of_edge.max():
        client, row = np.unravel_index(of_client.argmax(), of_client.shape)
        return Choice(_replaced(at.client, client, row), at.edge), float(of_client.max())
    edge, row = np.unravel_index(of_edge.argmax(), of_edge.shape)
    clients = np.where(edge_of == edge, answers[:, row], at.client)
    return Choice(clients, _replaced(at.edge, edge, row)), float(of_edge.max())


def _replaced(rows: Ints, node: np.intp, row: np.intp) -> Ints:
    changed: Ints = rows.copy()
    changed[node] = row
    return changed
