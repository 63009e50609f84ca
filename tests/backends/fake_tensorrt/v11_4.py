"""The fake of TensorRT 11.4.0.106, as a process that builds imports it."""

import sys

from tests.backends.fake_tensorrt import tensorrt

sys.modules[__name__] = tensorrt("11.4.0.106")
