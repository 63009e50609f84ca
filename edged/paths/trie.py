"""Models as paths through blocks, merged into a trie, and plans for mixed batches. Pure.

Two steps of two models are one node of the trie when they run the same block on the same values:
a row that is asked for both models passes it once. Nodes of one block whose values come from
different blocks (a middle or a top that models share) run together, on the joined rows.

Knows nothing of memory, devices or time. `edged.paths.drafting` says where the rows lie. A layout
depends on how many rows ask for which models, not on which rows those are, so layouts are cached.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from edged.errors import StoreError
from edged.manifest import Manifest, PathStep
from edged.paths.drafting import Execution, LayoutDraft, Pass, Root, draft
from edged.paths.layout import Ask, Layout, Place, Tensor

# Sizes of the three caches. A draft has the asks as its key, a layout also their numbers of rows,
# a plan also the order in which the rows arrive.
_DRAFTS_MAX = 256
_LAYOUTS_MAX = 1024
_PLANS_MAX = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run a batch whose rows arrive in segments.

    `segments[i]` is the place of the i-th segment, and how many rows of that place come before it.
    `inputs[buffer]` lists what the buffer holds, in the order of its rows: the first row, the index
    of the input, and the segment.
    """

    layout: Layout
    segments: tuple[tuple[Place, int], ...]
    inputs: Mapping[int, Sequence[tuple[int, int, int]]]


@dataclass(frozen=True, slots=True)
class _Node:
    """One block on certain values, which have numbers."""

    block: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Path:
    nodes: frozenset[int]
    outputs: tuple[int, ...]  # value numbers


class Trie:
    """The models of a daemon. Only its caches change; one thread uses it."""

    def __init__(self, manifests: Mapping[str, Manifest]) -> None:
        """Raises StoreError if two models disagree on what a block writes."""
        self._tensors: list[Tensor] = []  # indexed by value number
        self._producers: list[int | None] = []  # the node that writes a value; None for an input
        self._nodes: list[_Node] = []
        self._node_of: dict[tuple[str, tuple[int, ...]], int] = {}
        self._root_of: dict[tuple[int, Tensor], int] = {}
        self._paths = {name: self._path(manifests[name]) for name in sorted(manifests)}
        self._models_through = [
            sum(node in path.nodes for path in self._paths.values())
            for node in range(len(self._nodes))
        ]
        self._draft = functools.lru_cache(_DRAFTS_MAX)(self._make_draft)
        self._layout = functools.lru_cache(_LAYOUTS_MAX)(self._make_layout)
        self._plan = functools.lru_cache(_PLANS_MAX)(self._make_plan)

    def plan(self, rows: Sequence[tuple[Ask, int]]) -> Plan:
        """How to run a batch. `rows` holds its segments: an ask, which is sorted, and its rows.

        Raises KeyError for a model that is not in the trie.
        """
        return self._plan(tuple(rows))

    def _make_plan(self, rows: tuple[tuple[Ask, int], ...]) -> Plan:
        counts: dict[Ask, int] = {}
        befores = []
        for ask, count in rows:
            before = counts.get(ask, 0)
            befores.append((ask, before))
            counts[ask] = before + count
        layout = self._layout(tuple(sorted(counts.items())))
        segments = tuple((layout.places[ask], before) for ask, before in befores)
        inputs: dict[int, list[tuple[int, int, int]]] = {}
        for segment, (place, before) in enumerate(segments):
            for index, view in place.inputs:
                inputs.setdefault(view.buffer, []).append((view.start + before, index, segment))
        return Plan(layout, segments, {buffer: sorted(parts) for buffer, parts in inputs.items()})

    def _make_layout(self, counts: tuple[tuple[Ask, int], ...]) -> Layout:
        asks, rows = zip(*counts, strict=True)
        return self._draft(asks).layout(rows)

    def _make_draft(self, asks: tuple[Ask, ...]) -> LayoutDraft:
        paths = [[self._paths[model] for model in ask] for ask in asks]
        passed = [frozenset[int]().union(*(path.nodes for path in ask)) for ask in paths]
        executions = [
            self._execution([(i, node) for i, held in enumerate(passed) for node in nodes & held])
            for nodes in self._together(frozenset[int]().union(*passed))
        ]
        outputs = [
            {model: path.outputs for model, path in zip(ask, of, strict=True)}
            for ask, of in zip(asks, paths, strict=True)
        ]
        return draft(asks, executions, self._roots(executions, outputs), outputs)

    # --- merging ------------------------------------------------------------------------------

    def _path(self, manifest: Manifest) -> _Path:
        tensors = {v.name: Tensor(v.datatype, v.shape) for v in manifest.values}
        known: dict[str, int] = {}
        for index, name in enumerate(manifest.inputs):
            root = (index, tensors[name])  # every model that a row is asked for reads the same data
            if root not in self._root_of:
                self._root_of[root] = self._new_value(tensors[name], None)
            known[name] = self._root_of[root]
        nodes = []
        for step in manifest.steps:
            node = self._node(step, tuple(known[name] for name in step.reads), tensors)
            if [self._tensors[v] for v in self._nodes[node].writes] != [
                tensors[name] for name in step.writes
            ]:
                raise StoreError(
                    f"model {manifest.name!r} and another one disagree on what block "
                    f"{step.block[:12]} writes; export both again"
                )
            known.update(zip(step.writes, self._nodes[node].writes, strict=True))
            nodes.append(node)
        return _Path(frozenset(nodes), tuple(known[name] for name in manifest.outputs))

    def _node(self, step: PathStep, reads: tuple[int, ...], tensors: Mapping[str, Tensor]) -> int:
        key = (step.block, reads)
        if key not in self._node_of:
            node = self._node_of[key] = len(self._nodes)
            writes = tuple(self._new_value(tensors[name], node) for name in step.writes)
            self._nodes.append(_Node(step.block, reads, writes))
        return self._node_of[key]

    def _new_value(self, tensor: Tensor, producer: int | None) -> int:
        self._tensors.append(tensor)
        self._producers.append(producer)
        return len(self._tensors) - 1

    # --- what runs together -------------------------------------------------------------------

    def _together(self, nodes: frozenset[int]) -> list[frozenset[int]]:
        """Groups of nodes that run together, in an order in which they can run.

        A block waits until all its nodes can run, so that it runs once. If blocks wait for each
        other in a ring, one of them runs in parts.
        """
        left = sorted(nodes)
        done: set[int | None] = {None}
        chosen: list[frozenset[int]] = []
        while left:
            waiting: dict[Hashable, list[int]] = {}
            ready: dict[Hashable, list[int]] = {}
            for node in left:
                # A block without weights may take tensors of several shapes, but not in one run.
                key = (self._nodes[node].block, self._read_tensors(node))
                waiting.setdefault(key, []).append(node)
                if all(self._producers[value] in done for value in self._nodes[node].reads):
                    ready.setdefault(key, []).append(node)
            complete = [group for key, group in ready.items() if group == waiting[key]]
            # The block that most models share runs first: any order of rows is still right there.
            best = max(
                complete or ready.values(),
                key=lambda group: (len(group) if not complete else 0, self._weight(group)),
            )
            chosen.append(frozenset(best))
            done.update(best)
            left = [node for node in left if node not in done]
        return chosen

    def _weight(self, nodes: Sequence[int]) -> int:
        return sum(self._models_through[node] for node in nodes)

    def _read_tensors(self, node: int) -> tuple[Tensor, ...]:
        return tuple(self._tensors[value] for value in self._nodes[node].reads)

    def _execution(self, passes: Sequence[tuple[int, int]]) -> Execution:
        """One run of one block. A pass is the index of an ask, and a node."""
        node = passes[0][1]
        return Execution(
            block=self._nodes[node].block,
            passes=tuple(
                Pass(ask, self._nodes[node].reads, self._nodes[node].writes) for ask, node in passes
            ),
            reads=self._read_tensors(node),
            writes=tuple(self._tensors[value] for value in self._nodes[node].writes),
        )

    def _roots(
        self, executions: Sequence[Execution], outputs: Sequence[Mapping[str, tuple[int, ...]]]
    ) -> list[Root]:
        """The inputs that are used, each with the asks that read it."""
        asks: dict[int, set[int]] = {}
        for execution in executions:
            for one in execution.passes:
                for value in one.reads:
                    asks.setdefault(value, set()).add(one.ask)
        for ask, of in enumerate(outputs):
            for value in itertools.chain(*of.values()):
                asks.setdefault(value, set()).add(ask)
        return [
            Root(value, index, tensor, tuple(sorted(asks[value])))
            for (index, tensor), value in self._root_of.items()
            if value in asks
        ]
