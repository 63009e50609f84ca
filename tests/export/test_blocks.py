"""The blocks of models. A model is written as a word, in which a letter is a layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from edged.manifest import Layer, Value
from export.blocks import Wired, plan, signature, wire

LARGE, SMALL = 100_000, 10_000  # bytes that a capital and a small letter stand for
MIN = 16_000
MB = 10**6


def values(*names: str) -> list[Value]:
    """Values of a kilobyte each."""
    return [Value(name, "UINT8", (1000,)) for name in names]


def chain(word: str) -> list[Wired]:
    """Each layer reads the one before it; a dot is a layer without weights."""
    names = ["x", *(f"v{i}" for i in range(len(word)))]
    sizes = [0 if c == "." else LARGE if c.isupper() else SMALL for c in word]
    layers = [Layer(c, (names[i],), (names[i + 1],), sizes[i]) for i, c in enumerate(word)]
    return wire(["x"], [names[-1]], layers, values(*names))


def cut(*words: str, min_bytes: int = MIN) -> list[str]:
    """The words with a bar at each border of blocks."""
    models = {str(i): chain(word) for i, word in enumerate(words)}
    spans = plan(models, min_bytes)
    return [
        "|".join(word[span.start : span.end] for span in spans[str(i)])
        for i, word in enumerate(words)
    ]


def test_a_lone_model_is_one_block() -> None:
    assert cut("ABCdef") == ["ABCdef"]


def test_equal_models_share_one_block() -> None:
    assert cut("ABC", "ABC") == ["ABC", "ABC"]


def test_shared_bottom_middle_and_top() -> None:
    assert cut("ABCD", "ABXY") == ["AB|CD", "AB|XY"]
    assert cut("ABCD", "XBCY", "ZBCW") == ["A|BC|D", "X|BC|Y", "Z|BC|W"]
    assert cut("ABCD", "XYCD") == ["AB|CD", "XY|CD"]


def test_blocks_have_one_set_of_sharers() -> None:
    assert cut("ABCDE", "ABCX", "ABY") == ["AB|C|DE", "AB|C|X", "AB|Y"]


def test_heads_stay_apart_however_small() -> None:
    assert cut("ABCx", "ABCy", "ABCz") == ["ABC|x", "ABC|y", "ABC|z"]


def test_a_small_shared_run_is_copied_where_that_is_cheaper() -> None:
    assert cut("sAB", "sXY") == ["sAB", "sXY"]
    assert cut("ABs", "XYs") == ["ABs", "XYs"]
    assert cut("sAB", "sXY", min_bytes=0) == ["s|AB", "s|XY"]
    # Two more copies of 10 kB would cost more than the minimum of 16 kB.
    assert cut("sA", "sB", "sC") == ["s|A", "s|B", "s|C"]


def test_a_small_difference_does_not_undo_the_sharing_beside_it() -> None:
    assert cut("ABxCD", "AByCD") == ["AB|x|CD", "AB|y|CD"]


def test_a_layer_that_is_run_several_times_is_one_block() -> None:
    assert cut("AAAB") == ["A|A|A|B"]


def test_what_has_no_weights_is_not_shared_for_itself() -> None:
    assert cut("A.B", "C.D") == ["A.B", "C.D"]
    assert cut("A.B", "A.C") == ["A.|B", "A.|C"]


def skipping(far: int) -> list[Wired]:
    """A, B, C, D in a chain; D also reads what `far` layers before C has made."""
    layers = [
        Layer("A", ("x",), ("a",), LARGE),
        Layer("B", ("a",), ("b",), LARGE),
        Layer("C", ("b",), ("c",), LARGE),
        Layer("D", ("c", "cba"[far]), ("d",), LARGE),
    ]
    return wire(["x"], ["d"], layers, values(*"xabcd"))


def test_equal_layers_that_are_wired_in_another_way_are_cut_there() -> None:
    models = {"one": skipping(1), "two": skipping(2)}
    spans = plan(models, 0)
    borders = {name: [span.start for span in found] for name, found in spans.items()}
    assert borders["one"] == borders["two"]
    assert 3 in borders["one"], "D reads another value in the other model"
    assert [s.start for s in plan({"one": skipping(1), "two": skipping(1)}, 0)["one"]] == [0]


def test_an_inner_value_that_one_model_gives_out_ends_a_block() -> None:
    layers = [Layer(c, (r,), (w,), LARGE) for c, r, w in ("Axa", "Bab", "Cbc")]
    models = {
        name: wire(["x"], outputs, layers, values(*"xabc"))
        for name, outputs in {"plain": ["c"], "features": ["a", "c"]}.items()
    }
    assert [s.start for s in plan(models, 0)["plain"]] == [0, 1]


def net(*sizes: tuple[float, float], head: str = "", skip: tuple[int, int] = (0, 0)) -> list[Wired]:
    """Layers in a chain, each by the MB that it writes for a row and those that it weighs.

    skip   a layer, counted from 1, and a later one that reads it besides
    """
    names = ["x", *(f"v{i}" for i in range(len(sizes)))]
    layers = [
        Layer(
            f"{wrote} {weighs} {head * (i == len(sizes))}",
            (r, names[skip[0]]) if i == skip[1] else (r,),
            (w,),
            round(weighs * MB),
        )
        for i, (r, w, (wrote, weighs)) in enumerate(
            zip(names, names[1:], sizes, strict=False), start=1
        )
    ]
    found = [
        Value(w, "UINT8", (round(wrote * MB),))
        for w, (wrote, _) in zip(names[1:], sizes, strict=True)
    ]
    return wire(["x"], [names[-1]], layers, found)


def starts(models: Mapping[str, list[Wired]], min_bytes: int = MIN) -> dict[str, list[int]]:
    return {name: [s.start for s in spans] for name, spans in plan(models, min_bytes).items()}


CONVOLUTIONS = ((3.0, 0.1), (1.5, 0.2), (0.5, 0.3), (0.1, 2.0), (0.1, 3.0))


def test_large_activations_and_large_weights_are_blocks_of_their_own() -> None:
    assert starts({"a": net(*CONVOLUTIONS)}) == {"a": [0, 3]}
    # The cut is where 0.1 MB cross instead of 1.5 MB, though 0.2 MB of weights are then on the
    # other side.
    narrow = ((3.0, 0.1), (1.5, 0.2), (0.1, 0.2), (0.1, 5.0))
    assert starts({"a": net(*narrow)}) == {"a": [0, 3]}


def test_what_a_later_layer_comes_back_to_crosses_too() -> None:
    assert starts({"a": net(*CONVOLUTIONS, skip=(1, 4))}) == {"a": [0, 4]}
    assert starts({"a": net(*CONVOLUTIONS, skip=(1, 3))}) == {"a": [0, 3]}


def test_models_share_both_parts() -> None:
    models = {head: net(*CONVOLUTIONS, (0.001, 0.05), head=head) for head in "ab"}
    assert starts(models) == {"a": [0, 3, 5], "b": [0, 3, 5]}


def test_what_is_small_on_either_side_of_the_turn_stays_whole() -> None:
    images = [(wrote / 10, weighs) for wrote, weighs in CONVOLUTIONS]  # smaller ones
    weights = [(wrote, weighs / 10) for wrote, weighs in CONVOLUTIONS]
    backwards = CONVOLUTIONS[::-1]  # a decoder: weights first
    for sizes in (images, weights, backwards, [(9.0, 9.0)]):
        assert starts({"a": net(*sizes)}) == {"a": [0]}
    assert starts({"a": net(*CONVOLUTIONS)}, min_bytes=MB) == {"a": [0]}


words = st.lists(st.text("ABCDabc.", min_size=1, max_size=9), min_size=1, max_size=5)


def blocks(models: Mapping[str, list[Wired]], min_bytes: int) -> dict[object, int]:
    return {
        signature(models[name], span): sum(
            layer.weight_bytes for layer in models[name][span.start : span.end]
        )
        for name, spans in plan(models, min_bytes).items()
        for span in spans
    }


@given(words)
def test_every_layer_is_in_one_block_of_its_model(found: list[str]) -> None:
    assert [text.replace("|", "") for text in cut(*found)] == found


@given(words)
def test_without_a_minimum_each_layer_is_stored_once(found: list[str]) -> None:
    models = {str(i): chain(word) for i, word in enumerate(found)}
    stored = sum(blocks(models, 0).values())
    assert stored == sum(
        {layer.key: layer.weight_bytes for m in models.values() for layer in m}.values()
    )


@given(words)
def test_without_a_minimum_no_two_blocks_are_always_neighbours(found: list[str]) -> None:
    models = {str(i): chain(word) for i, word in enumerate(found)}
    after: dict[object, set[object]] = {}
    before: dict[object, set[object]] = {}
    for name, spans in plan(models, 0).items():
        path = [None, *(signature(models[name], span) for span in spans), None]
        for left, right in itertools.pairwise(path):
            after.setdefault(left, set()).add(right)
            before.setdefault(right, set()).add(left)
    for left, rights in after.items():
        if left is not None and len(rights) == 1:
            (right,) = rights
            assert right is None or len(before[right]) > 1


@given(words)
def test_a_minimum_costs_less_than_itself_for_each_block_that_it_saves(found: list[str]) -> None:
    models = {str(i): chain(word) for i, word in enumerate(found)}
    fine, coarse = blocks(models, 0), blocks(models, MIN)
    assert len(coarse) <= len(fine)
    assert sum(coarse.values()) <= sum(fine.values()) + MIN * (len(fine) - len(coarse))


@given(words)
def test_the_order_of_models_does_not_matter_without_a_minimum(found: list[str]) -> None:
    forward = cut(*found, min_bytes=0)
    assert cut(*reversed(found), min_bytes=0) == list(reversed(forward))
