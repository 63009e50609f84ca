"""What `import tensorrt` finds in processes of tests: the fake, with an emulated CUDA device."""

import sys

from edged.backends.tensorrt import backend
from edged.cuda.emulated import EmulatedCuda
from tests.backends.fake_tensorrt import VERSIONS, tensorrt

_cuda = EmulatedCuda(memory_bytes=256 << 20)
backend.CudaRuntime = lambda device_id: _cuda  # type: ignore[assignment, misc]
sys.modules[__name__] = tensorrt(VERSIONS[-1], _cuda)
