"""What a client asks the daemon besides inferences: one table for both clients.

A question is written once, as a method that makes an `Inquiry`. Called on `Client` it returns the
answer, called on `AsyncClient` it returns a coroutine of the answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from edged import wire
from edged.client.call import Call
from edged.client.results import reply_of

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H")


@dataclass(frozen=True, slots=True)
class Inquiry(Generic[R]):
    """A request that is no inference. `read` takes the answer from its ended call, or raises the
    error that the call ended with.
    """

    header: wire.RequestHeader
    read: Callable[[Call], R]


def whole(reply_type: type[H]) -> Callable[[Call], H]:
    """Read the header of the reply, which is of this type."""
    return functools.partial(_header, reply_type)


def _header(reply_type: type[H], call: Call) -> H:
    header = reply_of(call).header
    assert isinstance(header, reply_type), "this is a bug: the session lets no other reply pass"
    return header


class _Blocking(Protocol):
    def _ask(self, inquiry: Inquiry[R], /) -> R: ...


class _Awaited(Protocol):
    def _ask(self, inquiry: Inquiry[R], /) -> Coroutine[Any, Any, R]: ...


class question(Generic[P, R]):
    """Makes a method that returns an `Inquiry` the method that asks it."""

    def __init__(self, make: Callable[Concatenate[Any, P], Inquiry[R]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, client: None, owner: Any) -> Callable[..., Any]: ...

    @overload
    def __get__(self, client: _Blocking, owner: Any) -> Callable[P, R]: ...

    @overload
    def __get__(self, client: _Awaited, owner: Any) -> Callable[P, Coroutine[Any, Any, R]]: ...

    def __get__(self, client: Any, owner: Any) -> Any:
        if client is None:  # `Client.ping`, which takes the client first

            @functools.wraps(self._make)
            def asked_of(of: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
                return of._ask(self._make(of, *args, **kwargs))

            return asked_of

        @functools.wraps(self._make)
        def asked(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client._ask(self._make(client, *args, **kwargs))

        return asked


class Questions:
    """The questions, as methods of both clients."""

    def _next_id(self) -> str:
        raise NotImplementedError

    @question
    def live(self) -> Inquiry[bool]:
        """Whether the daemon's front answers."""
        return Inquiry(
            wire.ServerLive(self._next_id()), lambda call: _header(wire.LiveReply, call).live
        )

    @question
    def ready(self) -> Inquiry[wire.ReadyReply]:
        """Whether the daemon takes requests, and if not, why."""
        return Inquiry(wire.ServerReady(self._next_id()), whole(wire.ReadyReply))

    @question
    def metadata(self) -> Inquiry[wire.ServerMetadataReply]:
        """The daemon's version, extensions and limits."""
        return Inquiry(wire.ServerMetadata(self._next_id()), whole(wire.ServerMetadataReply))

    @question
    def models(self, *, ready: bool = False) -> Inquiry[tuple[wire.ModelIndex, ...]]:
        """The models of the repository; with `ready` only those that can be used now."""
        return Inquiry(
            wire.RepositoryIndex(self._next_id(), ready),
            lambda call: _header(wire.RepositoryIndexReply, call).models,
        )

    @question
    def model(self, name: str) -> Inquiry[wire.ModelMetadataReply]:
        """The inputs, outputs and labels of a model, or of a task's default model."""
        return Inquiry(wire.ModelMetadata(self._next_id(), name), whole(wire.ModelMetadataReply))

    @question
    def model_ready(self, name: str) -> Inquiry[wire.ModelReadyReply]:
        """Whether a model, or a task's default model, can be used now."""
        return Inquiry(wire.ModelReady(self._next_id(), name), whole(wire.ModelReadyReply))

    @question
    def statistics(self) -> Inquiry[wire.StatisticsReply]:
        """Counts and times since the daemon started."""
        return Inquiry(wire.StatisticsQuery(self._next_id()), whole(wire.StatisticsReply))

    @question
    def ping(self) -> Inquiry[float]:
        """Seconds to the daemon's front and back."""
        return Inquiry(wire.Ping(self._next_id()), _round_trip_s)


def _round_trip_s(call: Call) -> float:
    _header(wire.PingReply, call)
    return call.ended_s - call.began_s
