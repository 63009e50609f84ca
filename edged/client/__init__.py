"""Clients of a daemon: `Client` blocks; `edged.client.aio.AsyncClient` is its asyncio twin."""

from edged.client.call import Retry
from edged.client.requests import Image, Inputs, Options, Tasks
from edged.client.results import Result, TaskResult
from edged.client.sync import Client, Pending

__all__ = [
    "Client",
    "Image",
    "Inputs",
    "Options",
    "Pending",
    "Result",
    "Retry",
    "TaskResult",
    "Tasks",
]
