"""Which models share blocks, whether the case is bottom-layer sharing, and its best loading order.

Both are read off the blocks, not off the annotations `cluster` and `l`, so a wrong annotation
cannot make a wrong plan. A case is bottom-layer sharing (Definition 2) if the shared parts of each
cluster are nested: of any two models, the shared part of one contains that of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.planner.loading.problem import LoadingProblem
from edged.planner.loading.tables import Ints, LoadingTables


@dataclass(frozen=True, slots=True)
class BlockSharing:
    """Which of the requested models share blocks with which."""

    clusters: list[list[int]]  # models that share, directly or through others, in loading order
    crossing: tuple[int, int] | None  # two models of a cluster whose shared parts are not nested

    @property
    def nested(self) -> bool:
        """Whether this is bottom-layer sharing, where `order` is an optimal loading order."""
        return self.crossing is None

    @property
    def order(self) -> list[int]:
        """All models, cluster after cluster."""
        return [i for cluster in self.clusters for i in cluster]


def sharing(problem: LoadingProblem, tables: LoadingTables) -> BlockSharing:
    """The clusters of the instance, and whether they are nested.

    Models with blocks of their own come first, by ascending shared part (Corollary 1). Models that
    consist of shared blocks alone, which the paper does not have, follow in descending order: each
    is then contained in what is loaded already. Ascending order would load every one of them, which
    costs more if a load has a fixed cost. Ties are broken by the annotated `l`, then by index: they
    only matter to methods that round each visit up to slots.
    """
    asked = np.array(tables.asked, dtype=np.int64)
    holds = tables.holds[asked]
    parts = holds[:, holds.sum(axis=0) > 1].astype(np.int64)
    common = np.einsum("ib,jb->ij", parts, parts)  # blocks that two models share
    size = common.diagonal()
    related = (common > 0) | np.eye(len(asked), dtype=np.bool_)
    head = _components(related)
    together = head[:, None] == head[None, :]
    crossing = asked[np.argwhere((common < np.minimum.outer(size, size)) & together)].tolist()
    own = holds.sum(axis=1) > size
    annotated = np.array([problem.models[i].shared or 0 for i in tables.asked], dtype=np.int64)
    order = np.lexsort((annotated, np.where(own, size, -size), ~own, head))
    clusters = [asked[order[head[order] == i]].tolist() for i in np.unique(head)]
    return BlockSharing(clusters, crossing=tuple(crossing[0]) if crossing else None)


def declared_clusters(problem: LoadingProblem, tables: LoadingTables) -> list[list[int]]:
    """The clusters as the instance annotates them, by ascending `l`; others are single models.

    Only the literal Algorithm 2 uses these: the result of its test (19) depends on which models are
    said to be in one cluster, even if they share nothing.
    """
    clusters: dict[tuple[str, int], list[int]] = {}
    for i in tables.asked:
        cluster = problem.models[i].cluster
        clusters.setdefault(("model", i) if cluster is None else ("cluster", cluster), []).append(i)
    return [sorted(ids, key=lambda i: problem.models[i].shared or 0) for ids in clusters.values()]


def _components(related: npt.NDArray[np.bool_]) -> Ints:
    """The first row that each row is related to, directly or through others."""
    head = np.arange(len(related))
    for _ in range(len(related)):
        nearer = np.where(related, head, len(related)).min(axis=1, initial=len(related))
        if (nearer == head).all():
            break
        head = nearer
    return head
