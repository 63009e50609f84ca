"""A field device of the grants benchmark: uploads one image at a set time and prints its times.

python -m tools.bench.uploader ENDPOINT SIDE START_S [announce]: START_S is a time of
CLOCK_MONOTONIC, which all namespaces of a machine share.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from edged.client import Client


def main(endpoint: str, side: int, start_s: float, announce: bool) -> None:
    image = np.zeros((side, side, 3), np.uint8)
    with Client(endpoint, timeout_s=60.0) as client:
        print("connected", flush=True)
        time.sleep(max(0.0, start_s - time.monotonic()))
        began_s = time.monotonic()
        client.infer(image, "a", announce=announce)
        ended_s = time.monotonic()
    print(json.dumps({"began_s": began_s, "ended_s": ended_s, "bytes": image.nbytes}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), "announce" in sys.argv[4:])
