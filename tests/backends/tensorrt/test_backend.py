"""Backend tensorrt on the fake: what is built when, what is loaded, and what goes wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.backends.base import BlockUse, DeviceLost
from edged.backends.prepared import DamagedCopy
from edged.backends.tensorrt import facts, module
from edged.backends.tensorrt.orders import PLAN
from edged.cuda.arena import taken_bytes
from edged.cuda.personality import UNIFIED, Faults
from edged.errors import Cancelled, EdgedError, Unsupported
from edged.options import TensorRtOptions
from edged.paths.layout import Tensor
from tests.backends.blocks import Block, block, dense
from tests.backends.fake_tensorrt import VERSIONS
from tests.backends.fake_tensorrt.rig import Rig
from tests.backends.test_conformance import inputs, run


def load(rig: Rig, of: Block, folder: Path):
    return rig.backend.load(of.id, of.write(folder), [of.use])


@pytest.fixture
def rig(tmp_path: Path):
    made = Rig(tmp_path / "cache")
    yield made
    made.backend.close()


def heads(count: int) -> list[Block]:
    return [dense(16, 2 + n, seed=n, relu=False) for n in range(count)]


def test_a_new_linear_task_needs_no_engine(rig: Rig, tmp_path: Path) -> None:
    backbone, tasks = dense(8, 16, seed=9), heads(6)
    for one in (backbone, *tasks[:5]):
        load(rig, one, tmp_path)
    assert rig.engines == 2  # the backbone's, and one for all heads
    load(rig, tasks[5], tmp_path)
    assert rig.engines == 2
    given = inputs(backbone, 3)
    features = run(rig.backend, backbone, given)
    for task in tasks:
        np.testing.assert_allclose(
            run(rig.backend, task, features)[0], task.twin(*features)[0], rtol=1e-5, atol=1e-5
        )


def test_what_was_built_is_used_by_the_next_process(rig: Rig, tmp_path: Path) -> None:
    one = dense(6, 4)
    load(rig, one, tmp_path)
    again = Rig(tmp_path / "cache")
    load(again, one, tmp_path)
    assert (len(rig.orders), len(again.orders)) == (1, 0)
    again.backend.close()


@pytest.mark.parametrize("options", [{"precision": "fp32"}, {"max_rows": 4}])
def test_an_engine_of_other_options_is_another_one(
    rig: Rig, tmp_path: Path, options: dict[str, object]
) -> None:
    one = dense(6, 4)
    load(rig, one, tmp_path)
    other = Rig(tmp_path / "cache", **options)
    assert rig.backend.is_prepared(one.id)
    assert not other.backend.is_prepared(one.id)
    other.backend.close()


def test_the_key_has_all_that_engines_depend_on() -> None:
    device, options = UNIFIED.facts, TensorRtOptions()
    key = facts.key_facts(device, "10.3.0", options, 2, "R36.4.3")
    assert {"tensorrt", "cuda", "driver", "gpu", "capability", "processors", "l4t"} <= key.keys()
    assert {"precision", "max_rows", "classes", "level", "recipe", "form"} <= key.keys()


def test_the_release_of_a_jetson_is_read(tmp_path: Path) -> None:
    file = tmp_path / "nv_tegra_release"
    assert facts.l4t_release(file) == ""
    file.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    assert facts.l4t_release(file) == "R36.4.3"


def test_a_build_leaves_memory_to_others() -> None:
    free = 3 << 30
    found = facts.pools(free, 2)
    assert found.workspace_bytes + found.tactic_bytes < free
    assert found.halved.workspace_bytes == found.workspace_bytes // 2
    assert facts.pools(0, 2).tactic_bytes > 0


def damage(rig: Rig, one: Block, data: bytes) -> None:
    """Put other bytes in the place of the plan, with checksums that fit."""
    entry = rig.backend._prepared.find(one.id)
    assert entry is not None
    about = (entry / "about.json").read_bytes()
    rig.backend._prepared.remove(one.id)

    def write(folder: Path) -> None:
        (folder / PLAN).write_bytes(data)
        (folder / "about.json").write_bytes(about)

    rig.backend._prepared.make(one.id, write)


@pytest.mark.parametrize("data", [b"", b"no plan", b"FAKE PLAN\n{}\n"])
def test_a_plan_that_tensorrt_refuses_is_removed_and_built_again(
    rig: Rig, tmp_path: Path, data: bytes
) -> None:
    one = dense(6, 4)
    rig.backend.prepare(one.id, one.write(tmp_path))
    damage(rig, one, data)
    with pytest.raises(DamagedCopy):
        load(rig, one, tmp_path)
    assert not rig.backend.is_prepared(one.id)
    load(rig, one, tmp_path)
    assert len(rig.orders) == 2


def test_a_plan_of_another_block_is_refused(rig: Rig, tmp_path: Path) -> None:
    one, other = dense(6, 4), dense(6, 5)
    for each in (one, other):
        rig.backend.prepare(each.id, each.write(tmp_path))
    entry = rig.backend._prepared.find(other.id)
    assert entry is not None
    damage(rig, one, (entry / PLAN).read_bytes())
    with pytest.raises(DamagedCopy, match="the engine has"):
        load(rig, one, tmp_path)


def overflowing() -> Block:
    """y0 = x0 w v, whose middle is beyond FP16."""
    big = numpy_helper.from_array(np.full((4, 4), 3e4, np.float32), "w")
    small = numpy_helper.from_array(np.full((4, 4), 1e-5, np.float32), "v")
    nodes = [
        helper.make_node("MatMul", ["x0", "w"], ["big"]),
        helper.make_node("MatMul", ["big", "v"], ["y0"]),
    ]
    w, v = np.full((4, 4), 3e4, np.float32), np.full((4, 4), 1e-5, np.float32)
    return block(nodes, [(4,)], [(4,)], lambda x0: [x0 @ w @ v], constants=[big, small])


def test_a_block_that_overflows_halves_is_served_in_floats_and_named(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = overflowing()
    with caplog.at_level(logging.WARNING, "edged.tensorrt"):
        load(rig, one, tmp_path)
    assert f"block {one.id[:12]} runs in FP32: parity: values overflow" in caplog.text
    given = inputs(one, 2)
    np.testing.assert_allclose(run(rig.backend, one, given)[0], one.twin(*given)[0], rtol=1e-5)


def test_an_engine_that_drifts_on_the_device_is_built_again_in_floats_and_named(
    rig: Rig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels that add up in FP16 are found on the device alone."""
    monkeypatch.setenv("FAKE_TENSORRT", '{"drift": true}')
    one = dense(6, 4)
    held = rig.backend.device_bytes()
    with caplog.at_level(logging.WARNING, "edged.tensorrt"):
        rig.backend.prepare(one.id, one.write(tmp_path))
    assert rig.backend.device_bytes() == held
    assert [order.precision for order in rig.orders] == ["fp16", "fp32"]
    assert f"block {one.id[:12]} runs in FP32: device: cosine" in caplog.text
    load(rig, one, tmp_path)
    given = inputs(one, 2)
    np.testing.assert_allclose(run(rig.backend, one, given)[0], one.twin(*given)[0], rtol=1e-5)


def test_memory_comes_back(rig: Rig, tmp_path: Path) -> None:
    engine, head = dense(64, 32), dense(32, 4, relu=False)
    for one in (engine, head):
        load(rig, one, tmp_path)
        rig.backend.unload(one.id)  # scratch and the engine of all heads stay
    before = rig.cuda.free_bytes(), rig.backend.device_bytes()
    used = [load(rig, one, tmp_path).bytes_used for one in (engine, head)]
    assert used[1] == taken_bytes(4 * (32 * 4 + 4))
    assert before[0] - rig.cuda.free_bytes() >= 4 * 64 * 32 // 2
    assert rig.backend.device_bytes().held_bytes - before[1].held_bytes == sum(used)
    for one in (engine, head):
        rig.backend.unload(one.id)
    assert (rig.cuda.free_bytes(), rig.backend.device_bytes()) == before


def test_more_rows_than_the_engine_takes_say_so(rig: Rig, tmp_path: Path) -> None:
    one = dense(6, 4)
    assert load(rig, one, tmp_path).max_rows == 16
    with pytest.raises(EdgedError, match=r"block .* failed: x0 cannot be \[17, 6\].*out of range"):
        run(rig.backend, one, inputs(one, 17))


@pytest.mark.parametrize(("number", "kind"), [(700, DeviceLost), (1, EdgedError)])
def test_a_run_that_is_not_begun_says_whether_the_device_is_lost(
    tmp_path: Path, number: int, kind: type[EdgedError]
) -> None:
    one = dense(6, 4)
    calls = Rig(tmp_path / "cache")
    load(calls, one, tmp_path)
    x, y = (
        calls.backend.memory.view(calls.backend.memory.allocate(64), 0, 2, tensor)
        for tensor in (one.use.reads[0], one.use.writes[0])
    )
    before = calls.cuda.calls
    calls.cuda.faults = Faults(fail_at=before + 2, number=number)  # the first one is `use`
    with pytest.raises(kind, match="was not begun: Cuda failure") as caught:
        calls.backend.run(one.id, [x], [y])
    assert type(caught.value) is kind


def test_a_type_that_engines_cannot_have_is_named(rig: Rig, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x0"], ["y0"])],
        "block",
        [helper.make_tensor_value_info("x0", TensorProto.DOUBLE, ["rows", 3])],
        [helper.make_tensor_value_info("y0", TensorProto.DOUBLE, ["rows", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    use = BlockUse((Tensor("FP64", (3,)),), (Tensor("FP64", (3,)),))
    one = Block(model.SerializeToString(), use, lambda x0: [-x0])
    with pytest.raises(Unsupported, match="x0 is DOUBLE"):
        load(rig, one, tmp_path)
    assert list((tmp_path / "cache").glob(".tmp-*")) == []


def test_a_build_can_be_stopped(rig: Rig, tmp_path: Path) -> None:
    one = dense(6, 4)
    with pytest.raises(Cancelled):
        rig.backend.prepare(one.id, one.write(tmp_path), lambda phase, done: False)
    assert not rig.backend.is_prepared(one.id)


def test_what_is_measured_of_kernels_is_kept_for_the_next_build(rig: Rig, tmp_path: Path) -> None:
    for seed in range(2):
        one = dense(6, 4, seed=seed)
        rig.backend.prepare(one.id, one.write(tmp_path))
    (file,) = (tmp_path / "cache").glob("*.timings")
    assert file.read_bytes() == b".."
    file.write_bytes(b"damaged")
    one = dense(6, 4, seed=2)
    rig.backend.prepare(one.id, one.write(tmp_path))
    assert file.read_bytes() == b"."


def test_versions() -> None:
    for version in VERSIONS:
        module.check_version(version)
    with pytest.raises(Unsupported, match=r"TensorRT 8\.6\.2 is too old: update JetPack"):
        module.check_version("8.6.2")


def test_an_unknown_version_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    module.check_version("12.0.1")
    assert "TensorRT 12.0.1: its API was not checked" in caplog.text


def test_where_there_is_no_tensorrt_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(Unsupported, match="apt install tensorrt"):
        module.find()
