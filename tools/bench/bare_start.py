"""A process that answers as a script would: it opens prepared blocks and runs models of them.

Started by tools.bench.start, which reads the two lines that it prints. Its imports are those of
the daemon's two processes, and it opens the same files. A model is a list of steps.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import cv2  # noqa: F401
import msgspec  # noqa: F401
import numpy as np
import onnxruntime as ort
import psutil  # noqa: F401
import xxhash  # noqa: F401
import zmq  # noqa: F401


def main() -> None:
    asked = json.loads(sys.stdin.read())
    options = ort.SessionOptions()
    options.intra_op_num_threads = asked["threads"]
    options.log_severity_level = 3  # errors
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # is done
    x = np.asarray(asked["x"], np.float32).reshape(asked["shape"])
    sessions: dict[str, ort.InferenceSession] = {}
    for model in asked["models"]:
        values = {model["input"]: x}
        for path, reads, writes in model["steps"]:
            if path not in sessions:
                sessions[path] = ort.InferenceSession(
                    path, options, providers=["CPUExecutionProvider"]
                )
            feeds = {f"x{index}": values[name] for index, name in enumerate(reads)}
            values.update(zip(writes, sessions[path].run(None, feeds), strict=True))
        print(json.dumps(values[model["output"]].ravel().tolist()), flush=True)


if __name__ == "__main__":
    main()
