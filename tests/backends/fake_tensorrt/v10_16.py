"""The fake of TensorRT 10.16.1.11, as a process that builds imports it."""

import sys

from tests.backends.fake_tensorrt import tensorrt

sys.modules[__name__] = tensorrt("10.16.1.11")
