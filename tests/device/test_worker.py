"""A real worker process, spoken to as the front does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edged import preprocess
from edged.core.events import (
    BatchFailed,
    BlockLoaded,
    BlockUnloaded,
    Calibrate,
    Discard,
    Load,
    Prepared,
    PrepareFailed,
    Unload,
)
from edged.errors import Code
from edged.link import messages as link
from edged.manifest import SCHEMA, Manifest, PathStep, Preprocess, Value
from edged.store import Store
from tests.backends.blocks import (
    dense,
    fails_on_large_values,
    mean_of_image,
    one_row_only,
    sum_and_difference,
)
from tests.device.rig import Done, Model, Rig, make_store, worker
from tests.pictures.making import (
    encoded,
    picture,
    png_header,
    png_of_zeros,
    progressive_of_zeros,
)

COLOURS = ("red", "green", "blue")
BODY = dense(6, 16, seed=1)
MIDDLE = dense(16, 16, seed=2)
IMAGE = mean_of_image(size=4)
MODELS = {
    model.manifest.name: model
    for model in (
        Model("cat", BODY, MIDDLE, dense(16, 4, seed=3, relu=False)),
        Model("dog", BODY, MIDDLE, dense(16, 3, seed=4, relu=False), labels=COLOURS),
        Model("early", BODY, dense(16, 2, seed=5)),
        Model("other", dense(6, 16, seed=6), MIDDLE, dense(16, 5, seed=7)),
        Model("wide", dense(7, 2, seed=8)),
        Model("stretch", IMAGE, preprocess=Preprocess(4, 4)),
        Model("crop", IMAGE, preprocess=Preprocess(4, 4, "shorter-side", crop="center")),
        Model("single", one_row_only(2)),
        Model("picky", fails_on_large_values()),
    )
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("device") / "store", MODELS.values())


@pytest.fixture(scope="module", params=["onnxruntime", "emulated-cuda"])
def shared(request: pytest.FixtureRequest, store: Store) -> Iterator[Rig]:
    with worker(store, backend=request.param, prepare_threads=2, staging_rows=16) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Iterator[Rig]:
    """One worker for most tests. After each one all of its staging memory must be free."""
    yield shared
    wide = np.zeros((16, 7), np.float32)
    six = np.zeros((16, 6), np.float32)
    shared.ran((shared.prepared(six, "early"), ["early"]))
    shared.ran((shared.prepared(wide, "wide"), ["wide"]))


def rows(count: int, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_ready_says_what_is_there(rig: Rig) -> None:
    ready = rig.ready
    assert set(ready.models) == set(MODELS)
    blocks = {block.id for model in MODELS.values() for block in model.blocks}
    assert rig.bytes_used.keys() == blocks
    assert ready.emulated is (ready.backend == "emulated-cuda")
    assert ready.pss_bytes > 0


def test_what_was_measured_is_known_to_the_next_worker(store: Store, tmp_path: Path) -> None:
    names = ("cat", "early", "single")
    cache = str(tmp_path / "cache")
    with worker(store, models=names, cache_dir=cache) as rig:
        assert rig.ready.measured == rig.ready.warm_ups == rig.ready.blocks == ()
        found = [one for name in names for one in rig.calibrate(name, 8).warm_ups]
    assert {(one.model, one.rows) for one in found} == {(n, r) for n in names for r in (1, 2, 4, 8)}
    for one in found:
        assert one.group == MODELS[one.model].blocks[0].id
    with worker(store, models=names, cache_dir=cache) as rig:
        assert rig.ready.measured == names
        assert list(rig.ready.warm_ups) == found
        known = {info.id: info.bytes_used for info in rig.ready.blocks}
        assert known == rig.bytes_used
        rig.send(Calibrate("cat", 8))
        assert rig.expect(link.ModelMeasured).done  # without a run
    with worker(store, models=names, cache_dir=cache, threads=2) as rig:
        assert rig.ready.measured == ()  # on other threads they take other times


def test_a_run_of_the_calibration_lets_a_batch_go_between(store: Store) -> None:
    with worker(store, options={"run_us": 1000}, models=("cat",)) as rig:
        rid = rig.prepared(rows(1), "cat")
        rig.send(Calibrate("cat", 8))
        assert not rig.expect(link.ModelMeasured).done
        assert (rid, "cat") in rig.ran((rid, ["cat"])).tensors
        assert rig.calibrate("cat", 8).warm_ups


def test_a_model_whose_block_was_taken_off_is_measured_when_it_is_back(
    store: Store, tmp_path: Path
) -> None:
    block = MODELS["cat"].manifest.steps[-1].block
    with worker(store, models=("cat",), cache_dir=str(tmp_path)) as rig:
        rig.send(Calibrate("cat", 8))
        assert not rig.expect(link.ModelMeasured).done
        rig.send(Unload(block))
        rig.expect(BlockUnloaded)
        rig.send(Calibrate("cat", 8))
        assert not rig.expect(link.ModelMeasured).done
        rig.send(Load(block))
        rig.expect(BlockLoaded)
        assert rig.calibrate("cat", 8).warm_ups


def test_a_mixed_batch(rig: Rig) -> None:
    asked = [(rows(2, seed=1), ["cat"]), (rows(1, seed=2), ["dog"]), (rows(3, seed=3), ["early"])]
    members = [(rig.prepared(x, *models), models) for x, models in reversed(asked)]
    done = rig.ran(*members)
    for (x, models), (rid, _) in zip(reversed(asked), members, strict=True):
        same(done.tensors[rid, models[0]], MODELS[models[0]].twin(x))
    assert {run.block: run.rows for run in done.message.blocks}[BODY.id] == 6
    assert {run.block: run.rows for run in done.message.blocks}[MIDDLE.id] == 3


def test_every_mix_of_tasks_and_rows(rig: Rig) -> None:
    rng = np.random.default_rng(7)
    group = ["cat", "dog", "early"]
    for turn in range(40):
        asked = []
        for _ in range(rng.integers(1, 6)):
            models = sorted(rng.choice(group, rng.integers(1, 4), replace=False).tolist())
            x = rows(int(rng.integers(1, 3)), seed=int(rng.integers(1000)))
            asked.append((rig.prepared(x, *models), models, x))
        rng.shuffle(asked)
        done = rig.ran(*((rid, models) for rid, models, _ in asked))
        assert len(done.tensors) == sum(len(models) for _, models, _ in asked), turn
        for rid, models, x in asked:
            for model in models:
                same(done.tensors[rid, model], MODELS[model].twin(x))


def test_three_tasks_on_one_frame_pass_the_backbone_once(rig: Rig) -> None:
    x = rows(1)
    models = ["cat", "dog", "early"]
    rid = rig.prepared(x, *models)
    done = rig.ran((rid, models))
    assert done.block_rows == [1] * 5
    for model in models:
        same(done.tensors[rid, model], MODELS[model].twin(x))


def test_equal_frames_of_two_requests_are_rows_of_their_own(rig: Rig) -> None:
    x, y = rows(1, seed=1), rows(1, seed=2)
    asked = [(x, "cat"), (y, "cat"), (x, "dog")]
    rids = [rig.prepared(given, model) for given, model in asked]
    done = rig.ran(*((rid, [model]) for rid, (_, model) in zip(rids, asked, strict=True)))
    assert {run.block: run.rows for run in done.message.blocks}[BODY.id] == 3
    for rid, (given, model) in zip(rids, asked, strict=True):
        same(done.tensors[rid, model], MODELS[model].twin(given))


def test_a_request_in_two_batches(rig: Rig) -> None:
    x = rows(2)
    rid = rig.prepared(x, "cat", "other")
    for model in ("other", "cat"):
        same(rig.ran((rid, [model])).tensors[rid, model], MODELS[model].twin(x))


def test_models_with_other_inputs_for_one_request_are_refused_in_words(rig: Rig) -> None:
    failed = rig.refused(rows(1), "cat", "wide")
    assert failed.code is Code.INVALID_ARG
    assert "'wide' takes 'x' FP32 [rows, 7]; input 'x' is FP32 [1, 6]" in failed.message


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((2, 5), np.float32), "takes 'x' FP32 [rows, 6]; input 'x' is FP32 [2, 5]"),
        (np.zeros((2, 6), np.float64), "takes 'x' FP32 [rows, 6]; input 'x' is FP64 [2, 6]"),
        (np.zeros((2, 6, 1), np.float32), "input 'x' is FP32 [2, 6, 1]"),
        ({"y": rows(1), "z": rows(1)}, "the request has no 'x', only 'y', 'z'"),
    ],
)
def test_a_tensor_that_the_model_does_not_take(rig: Rig, given: object, says: str) -> None:
    failed = rig.refused(given, "cat")
    assert failed.code is Code.INVALID_ARG
    assert says in failed.message


def test_models_that_name_their_inputs_differently(tmp_path: Path) -> None:
    """One input is for both; of two, each model has its own, and that is two requests."""
    head = dense(6, 3, seed=4)
    other = Model("b", head)
    renamed = msgspec.structs.replace(
        other.manifest,
        inputs=("y",),
        values=(Value("y", "FP32", (6,)), other.manifest.value("v0")),
        steps=(PathStep(head.id, ("y",), ("v0",)),),
    )
    other.manifest = renamed
    with worker(make_store(tmp_path / "store", [Model("a", head), other])) as rig:
        rid = rig.prepared(rows(1), "a", "b")
        assert rig.ran((rid, ["a", "b"])).block_rows == [1]
        failed = rig.refused({"x": rows(1, seed=1), "y": rows(1, seed=2)}, "a", "b")
        assert "models 'a' and 'b' take different inputs" in failed.message
        x, y = rows(1, seed=1), rows(1, seed=2)
        one = rig.prepared({"x": x, "y": y}, "b")
        same(
            rig.ran((one, ["b"])).tensors[one, "b"],
            rig.ran((rig.prepared(y, "b"), ["b"])).tensors[one + 1, "b"],
        )


def test_a_payload_of_another_size_than_it_says(rig: Rig) -> None:
    given = link.Input("x", "tensor", "FP32", (1, 6))
    rig.send(link.PayloadHeader(10**6, 1, (given,), (link.Ask("cat"),)), b"x" * 23)
    failed = rig.expect(PrepareFailed)
    assert "23 bytes of payload, which is not FP32 [1, 6]" in failed.message


def test_the_name_of_a_single_input_is_not_looked_at(rig: Rig) -> None:
    x = rows(1)
    rid = rig.prepared({"something": x}, "cat")
    same(rig.ran((rid, ["cat"])).tensors[rid, "cat"], MODELS["cat"].twin(x))


def test_an_unknown_model(rig: Rig) -> None:
    failed = rig.refused(rows(1), "zebra")
    assert (failed.code, failed.message) == (Code.NOT_FOUND, "model 'zebra' is not loaded")


def test_files_and_pixels(rig: Rig) -> None:
    images = [picture(30, 40, seed) for seed in range(3)]
    files = [encoded(images[0]), encoded(images[1], ".png"), encoded(images[2])]
    rid = rig.prepared(files, "stretch", "crop")
    done = rig.ran((rid, ["stretch", "crop"]))
    for model in ("stretch", "crop"):
        spec = MODELS[model].manifest.preprocess
        x = np.empty((3, 3, 4, 4), np.float32)
        for file, out in zip(files, x, strict=True):
            preprocess.prepare(file, spec, out)
        same(done.tensors[rid, model], MODELS[model].twin(x))
    assert sum(done.block_rows) == 6  # two preparations of three pictures
    pixels = np.stack(images)[:, :, :, :]
    rid = rig.prepared({"image": pixels}, "stretch", kind="pixels")
    same(
        rig.ran((rid, ["stretch"])).tensors[rid, "stretch"][1],
        done.tensors[rid - 1, "stretch"][1],  # of the PNG, which is exactly these pixels
    )


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"", Code.INVALID_ARG, "is empty"),
        (b"hello, this is text", Code.INVALID_ARG, "no JPEG, PNG, WebP or BMP file"),
        (encoded(picture())[:-200], Code.INVALID_ARG, "JPEG is damaged"),
        (encoded(picture(), ".png")[:-200], Code.INVALID_ARG, "PNG is damaged"),
        (png_header(30_000, 30_000), Code.RESOURCE_EXHAUSTED, "30000 x 30000 pixels"),
    ],
)
def test_a_picture_that_is_none(rig: Rig, data: bytes, code: Code, says: str) -> None:
    failed = rig.refused([encoded(picture()), data], "stretch")
    assert failed.code is code
    assert says in failed.message


def test_pictures_take_turns_and_none_is_decoded_for_who_has_given_up(store: Store) -> None:
    """One thread and a request of many large pictures: a small one of another client need not wait
    for all of them, and what nobody waits for any more ends with the picture it is at."""
    many = [png_of_zeros(3000, 3000)] * 15  # a second at least
    with worker(store, backend="onnxruntime", prepare_threads=1, staging_rows=16) as rig:
        large = rig.prepare(many, "stretch")
        small = rig.prepare([encoded(picture())], "stretch", client=1)
        assert rig.expect(Prepared).rid == small
        rig.send(Discard(large))
        failed = rig.expect(PrepareFailed)
        assert (failed.rid, failed.code) == (large, Code.CANCELLED)
        rig.ran((small, ["stretch"]))
        rig.prepared([encoded(picture())] * 16, "stretch")  # all rows are free again


def test_a_picture_above_what_the_budget_has_for_it_is_refused(store: Store) -> None:
    budget_bytes = 240_000_000  # of which 30 MB for pictures, 22 of them for large ones
    with worker(store, prepare_threads=2, budget_bytes=budget_bytes, models=("stretch",)) as rig:
        assert rig.ready.decoding_bytes == budget_bytes // 8
        failed = rig.refused([png_of_zeros(1700, 1700)], "stretch")
        assert failed.code is Code.RESOURCE_EXHAUSTED
        assert "there is memory for 22500000: send a smaller picture" in failed.message
        rig.prepared([png_of_zeros(1600, 1600)] * 4, "stretch")


def test_a_light_picture_that_has_become_another_is_refused(rig: Rig, tmp_path: Path) -> None:
    """Whoever called it inline looked at shared memory that its client has changed since."""
    for number, large in enumerate((png_of_zeros(2049, 2048), progressive_of_zeros(1024, 300))):
        rid = rig.prepare([large], "stretch", inline=True, share=tmp_path / f"region-{number}")
        batch = rig.run((rid, ["stretch"]))
        failed = rig.expect(PrepareFailed)
        assert (failed.rid, failed.code) == (rid, Code.INVALID_ARG)
        assert "leave shared memory as it is" in failed.message
        assert rig.expect(link.BatchOutputs).done.batch == batch
        rig.send(Discard(rid))


def test_pictures_for_a_model_of_tensors(rig: Rig) -> None:
    failed = rig.refused([encoded(picture())], "cat")
    assert (failed.code, failed.message) == (
        Code.INVALID_ARG,
        "model 'cat' takes no images, only tensors",
    )


def test_pixels_of_a_wrong_shape(rig: Rig) -> None:
    failed = rig.refused({"image": np.zeros((1, 30, 40), np.uint8)}, "stretch", kind="pixels")
    assert "pixels have shape (rows, height, width, 3)" in failed.message


def test_the_best_classes(rig: Rig) -> None:
    x, y = rows(2, seed=1), rows(1, seed=2)
    plain = rig.prepared(x, link.Ask("dog", classification=2))
    soft = rig.prepared(y, link.Ask("dog", classification=9, softmax=True))
    raw = rig.prepared(y, link.Ask("dog", softmax=True), link.Ask("cat"))
    done = rig.ran((plain, ["dog"]), (soft, ["dog"]), (raw, ["dog", "cat"]))
    for row, scores in zip(done.classes[plain, "dog"], MODELS["dog"].twin(x), strict=True):
        order = np.argsort(-scores)[:2]
        assert [(c.index, c.label) for c in row] == [(i, COLOURS[i]) for i in order]
        same(np.array([c.score for c in row]), scores[order])
    (row,) = done.classes[soft, "dog"]
    assert len(row) == 3  # as many as there are
    assert sum(c.score for c in row) == pytest.approx(1.0)
    assert sorted((c.score for c in row), reverse=True) == [c.score for c in row]
    best = row[0]
    assert done.tensors[raw, "dog"][0, best.index] == pytest.approx(best.score)
    same(done.tensors[raw, "cat"], MODELS["cat"].twin(y))


def test_nan_is_the_clients_business(rig: Rig) -> None:
    x = rows(2)
    x[0, 3] = np.nan
    rid = rig.prepared(x, "cat", link.Ask("dog", classification=1, softmax=True))
    done = rig.ran((rid, ["cat", "dog"]))
    assert np.isnan(done.tensors[rid, "cat"][0]).all()
    same(done.tensors[rid, "cat"][1:], MODELS["cat"].twin(x[1:]))


def test_a_model_of_one_row_runs_row_by_row(rig: Rig) -> None:
    x = rows(3, width=2)
    rid = rig.prepared(x, "single")
    done = rig.ran((rid, ["single"]))
    assert done.block_rows == [3]
    same(done.tensors[rid, "single"], -x)


def test_a_batch_that_fails_harms_nobody(rig: Rig) -> None:
    good, bad = np.array([[0.5]], np.float32), np.array([[9.0]], np.float32)
    healthy, sick = rig.prepared(good, "picky"), rig.prepared(bad, "picky")
    batch = rig.run((healthy, ["picky"]), (sick, ["picky"]))
    failed = rig.expect(BatchFailed)
    assert (failed.batch, failed.code) == (batch, Code.INTERNAL)
    assert "failed" in failed.message
    same(rig.ran((healthy, ["picky"])).tensors[healthy, "picky"], good)
    rig.send(Discard(sick))


def test_a_batch_of_a_request_that_is_not_there(rig: Rig) -> None:
    rid = rig.prepared(rows(1), "cat")
    rig.run((rid, ["cat"]), (10**6, ["cat"]))
    assert "request 1000000 is not staged" in rig.expect(BatchFailed).message
    rig.ran((rid, ["cat"]))


def test_discarded_rows_are_free_for_the_next_request(rig: Rig) -> None:
    for _ in range(3):
        rid = rig.prepared(rows(16), "early")
        rig.send(Discard(rid))
    rig.send(Discard(10**6))


def test_light_requests_run_without_a_word_in_between(rig: Rig) -> None:
    x, y = rows(1, seed=1), rows(2, seed=2)
    cat, dog = rig.prepare(x, "cat", inline=True), rig.prepare(y, "dog", inline=True)
    done = rig.ran((cat, ["cat"]), (dog, ["dog"]))
    same(done.tensors[cat, "cat"], MODELS["cat"].twin(x))
    same(done.tensors[dog, "dog"], MODELS["dog"].twin(y))


def test_a_batch_leaves_out_a_light_request_that_failed(rig: Rig) -> None:
    x = rows(1)
    good, bad = rig.prepare(x, "cat", inline=True), rig.prepare(rows(9, 5), "dog", inline=True)
    batch = rig.run((bad, ["dog"]), (good, ["cat"]))
    failed = rig.expect(PrepareFailed)
    assert (failed.rid, failed.code) == (bad, Code.INVALID_ARG)
    assert "FP32 [9, 5]" in failed.message
    message, payload = rig.next()
    assert message.done.batch == batch
    assert [answer.rid for answer in message.answers] == [good]
    same(Done(message, payload).tensors[good, "cat"], MODELS["cat"].twin(x))


@pytest.mark.parametrize("model", ["cat", "nobody"])
def test_light_requests_that_failed_are_known_until_discarded(rig: Rig, model: str) -> None:
    for _ in range(3):  # more rows than there are, if they were kept
        bad = rig.prepare(rows(9, 5), model, inline=True)
        rig.run((bad, [model]))
        assert rig.expect(PrepareFailed).rid == bad
        assert rig.expect(link.BatchOutputs).answers == ()
        dropped = rig.prepare(rows(9, 5), model, inline=True)
        rig.send(Discard(dropped))
        assert rig.expect(PrepareFailed).rid == dropped


def test_lanes_decode_light_images_themselves(rig: Rig) -> None:
    files = [encoded(picture(30, 40, seed)) for seed in range(4)]
    known = [rig.prepared([file], "stretch", "crop") for file in files]
    rids = [rig.prepare([file], "stretch", "crop", inline=True) for file in files]
    for model in ("stretch", "crop"):  # what the first batch has decoded serves the second
        done = rig.ran(*((rid, [model]) for rid in [*known, *rids]))
        for one, other in zip(known, rids, strict=True):
            np.testing.assert_array_equal(done.tensors[one, model], done.tensors[other, model])
        assert (done.message.done.prepare_s > 1e-4) == (model == "stretch")


def test_a_batch_leaves_out_a_light_image_that_is_damaged(rig: Rig) -> None:
    file = encoded(picture(30, 40))
    good = rig.prepare([file], "stretch", inline=True)
    bad = rig.prepare([file[:-200]], "stretch", inline=True)
    batch = rig.run((bad, ["stretch"]), (good, ["stretch"]))
    failed = rig.expect(PrepareFailed)
    assert (failed.rid, failed.code) == (bad, Code.INVALID_ARG)
    message = rig.expect(link.BatchOutputs)
    assert message.done.batch == batch
    assert [answer.rid for answer in message.answers] == [good]


def test_light_images_that_are_discarded_are_never_decoded(rig: Rig) -> None:
    for _ in range(20):  # more rows than there are, if they were kept
        rig.send(Discard(rig.prepare([b"no image"], "stretch", inline=True)))
    rig.read_all()


@pytest.mark.parametrize("inline", [True, False])
def test_a_payload_is_read_from_shared_memory(rig: Rig, tmp_path: Path, inline: bool) -> None:
    """Straight to where tensors are staged, to several models' rows, and through the decoder."""
    x, files = rows(2), [encoded(picture(30, 40, seed)) for seed in range(2)]
    shared = [
        (rig.prepare(x, "cat", inline=inline, share=tmp_path / "a"), ["cat"]),
        (rig.prepare(x, "cat", "dog", inline=inline, share=tmp_path / "b"), ["dog"]),
        (rig.prepare(files, "stretch", inline=inline, share=tmp_path / "c"), ["stretch"]),
    ]
    if not inline:
        assert {rig.expect(Prepared).rid for _ in shared} == {rid for rid, _ in shared}
    cat, dog, stretch = (rid for rid, _ in shared)
    same(rig.ran(shared[0]).tensors[cat, "cat"], MODELS["cat"].twin(x))
    same(rig.ran(shared[1]).tensors[dog, "dog"], MODELS["dog"].twin(x))
    sent = rig.prepared(files, "stretch")
    done = rig.ran(shared[2], (sent, ["stretch"]))
    np.testing.assert_array_equal(done.tensors[stretch, "stretch"], done.tensors[sent, "stretch"])
    rig.send(Discard(dog))  # it was asked for "cat", too


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (Path.unlink, Code.UNAVAILABLE, "No such file"),
        (lambda path: os.truncate(path, 0), Code.INVALID_ARG, "cut it short"),
        (lambda path: os.truncate(path, 20), Code.INVALID_ARG, "cut it short"),
    ],
    ids=["gone", "empty", "cut"],
)
def test_shared_memory_that_is_not_whole_fails_its_request_alone(
    rig: Rig,
    tmp_path: Path,
    inline: bool,
    spoil: Callable[[Path], object],
    code: Code,
    says: str,
) -> None:
    x = rows(2)
    bad = rig.prepare(x, "cat", inline=inline, share=tmp_path / "memory", spoil=spoil)
    failed = rig.expect(PrepareFailed)
    assert (failed.rid, failed.code) == (bad, code)
    assert says in failed.message
    good = rig.prepared(x, "cat")
    same(rig.ran((good, ["cat"])).tensors[good, "cat"], MODELS["cat"].twin(x))


def test_a_file_that_is_closed_is_opened_again_when_it_is_named(rig: Rig, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    for seed in range(2):
        x = rows(1, seed=seed)
        rid = rig.prepare(x, "cat", inline=True, share=memory)
        same(rig.ran((rid, ["cat"])).tensors[rid, "cat"], MODELS["cat"].twin(x))
        rig.send(link.Close(str(memory)))
        memory.unlink()


def test_a_picture_discarded_before_its_turn(rig: Rig) -> None:
    """Each Prepare is answered once, however Discard and the threads cross."""
    file = [encoded(picture(480, 640))]
    rids = [rig.prepare(file, "stretch") for _ in range(12)]
    for rid in rids:
        rig.send(Discard(rid))
    answered = [rig.next()[0] for _ in rids]
    assert sorted(message.rid for message in answered) == rids
    failed = [m for m in answered if isinstance(m, PrepareFailed)]
    assert {message.code for message in failed} <= {Code.CANCELLED}
    rig.read_all()


def test_it_tells_its_memory(rig: Rig) -> None:
    rig.send(link.Measure(8))
    memory = rig.expect(link.WorkerMemory)
    assert memory.n == 8
    assert memory.pss_bytes > 10_000_000
    assert memory.buffer_bytes > 0
    assert memory.staging_bytes == rig.ready.staging_bytes == 16 * 4 * (6 + 7 + 48 + 2 + 1)


def test_batches_side_by_side(store: Store) -> None:
    models = ["cat", "dog", "early"]
    settings = {"backend": "onnxruntime", "threads": 2, "models": models}
    with worker(store, **settings) as rig:
        assert rig.ready.lanes == 2
        assert rig.ready.lanes_prepare
        found = rig.calibrate("cat", 4).warm_ups
        assert {(one.rows, one.wide) for one in found} == {
            (1, True), (1, False), (2, False), (4, False)
        }  # fmt: skip
        x = {rig.prepared(rows(1, seed=n), models[n % 3]): n for n in range(12)}
        for rid, n in x.items():
            rig.run((rid, [models[n % 3]]), wide=n == 0)
        while x:
            message, payload = rig.next()
            assert isinstance(message, link.BatchOutputs)
            ((key, found),) = Done(message, payload).tensors.items()
            n = x.pop(key[0])
            assert key[1] == models[n % 3]
            same(found, MODELS[models[n % 3]].twin(rows(1, seed=n)))


def test_a_mixed_batch_in_torch(store: Store) -> None:
    with worker(store, backend="torch", models=["cat", "dog"]) as rig:
        assert rig.ready.versions["torch"]
        asked = {model: rows(2, seed=len(model)) for model in ("cat", "dog")}
        rids = {model: rig.prepared(x, model) for model, x in asked.items()}
        done = rig.ran(*((rid, [model]) for model, rid in rids.items()))
        for model, rid in rids.items():
            same(done.tensors[rid, model], MODELS[model].twin(asked[model]))


def test_large_tensors_go_through_the_threads(tmp_path: Path) -> None:
    block = mean_of_image(3, 512)
    model = Model("large", block)
    with worker(make_store(tmp_path / "store", [model]), backend="onnxruntime") as rig:
        x = np.random.default_rng(0).random((2, 3, 512, 512), dtype=np.float32)
        rid = rig.prepared(x, "large")
        same(rig.ran((rid, ["large"])).tensors[rid, "large"], model.twin(x))


def test_a_model_of_two_inputs(tmp_path: Path) -> None:
    block = sum_and_difference(5)
    store = Store(tmp_path / "store").create()
    with store.update() as change:
        change.add_block(block.data)
        names = ("left", "right", "sum", "difference")
        change.put_model(
            Manifest(
                schema=SCHEMA,
                name="both",
                task="both",
                precision="fp32",
                inputs=("left", "right"),
                outputs=("difference", "sum"),
                values=tuple(Value(name, "FP32", (5,)) for name in names),
                steps=(PathStep(block.id, ("left", "right"), ("sum", "difference")),),
                whole_bytes=1,
            )
        )
    with worker(store, backend="onnxruntime") as rig:
        left, right = rows(2, 5, seed=1), rows(2, 5, seed=2)
        rid = rig.prepared({"right": right, "left": left}, "both")
        rig.run((rid, ["both"]))
        message, payload = rig.next()
        assert isinstance(message, link.BatchOutputs)
        (answer,) = message.answers
        assert [output.name for output in answer.outputs] == ["difference", "sum"]
        same(np.frombuffer(payload[0], np.float32).reshape(2, 5), left - right)
        same(np.frombuffer(payload[1], np.float32).reshape(2, 5), left + right)
        assert "has no 'right', only 'left'" in rig.refused({"left": left}, "both").message
