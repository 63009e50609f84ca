from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.errors import StoreError
from edged.manifest import SCHEMA, Manifest, PathStep, Value
from edged.paths.consecutive import consecutive_order
from edged.paths.layout import Gather, Layout, LayoutRun
from edged.paths.trie import Plan, Trie

# The numbers of values that each block reads and writes.
BLOCKS = {"a": (1, 1), "b": (1, 1), "c": (1, 2), "d": (2, 1), "e": (1, 1), "f": (2, 2)}
SIZE = 4  # floats of a value


def model(
    name: str,
    steps: Sequence[PathStep],
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    input_size: int = SIZE,
) -> Manifest:
    sizes = dict.fromkeys(inputs, input_size)
    sizes |= {name: SIZE for step in steps for name in step.writes}
    return Manifest(
        schema=SCHEMA,
        name=name,
        task=name,
        precision="fp32",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        values=tuple(Value(name, "FP32", (size,)) for name, size in sizes.items()),
        steps=tuple(steps),
        whole_bytes=0,
    )


def chain(name: str, blocks: str, *, sizes: dict[str, int] | None = None) -> Manifest:
    """A model of blocks with one input and one output each; `sizes` are floats of the outputs."""
    steps = [PathStep(b, (f"v{i}",), (f"v{i + 1}",)) for i, b in enumerate(blocks)]
    made = model(name, steps, ["v0"], [f"v{len(blocks)}"])
    if sizes is None:
        return made
    shapes = {"v0": (100,)} | {f"v{i + 1}": (sizes[b],) for i, b in enumerate(blocks)}
    values = tuple(Value(v.name, "FP32", shapes[v.name]) for v in made.values)
    return Manifest(**{**{f: getattr(made, f) for f in made.__struct_fields__}, "values": values})


@st.composite
def models(draw: st.DrawFn, input_sizes: Sequence[int] = (SIZE,)) -> dict[str, Manifest]:
    made = {}
    input_size = draw(st.sampled_from(input_sizes))
    for number in range(draw(st.integers(1, 5))):
        known = [f"in{i}" for i in range(draw(st.integers(1, 2)))]
        inputs = list(known)
        steps = []
        for _ in range(draw(st.integers(1, 6))):
            block = draw(st.sampled_from(sorted(BLOCKS)))
            reads, writes = BLOCKS[block]
            recent = known[-3:]
            names = [f"v{len(steps)}.{i}" for i in range(writes)]
            picks = [draw(st.sampled_from(recent)) for _ in range(reads)]
            steps.append(PathStep(block, tuple(picks), tuple(names)))
            known += names
        outputs = [known[-1]]
        if draw(st.booleans()):
            outputs.append(draw(st.sampled_from(known)))
        name = f"m{number}"
        outputs = list(dict.fromkeys(outputs))
        made[name] = model(name, steps, inputs, outputs, input_size=input_size)
    return made


def batches(names: Sequence[str]) -> st.SearchStrategy[list[tuple[tuple[str, ...], int]]]:
    ask = st.sets(st.sampled_from(sorted(names)), min_size=1, max_size=4)
    return st.lists(
        st.tuples(ask.map(sorted).map(tuple), st.integers(1, 3)), min_size=1, max_size=8
    )


def alone(manifest: Manifest, row: object) -> list[object]:
    """The model's outputs for one row, as expressions: each step in turn, nothing shared."""
    known: dict[str, object] = {n: ("input", i, row) for i, n in enumerate(manifest.inputs)}
    for step in manifest.steps:
        reads = tuple(known[name] for name in step.reads)
        known.update((name, (step.block, j, reads)) for j, name in enumerate(step.writes))
    return [known[name] for name in manifest.outputs]


class Batch:
    """Executes a plan on expressions. A row that nothing wrote is None and must not be read."""

    def __init__(self, plan: Plan, rows: Sequence[tuple[tuple[str, ...], int]]) -> None:
        self.rows = rows
        self.plan = plan
        self.runs: Counter[str] = Counter()
        self.buffers = [[None] * buffer.rows for buffer in plan.layout.buffers]
        for segment, ((place, before), (_, count)) in enumerate(
            zip(plan.segments, rows, strict=True)
        ):
            for index, view in place.inputs:
                for row in range(count):
                    at = view.start + before + row
                    assert self.buffers[view.buffer][at] is None, "two rows in one place"
                    self.buffers[view.buffer][at] = ("input", index, (segment, row))

    def run(self, shuffle: random.Random | None = None) -> dict[tuple[int, str], list[object]]:
        """Expressions by segment and model. `shuffle` reorders the inputs as the plan allows."""
        reorder = self.plan.layout.reorder
        back: list[int] = []
        if shuffle is not None and reorder is not None:
            back = list(range(self.plan.layout.buffers[reorder.roots[0]].rows))
            shuffle.shuffle(back)
            for buffer in reorder.roots:
                self.buffers[buffer] = [
                    self.buffers[buffer][back.index(at)] for at in range(len(back))
                ]
        for at, operation in enumerate(self.plan.layout.operations):
            if back and reorder is not None and reorder.before == at:
                self._reorder(reorder.buffers, back)
            self._execute(operation)
        if back and reorder is not None and reorder.before == len(self.plan.layout.operations):
            self._reorder(reorder.buffers, back)
        return self._outputs()

    def _reorder(self, buffers: Sequence[int], back: list[int]) -> None:
        for buffer in buffers:
            self.buffers[buffer] = [self.buffers[buffer][at] for at in back]

    def _execute(self, operation: LayoutRun | Gather) -> None:
        if isinstance(operation, Gather):
            found = [self.buffers[operation.source][row] for row in operation.rows]
            target = operation.target
            assert len(found) == target.rows
            self.buffers[target.buffer][target.start : target.start + target.rows] = found
            return
        self.runs[operation.block] += 1
        reads = [self._rows(view) for view in operation.reads]
        for index, view in enumerate(operation.writes):
            assert view.rows == operation.rows
            for row in range(operation.rows):
                values = tuple(read[row] for read in reads)
                assert None not in values, "a block reads rows that nothing has written"
                self.buffers[view.buffer][view.start + row] = (operation.block, index, values)

    def _rows(self, view) -> list[object]:
        rows = self.buffers[view.buffer][view.start : view.start + view.rows]
        assert len(rows) == view.rows
        return rows

    def _outputs(self) -> dict[tuple[int, str], list[object]]:
        found = {}
        for segment, ((place, before), (models, count)) in enumerate(
            zip(self.plan.segments, self.rows, strict=True)
        ):
            assert set(place.outputs) == set(models)
            for name, views in place.outputs.items():
                found[segment, name] = [
                    [self.buffers[view.buffer][view.start + before + row] for view in views]
                    for row in range(count)
                ]
        return found


def gathers(layout: Layout) -> int:
    return sum(isinstance(operation, Gather) for operation in layout.operations)


def run_chains(paths: dict[str, str], rows: Sequence[tuple[tuple[str, ...], int]]) -> Batch:
    made = {name: chain(name, blocks) for name, blocks in paths.items()}
    batch = Batch(Trie(made).plan(rows), rows)
    for (segment, name), found in batch.run().items():
        assert found == [alone(made[name], (segment, row)) for row in range(rows[segment][1])]
    return batch


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_every_row_gets_its_own_path_on_its_own_input(data: st.DataObject) -> None:
    made = data.draw(models([SIZE, 100]))  # if inputs are large, features are reordered instead
    trie = Trie(made)
    for _ in range(2):
        rows = data.draw(batches(list(made)))
        for shuffle in (None, random.Random(data.draw(st.integers(0, 99)))):
            batch = Batch(trie.plan(rows), rows)
            for (segment, name), found in batch.run(shuffle).items():
                count = rows[segment][1]
                assert found == [alone(made[name], (segment, row)) for row in range(count)]


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_features_that_shrink_are_reordered_where_that_is_right(data: st.DataObject) -> None:
    """Chains that part and meet, with shrinking values, so that the order is free for long."""
    parts = [st.sampled_from(layer) for layer in ("i", "iab", "abcd", "MN", "MNX", "XYZ")]
    sizes = dict.fromkeys("iabcd", 50) | dict.fromkeys("MN", 10) | dict.fromkeys("XYZ", 1)
    drawn = st.tuples(*parts).map("".join)
    paths = data.draw(st.lists(drawn, min_size=2, max_size=4))
    made = {f"m{i}": chain(f"m{i}", path, sizes=sizes) for i, path in enumerate(paths)}
    rows = data.draw(batches(list(made)))
    batch = Batch(Trie(made).plan(rows), rows)
    for (segment, name), found in batch.run(random.Random(data.draw(st.integers(0, 9)))).items():
        assert found == [alone(made[name], (segment, row)) for row in range(rows[segment][1])]


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_a_block_runs_once_unless_blocks_wait_for_each_other(data: st.DataObject) -> None:
    made = data.draw(models())
    rows = data.draw(batches(list(made)))
    batch = Batch(Trie(made).plan(rows), rows)
    batch.run()
    asked = [made[name] for name in {name for models, _ in rows for name in models}]
    follows = {block: set() for block in BLOCKS}  # blocks that must run before it
    for manifest in asked:
        writer = {name: step.block for step in manifest.steps for name in step.writes}
        for step in manifest.steps:
            follows[step.block] |= {writer[name] for name in step.reads if name in writer}
    done: set[str] = set()
    while ready := {block for block in follows if block not in done and follows[block] <= done}:
        done |= ready
    if done == set(BLOCKS):  # no ring
        assert set(batch.runs.values()) <= {1}


@settings(max_examples=100)
@given(st.data())
def test_models_that_share_their_beginning_need_no_copy(data: st.DataObject) -> None:
    """Any tree of blocks, one task a row, or all tasks on each row."""
    paths: dict[str, str] = {}
    tree = [""]
    for number in range(data.draw(st.integers(1, 8))):
        path = data.draw(st.sampled_from(tree)) + chr(ord("A") + number)
        tree.append(path)
        paths[f"m{number}"] = path
    one = st.sampled_from(sorted(paths)).map(lambda name: (name,))
    ask = data.draw(st.sampled_from([one, st.just(tuple(sorted(paths)))]))
    rows = data.draw(st.lists(st.tuples(ask, st.integers(1, 3)), min_size=1, max_size=16))
    assert gathers(run_chains(paths, rows).plan.layout) == 0


def test_three_tasks_on_one_frame_pass_the_backbone_once() -> None:
    tasks = {"x": "abcX", "y": "abcY", "z": "abcZ"}
    batch = run_chains(tasks, [(("x", "y", "z"), 1)])
    assert batch.runs == dict.fromkeys("abcXYZ", 1)
    assert all(op.rows == 1 for op in batch.plan.layout.operations)


def test_a_mixed_batch_is_one_run_a_block_on_slices() -> None:
    tasks = {"x": "abX", "y": "abY", "z": "abZ"}
    batch = run_chains(tasks, [(("x",), 1), (("y",), 1), (("x", "y"), 1), (("y", "z"), 2)])
    rows = {op.block: op.rows for op in batch.plan.layout.operations if isinstance(op, LayoutRun)}
    assert rows == {"a": 5, "b": 5, "X": 2, "Y": 4, "Z": 2}
    assert gathers(batch.plan.layout) == 0


def test_a_shared_middle_runs_once_on_the_joined_rows() -> None:
    batch = run_chains({"x": "aMX", "y": "bMY", "z": "cZ"}, [(("x",), 2), (("z",), 1), (("y",), 3)])
    runs = {op.block: op.rows for op in batch.plan.layout.operations if isinstance(op, LayoutRun)}
    assert runs == {"a": 2, "b": 3, "c": 1, "M": 5, "X": 2, "Y": 3, "Z": 1}
    assert gathers(batch.plan.layout) == 0


def test_a_shared_top_of_models_of_different_depth_runs_once() -> None:
    batch = run_chains({"x": "abT", "y": "aT", "z": "abbT"}, [((n,), 1) for n in "xyz"])
    assert batch.runs == {"a": 1, "b": 2, "T": 1}  # z needs b's output to run b again


def test_only_rows_that_another_block_still_reads_are_copied() -> None:
    batch = run_chains({"x": "abT", "y": "aT"}, [(("x",), 5), (("y",), 2)])
    copies = [len(op.rows) for op in batch.plan.layout.operations if isinstance(op, Gather)]
    assert copies == [2]  # y's rows of those that a wrote for both; b writes beside them


def test_a_row_that_reaches_a_block_twice_is_two_of_its_rows() -> None:
    batch = run_chains({"x": "aMX", "y": "bMY"}, [(("x", "y"), 2), (("x",), 1)])
    runs = {op.block: op.rows for op in batch.plan.layout.operations if isinstance(op, LayoutRun)}
    assert runs["M"] == 5


def test_a_ring_of_blocks_runs_in_parts() -> None:
    batch = run_chains({"x": "ab", "y": "ba"}, [(("x",), 1), (("y",), 1)])
    assert sorted(batch.runs.values()) == [1, 2]


def test_heads_asked_for_in_a_ring_need_one_gather() -> None:
    tasks = {name: f"a{name.upper()}" for name in "xyz"}
    batch = run_chains(tasks, [(("x", "y"), 1), (("y", "z"), 1), (("x", "z"), 1)])
    assert gathers(batch.plan.layout) == 1
    assert set(batch.runs.values()) == {1}


def test_rows_are_brought_into_order_where_fewest_bytes_move() -> None:
    sizes = {"a": 400, "b": 7, "c": 9, "X": 1, "Y": 1}
    made = {name: chain(name, f"abc{name.upper()}", sizes=sizes) for name in "xy"}
    layout = Trie(made).plan([(("x",), 1), (("y",), 1), (("x",), 1)]).layout
    assert layout.reorder is not None
    operations = [op.block for op in layout.operations if isinstance(op, LayoutRun)]
    assert operations[: layout.reorder.before] == ["a", "b"]
    moved = [layout.buffers[buffer].tensor.shape for buffer in layout.reorder.buffers]
    assert moved == [(7,)]


def test_blocks_on_some_rows_need_the_order_before_them() -> None:
    """Two first blocks write the inputs of the middle side by side: all rows, but in two runs."""
    sizes = {"a": 400, "b": 400, "M": 7, "X": 1, "Y": 1}
    made = {
        "x": chain("x", "aMX", sizes=sizes),
        "y": chain("y", "bMY", sizes=sizes),
    }
    rows = [(("x",), 1), (("y",), 1), (("x",), 1)]
    plan = Trie(made).plan(rows)
    assert plan.layout.reorder is None
    sizes = {"i": 600, **sizes}
    made = {
        "x": chain("x", "iaMX", sizes=sizes),
        "y": chain("y", "ibMY", sizes=sizes),
        "i": chain("i", "i", sizes=sizes),
    }
    for seed in range(5):
        batch = Batch(Trie(made).plan(rows), rows)
        for (segment, name), found in batch.run(random.Random(seed)).items():
            assert found == [alone(made[name], (segment, 0))]


def test_a_batch_of_one_kind_needs_no_order() -> None:
    layout = Trie({"x": chain("x", "aX")}).plan([(("x",), 1), (("x",), 2)]).layout
    assert layout.reorder is None


def test_a_block_without_weights_serves_two_shapes_in_two_runs() -> None:
    sizes = {"a": 5, "b": 6, "r": 5, "X": 1, "Y": 1}
    made = {
        "x": chain("x", "arX", sizes=sizes),
        "y": chain("y", "brY", sizes=sizes | {"r": 6}),
    }
    layout = Trie(made).plan([(("x",), 1), (("y",), 1)]).layout
    assert [op.block for op in layout.operations if isinstance(op, LayoutRun)].count("r") == 2


def test_models_that_disagree_on_a_block_are_refused() -> None:
    made = {
        "x": chain("x", "aX", sizes={"a": 5, "X": 1}),
        "y": chain("y", "aY", sizes={"a": 6, "Y": 1}),
    }
    with pytest.raises(StoreError, match="disagree on what block a writes"):
        Trie(made)


def test_layouts_are_kept() -> None:
    trie = Trie({name: chain(name, f"a{name.upper()}") for name in "xy"})
    first = trie.plan([(("x",), 1), (("y",), 2), (("x",), 1)])
    other_order = trie.plan([(("y",), 2), (("x",), 2)])
    assert other_order.layout is first.layout


@given(st.permutations(range(9)), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8))))
def test_an_order_is_found_where_there_is_one(order: list[int], spans: list[tuple[int, int]]):
    sets = [frozenset(order[min(span) : max(span) + 1]) for span in spans]
    found = consecutive_order(9, sets)
    assert sorted(found) == list(range(9))
    for held in sets:
        places = sorted(found.index(element) for element in held)
        assert places == list(range(places[0], places[0] + len(places)))


def test_where_there_is_none_earlier_sets_win() -> None:
    ring = [frozenset({0, 1}), frozenset({1, 2}), frozenset({0, 2})]
    for first in range(3):
        sets = ring[first:] + ring[:first]
        found = consecutive_order(3, sets)
        assert [abs(found.index(min(s)) - found.index(max(s))) for s in sets] == [1, 1, 2]


def test_the_search_is_bounded() -> None:
    rng = random.Random(1)
    sets = [frozenset(rng.sample(range(48), 24)) for _ in range(64)]
    assert sorted(consecutive_order(48, sets, max_steps=2000)) == list(range(48))
