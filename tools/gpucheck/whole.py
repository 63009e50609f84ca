"""A process with uncut models on the device, as they are served without edged. Prints JSON lines.

First it runs the largest batch of each model, says so, and waits for a line on its input, so that
its memory can be read. Then it measures forward passes, prints a `Whole`, and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import msgspec
import torch

from tools.bench.backbones import MODELS
from tools.gpucheck.findings import Point, Whole

_GROUPS_MAX = 50  # most groups of runs of one measurement
_GROUP = 20  # runs that a GPU is given at once: the host's calls do not count, as in a pipeline


class Device:
    """The device on which the models run, and how to wait for it."""

    def __init__(self, kind: str) -> None:
        self.torch = torch.device(kind)
        self.is_cuda = kind == "cuda"

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def own_stream(self) -> Iterator[None]:
        """A stream of our own: graphs cannot be recorded on the default one."""
        with torch.cuda.stream(torch.cuda.Stream()) if self.is_cuda else contextlib.nullcontext():
            yield

    def seconds(self, work: Callable[[], object], budget_s: float, *, alone: bool = False) -> float:
        """The median seconds of one run; `alone`: each one is waited for."""
        times_s: list[float] = []
        end_s = time.perf_counter() + budget_s
        runs = 1 if alone or not self.is_cuda else _GROUP
        work()
        self.wait()
        while not times_s or (time.perf_counter() < end_s and len(times_s) < _GROUPS_MAX):
            began_s = time.perf_counter()
            for _ in range(runs):
                work()
            self.wait()
            times_s.append((time.perf_counter() - began_s) / runs)
        return statistics.median(times_s)

    def begin(self) -> None:
        """Begin to use it: the libraries for products and convolutions take memory of their own."""
        square, image = (torch.ones(shape, device=self.torch) for shape in ((8, 8), (1, 1, 8, 8)))
        torch.nn.functional.conv2d(image, image)
        torch.mm(square, square)
        self.wait()


def point(module: torch.nn.Module, x: torch.Tensor, device: Device, budget_s: float) -> Point:
    """Measure forward passes of `x`."""
    with device.own_stream():
        eager_s = device.seconds(lambda: module(x), budget_s)
        graph_s = None
        if device.is_cuda:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                    module(x)
                graph_s = device.seconds(graph.replay, budget_s)
            except RuntimeError as error:
                print(f"no graph of {len(x)} rows: {error}", file=sys.stderr)
    return Point(len(x), eager_s * 1e3, None if graph_s is None else graph_s * 1e3)


def alone_per_s(
    modules: list[torch.nn.Module], x: torch.Tensor, device: Device, budget_s: float
) -> float:
    """The images a second, one at a time, with the models in turn."""
    turns = itertools.cycle(modules)
    return 1.0 / device.seconds(lambda: next(turns)(x), budget_s, alone=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--tasks", type=int, required=True, help="models; 0: nothing")
    parser.add_argument("--rows", type=int, nargs="+", required=True, help="batch sizes")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of each measurement")
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # The daemon does not allow it either.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = Device(args.device)
    modules: list[torch.nn.Module] = []
    example = torch.zeros(1, 1)
    with torch.inference_mode():
        device.begin()
        for number in range(args.tasks):
            module, example = MODELS[args.model](args.seed + number)
            modules.append(module.eval().to(device.torch))
        most = torch.rand(max(args.rows), *example.shape[1:]).to(device.torch)
        for module in modules:
            module(most)
        device.wait()
        print("resident", flush=True)
        sys.stdin.readline()
        if modules:
            curve = tuple(
                point(modules[0], most[:rows].contiguous(), device, args.seconds)
                for rows in args.rows
            )
            rate = alone_per_s(modules, most[:1].contiguous(), device, args.seconds)
            half = None
            if device.is_cuda:
                modules = [modules[0].half()]
                half = point(modules[0], most.half(), device, args.seconds)
            print(msgspec.json.encode(Whole(curve, rate, half)).decode(), flush=True)


if __name__ == "__main__":
    main()
