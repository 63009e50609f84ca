"""The fake of TensorRT 10.3.0, as a process that builds imports it."""

import sys

from tests.backends.fake_tensorrt import tensorrt

sys.modules[__name__] = tensorrt("10.3.0")
