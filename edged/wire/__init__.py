"""The wire protocol (docs/protocol.md): messages, and their form as frames. Pure.

`from edged import wire` gives every public name of the modules here, as `wire.Infer`.
"""

# ruff: noqa: F403
from edged.wire.admin import *
from edged.wire.base import *
from edged.wire.codec import *
from edged.wire.headers import *
from edged.wire.operations import *
from edged.wire.replies import *
from edged.wire.requests import *
