"""A process that serves models the usual way, one ONNX Runtime session each; prints what it takes.

Started by tools.bench.memory, with nothing imported that serving does not need.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import onnxruntime as ort
import psutil


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="ONNX files")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument(
        "--one-arena", action="store_true", help="for all sessions, instead of one each"
    )
    args = parser.parse_args()
    options = ort.SessionOptions()
    if args.one_arena:
        ort.set_global_thread_pool_sizes(args.threads, 1)
        cpu = ort.OrtMemoryInfo(
            "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
        )
        ort.create_and_register_allocator(cpu, None)
        options.use_per_session_threads = False
        options.add_session_config_entry("session.use_env_allocators", "1")
    else:
        options.intra_op_num_threads = args.threads
    sessions = [
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for path in args.models
    ]
    random = np.random.default_rng(args.seed)
    for _ in range(args.rounds):
        for session in sessions:
            (taken,) = session.get_inputs()
            session.run(
                None, {taken.name: random.random((args.rows, *taken.shape[1:]), dtype=np.float32)}
            )
    print(json.dumps({"pss_bytes": psutil.Process().memory_full_info().pss}))


if __name__ == "__main__":
    main()
