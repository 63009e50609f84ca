from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edged import backends
from edged.backends.base import Backend, BlockUse, DeviceLost
from edged.backends.prepared import DamagedCopy
from edged.errors import ConfigError, EdgedError, ResourceExhausted, StoreError, Unsupported
from edged.paths.layout import Tensor
from tests.backends.blocks import Block, dense, sum_of_image

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def backend(cache: Path) -> Iterator[Backend]:
    made = backends.create("onnxruntime", {}, threads=1, cache_dir=cache)
    yield made
    made.close()


def load(backend: Backend, block: Block, folder: Path):
    return backend.load(block.id, block.write(folder), [block.use])


def run(backend: Backend, block: Block, *inputs: np.ndarray) -> list[np.ndarray]:
    found = [np.empty((len(inputs[0]), *t.shape), np.float32) for t in block.use.writes]
    backend.run(block.id, inputs, found)
    return found


def test_a_prepared_block_is_used_without_its_file(
    backend: Backend, cache: Path, tmp_path: Path
) -> None:
    block = dense(64, 100)
    path = block.write(tmp_path)
    assert not backend.is_prepared(block.id)
    backend.load(block.id, path, [block.use])
    assert backend.is_prepared(block.id)
    given = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    expected = run(backend, block, given)[0]
    path.write_bytes(b"not a model any more")
    again = backends.create("onnxruntime", {}, threads=1, cache_dir=cache)
    again.load(block.id, path, [block.use])
    np.testing.assert_array_equal(run(again, block, given)[0], expected)


def test_preparing_leaves_no_litter(backend: Backend, cache: Path, tmp_path: Path) -> None:
    block = dense(64, 100)
    load(backend, block, tmp_path)
    broken = Block(b"no model", block.use, block.twin)
    with pytest.raises(StoreError, match="does not load in onnxruntime"):
        load(backend, broken, tmp_path)
    entries = sorted(entry.name[:64] for entry in cache.iterdir())
    assert entries == sorted([block.id, "equals"])


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", ["model.onnx", "weights-0", "checksums.json"])
def test_a_damaged_prepared_copy_is_removed_and_said(
    backend: Backend, cache: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    block = dense(64, 100)
    load(backend, block, tmp_path)
    backend.unload(block.id)
    (file,) = cache.glob(f"{block.id}*/{name}")
    damage(file)
    with pytest.raises(DamagedCopy, match=r"was damaged .* prepared anew"):
        load(backend, block, tmp_path)
    load(backend, block, tmp_path)
    given = np.ones((1, 64), np.float32)
    np.testing.assert_allclose(run(backend, block, given)[0], block.twin(given)[0], rtol=1e-4)


def test_old_prepared_copies_are_removed(backend: Backend, cache: Path, tmp_path: Path) -> None:
    for block in (old := dense(6, 4, seed=1), new := dense(6, 4, seed=2)):
        load(backend, block, tmp_path)
    backend.unload(old.id)
    (entry,) = cache.glob(f"{old.id}*")
    os.utime(entry, (0, 0))
    again = backends.create("onnxruntime", {}, threads=1, cache_dir=cache)
    assert (again.is_prepared(old.id), again.is_prepared(new.id)) == (False, True)


def test_packed_weights_are_an_option_that_costs_disk_and_a_peak(
    backend: Backend, cache: Path, tmp_path: Path
) -> None:
    block = dense(256, 256)
    packing = backends.create("onnxruntime", {"pack": True}, threads=1, cache_dir=cache)
    plain, packed = load(backend, block, tmp_path), load(packing, block, tmp_path)
    assert plain.extra_bytes == 0 < packed.extra_bytes
    sizes = sorted(file.stat().st_size for file in cache.glob(f"{block.id}*/weights*"))
    assert sizes[0] < 1.1 * 256 * 256 * 4 < 1.9 * 256 * 256 * 4 < sizes[1]
    given = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
    np.testing.assert_allclose(
        run(packing, block, given)[0], run(backend, block, given)[0], rtol=1e-4, atol=1e-4
    )


def mapped_pss_bytes(folder: Path) -> int:
    """What mappings of the folder's files take of this process's memory."""
    total_kb, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            counts = f"{folder}/" in line
        elif counts and line.startswith("Pss:"):
            total_kb += int(line.split()[1])
    return 1024 * total_kb


@pytest.mark.parametrize("lanes", [1, 2])
def test_blocks_with_equal_weights_take_their_memory_once(
    cache: Path, tmp_path: Path, lanes: int
) -> None:
    """One network at two sizes, as far as a backend sees it: other graphs, the same weights."""
    options = {"lanes": lanes}
    backend = backends.create("onnxruntime", options, threads=lanes, cache_dir=cache)
    one, two = dense(512, 512), dense(512, 512, relu=False)
    weight_bytes = 4 * 512 * 512
    first = load(backend, one, tmp_path)
    most_bytes = 1.02 * weight_bytes  # the kernel rounds the share of each mapping
    assert 0.98 * weight_bytes < mapped_pss_bytes(cache) < most_bytes
    second = load(backend, two, tmp_path)
    assert mapped_pss_bytes(cache) < most_bytes
    assert first.shared == second.shared
    assert sum(first.shared.values()) == weight_bytes
    on_disk = {file.stat().st_ino: file.stat().st_size for file in cache.glob("*/*")}
    assert sum(on_disk.values()) < 1.02 * weight_bytes
    backend.unload(one.id)
    given = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    np.testing.assert_allclose(run(backend, two, given)[0], two.twin(given)[0], rtol=1e-3)
    assert mapped_pss_bytes(cache) < most_bytes
    backend.unload(two.id)
    assert mapped_pss_bytes(cache) == 0


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    backend = backends.create("onnxruntime", {}, threads=1, cache_dir=tmp_path / "file")
    with pytest.raises(ConfigError, match=r"set device\.cache_dir"):
        load(backend, dense(6, 4), tmp_path)


def new_threads(before: set[int]) -> list[int]:
    return [thread for name in os.listdir("/proc/self/task") if (thread := int(name)) not in before]


def test_threads_of_a_pool_stay_clear_of_the_one_that_waits_for_them(
    cache: Path, tmp_path: Path
) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("there is one processor, so there is no pool")
    backend = backends.create("onnxruntime", {}, threads=2, cache_dir=cache)
    before = set(map(int, os.listdir("/proc/self/task")))
    load(backend, dense(2048, 2048), tmp_path)
    assert [os.sched_getaffinity(thread) for thread in new_threads(before)] == [{allowed[1]}]


def test_more_threads_than_processors_are_let_go_where_they_like(
    cache: Path, tmp_path: Path
) -> None:
    allowed = os.sched_getaffinity(0)
    backend = backends.create("onnxruntime", {}, threads=len(allowed) + 1, cache_dir=cache)
    before = set(map(int, os.listdir("/proc/self/task")))
    load(backend, dense(2048, 2048), tmp_path)
    places = [os.sched_getaffinity(thread) for thread in new_threads(before)]
    assert places == [allowed] * len(allowed)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_is_said(provider: str, tmp_path: Path) -> None:
    import onnxruntime

    if any(provider in name.lower() for name in onnxruntime.get_available_providers()):
        pytest.skip(f"this onnxruntime has {provider}")
    with pytest.raises(Unsupported, match="install a build for this device"):
        backends.create("onnxruntime", {"provider": provider}, threads=1, cache_dir=tmp_path)


TWO_POOLS = """
import sys
from pathlib import Path
from edged import backends
from edged.errors import ConfigError
for threads in (2, 2, 3):
    backends.create("onnxruntime", {"lanes": 1}, threads=threads, cache_dir=Path(sys.argv[1]))
"""


def test_one_process_has_one_number_of_threads(cache: Path) -> None:
    """The test needs a process of its own, which keeps its thread pool until it ends."""
    run = subprocess.run(
        [sys.executable, "-c", TWO_POOLS, str(cache)], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert "ConfigError: this process already runs onnxruntime with another" in run.stderr
    assert "threads than 3" in run.stderr


def test_a_block_that_is_used_at_two_sizes(backend: Backend, tmp_path: Path) -> None:
    """An old binding is not taken for arrays of another shape at the same addresses."""
    image_sum = sum_of_image()
    uses = [BlockUse((Tensor("FP32", (n, n)),), (Tensor("FP32", ()),)) for n in (2, 3)]
    backend.load(image_sum.id, image_sum.write(tmp_path), uses)
    memory, out = np.ones(9, np.float32), np.empty(1, np.float32)
    for _ in range(2):
        for size in (3, 2):
            backend.run(image_sum.id, [memory[: size**2].reshape(1, size, size)], [out])
            assert out == size**2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLost),
        ("CUDA failure 719: unspecified launch failure ; GPU=0 ; expr=cudaDeviceSync", DeviceLost),
        ("CUDA failure 2: out of memory ; GPU=0", ResourceExhausted),
        ("CUDA failure 98: invalid device function ; GPU=0", EdgedError),
    ],
)
def test_errors_of_a_gpu_are_told_apart(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: type
) -> None:
    """Only the text of onnxruntime's errors says what CUDA did."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"Non-zero status code returned while running Conv node. {text}")

    block = dense(6, 4)
    load(backend, block, tmp_path)
    given = np.ones((1, 6), np.float32)
    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", fail)
    with pytest.raises(EdgedError) as run_error:
        run(backend, block, given)
    assert type(run_error.value) is kind
    backend.unload(block.id)
    monkeypatch.setattr(ort, "InferenceSession", fail)
    monkeypatch.setattr(backend, "_prepared", None)  # as on a GPU
    if kind is not EdgedError:
        with pytest.raises(kind):
            load(backend, block, tmp_path)
