"""From a strongly typed ONNX graph to a plan: the calls of TensorRT's builder, of 10.3 to 11.4.

Knows no blocks, no files and no processes. The same calls drive TensorRT-RTX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from edged.backends.tensorrt.log import Lines, logger
from edged.backends.tensorrt.orders import Pools
from edged.errors import Cancelled, EdgedError, Unsupported

Shape: TypeAlias = "tuple[int, ...]"
Range: TypeAlias = "tuple[Shape, Shape, Shape]"  # least, usual and most
Report: TypeAlias = "Callable[[str, float], bool]"  # phase and share that is done; go on?


class BuildFailed(EdgedError):
    """TensorRT gave no plan. Less memory may mend it."""


def build(
    trt: Any,
    model: bytes,
    ranges: Mapping[str, Range],
    pools: Pools,
    timing_cache: bytes,
    report: Report,
) -> tuple[memoryview, bytes]:
    """The plan, and the timing cache to keep.

    `ranges`: of the inputs with extents that vary. Raises Unsupported if TensorRT cannot read the
    graph, Cancelled where `report` says so, BuildFailed otherwise.
    """
    lines = Lines()
    say = logger(trt, lines)
    builder = trt.Builder(say)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, say)
    if not parser.parse(model):
        raise Unsupported(f"TensorRT {trt.__version__} cannot read it: {_why(parser, lines)}")
    monitor = _monitor(trt, report)
    config = _config(trt, builder, pools, timing_cache)
    config.progress_monitor = monitor
    if ranges:
        profile = builder.create_optimization_profile()
        for name, (least, usual, most) in ranges.items():
            profile.set_shape(name, least, usual, most)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if monitor.is_cancelled:
            raise Cancelled("the build was cancelled")
        raise BuildFailed(f"TensorRT {trt.__version__}: {lines.last('it gives no reason')}")
    cache = config.get_timing_cache()
    return memoryview(plan), b"" if cache is None else bytes(memoryview(cache.serialize()))


def _why(parser: Any, lines: Lines) -> str:
    """The first error of the parser: the operator, and what is wrong with it."""
    if not parser.num_errors:
        return lines.last("it gives no reason")
    error = parser.get_error(0)
    said = " ".join(f"{error.node_operator()}: {error.desc()}".split())
    return f"{said[:300]} ({lines.last('no more is said')})"


def _config(trt: Any, builder: Any, pools: Pools, timing_cache: bytes) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, pools.workspace_bytes)
    config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, pools.tactic_bytes)
    config.builder_optimization_level = pools.level
    config.max_aux_streams = 0  # blocks run in one stream; more would take scratch for each
    config.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    config.clear_flag(trt.BuilderFlag.TF32)  # what stays FP32 stays all of it
    # A cache of another TensorRT or GPU is refused; then an empty one is filled.
    if not config.set_timing_cache(config.create_timing_cache(timing_cache), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return config


def _monitor(trt: Any, report: Report) -> Any:
    """An IProgressMonitor that reports how much of the outermost phase is done."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.is_cancelled = False
            self._phases = Phases()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            self._phases.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._phases.step(phase_name, step)
            goes_on = report(phase_name, self._phases.done)
            self.is_cancelled |= not goes_on
            return goes_on

    return Monitor()


class Phases:
    """Phases inside phases, as a share of the outermost ones that never shrinks."""

    def __init__(self) -> None:
        self._phases: dict[str, list[Any]] = {}  # parent, steps in all, steps that are done
        self._done = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self._phases[name] = [parent, max(1, steps), 0]

    def step(self, name: str, step: int) -> None:
        if name in self._phases:
            self._phases[name][2] = step + 1

    def finish(self, name: str) -> None:
        self._phases.pop(name, None)

    @property
    def done(self) -> float:
        roots = [name for name, (parent, *_) in self._phases.items() if parent not in self._phases]
        if roots:
            self._done = max(self._done, min(1.0, self._share(roots[0], set())))
        return self._done

    def _share(self, name: str, seen: set[str]) -> float:
        _, steps, done = self._phases[name]
        inner = [
            self._share(other, seen | {name})
            for other, (parent, *_) in self._phases.items()
            if parent == name and other not in seen
        ]
        share: float = (done + max(inner, default=0.0)) / steps
        return share
