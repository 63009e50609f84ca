"""The fake refuses what the recorded version would refuse."""

from __future__ import annotations

import pytest

from tests.backends.fake_tensorrt import VERSIONS, Misuse, tensorrt
from tests.backends.fake_tensorrt.recorded import make

OLD, NEW = VERSIONS[0], VERSIONS[-1]


def context(version: str):
    return make(tensorrt(version), "IExecutionContext", _engine=None, _extents={}, _addresses={})


def engine(version: str):
    return make(tensorrt(version), "ICudaEngine")


def misuse(wrong) -> str:
    with pytest.raises(Misuse) as caught:
        wrong()
    return str(caught.value)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_version_has_can_be_called(version: str) -> None:
    trt, of = tensorrt(version), context(version)
    assert trt.__version__ == version
    of.set_device_memory(4096, 10)
    assert of.set_tensor_address("x0", 4096) is True
    assert 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) in (1, 2)
    assert trt.ILogger.ERROR is trt.ILogger.Severity.ERROR


def test_what_a_version_lacks_is_refused() -> None:
    assert "has no device_memory_size" in misuse(lambda: engine(NEW).device_memory_size)
    assert "has no get_engine_stat" in misuse(lambda: engine(OLD).get_engine_stat)
    assert "BuilderFlag has no FP16" in misuse(lambda: tensorrt(NEW).BuilderFlag.FP16)
    assert tensorrt(OLD).BuilderFlag.FP16
    assert "has no Nonsense" in misuse(lambda: tensorrt(OLD).Nonsense)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_call_that_fits_no_overload_is_refused(version: str) -> None:
    of, trt = context(version), tensorrt(version)
    assert "fits none of" in misuse(lambda: of.set_device_memory(1))
    assert "fits none of" in misuse(lambda: of.set_tensor_address(b"x0", 1))
    assert "fits none of" in misuse(lambda: of.set_input_shape("x0", "1, 2"))
    assert "fits none of" in misuse(lambda: trt.Builder("no logger"))
    assert "fits none of" in misuse(trt.ICudaEngine)


def test_what_cannot_be_set_is_refused() -> None:
    def number() -> None:
        engine(OLD).num_io_tensors = 3

    def invented() -> None:
        engine(OLD).invented = 3

    assert "cannot be set" in misuse(number)
    assert "there is none" in misuse(invented)


def test_a_subclass_has_to_call_the_init_of_its_base() -> None:
    trt = tensorrt(NEW)

    class Silent(trt.ILogger):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def log(self, severity, msg) -> None:
            self.lines.append(msg)

    assert "must be called" in misuse(lambda: trt.Runtime(Silent()))
