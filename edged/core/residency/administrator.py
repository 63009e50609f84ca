"""What an administrator asks of the device's memory: load, unload and pin models.

Each ask is settled once: when it has come about, or with why it cannot. Moves no blocks itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from edged.core.events import LoadAsked, PinAsked, Settled, UnloadAsked
from edged.core.residency.memory import DeviceMemory
from edged.errors import Code


@dataclass(frozen=True, slots=True)
class _Open:
    """An ask that takes time."""

    ask: int
    model: str
    loads: bool  # else it unloads


class Asks:
    """Owns the asks that are not settled."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._open: dict[int, _Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    def load(self, event: LoadAsked) -> list[Settled]:
        return self._load(event.ask, event.model)

    def pin(self, event: PinAsked) -> list[Settled]:
        memory = self._memory
        if event.pinned:
            settled = self._load(event.ask, event.model, pin=True)
        elif event.model in memory.residency.models:
            memory.wanted.pinned.discard(event.model)
            settled = [Settled(event.ask)]
        else:
            settled = [_unknown(event.ask, event.model)]
        return settled

    def unload(self, event: UnloadAsked) -> list[Settled]:
        memory, model = self._memory, event.model
        if model not in memory.residency.models:
            return [_unknown(event.ask, model)]
        settled = self._cancel(model, loads=True)
        memory.wanted.wished.pop(model, None)
        memory.wanted.pinned.discard(model)
        memory.wanted.serve(retired=memory.wanted.retired | {model})
        self._open[event.ask] = _Open(event.ask, model, loads=False)
        return settled

    def settle(self, now: float) -> list[Settled]:
        """What has come about, or cannot any more."""
        settled = []
        for open_ask in list(self._open.values()):
            outcome = self._outcome(open_ask, now)
            if outcome is not None:
                del self._open[open_ask.ask]
                settled.append(outcome)
        return settled

    def give_up(self, code: Code, message: str) -> list[Settled]:
        """Settle all of them so."""
        given_up = [Settled(ask, code, message) for ask in self._open]
        self._open.clear()
        return given_up

    def _load(self, ask: int, model: str, *, pin: bool = False) -> list[Settled]:
        memory = self._memory
        need = memory.residency.models.get(model)
        if need is None or model in memory.residency.vanished:
            return [_unknown(ask, model)]
        settled = self._cancel(model, loads=False)
        memory.wanted.serve(retired=memory.wanted.retired - {model})
        lacking = memory.lacking(need)
        if pin and (lacking is None or lacking.code is Code.UNAVAILABLE):
            memory.wanted.pinned.add(model)  # it stays so whatever the answer is: see PinAsked
        if lacking is not None:
            return [*settled, Settled(ask, *lacking)]
        memory.wanted.wish(need)
        self._open[ask] = _Open(ask, model, loads=True)
        return settled

    def _cancel(self, model: str, *, loads: bool) -> list[Settled]:
        """Settle the opposite asks for a model."""
        ended = [o.ask for o in self._open.values() if o.model == model and o.loads is loads]
        for ask in ended:
            del self._open[ask]
        word = "unloaded" if loads else "loaded"
        text = f"model {model!r} was asked to be {word} meanwhile"
        return [Settled(ask, Code.CANCELLED, text) for ask in ended]

    def _outcome(self, ask: _Open, now: float) -> Settled | None:
        memory = self._memory
        if not ask.loads and ask.model in memory.wanted.served:
            text = f"model {ask.model!r} has come back with a new library meanwhile"
            return Settled(ask.ask, Code.CANCELLED, text)
        if not ask.loads:
            return Settled(ask.ask) if memory.wanted.is_gone(ask.model) else None
        need = memory.residency.models.get(ask.model)
        if need is None or ask.model in memory.residency.vanished:
            return _unknown(ask.ask, ask.model)
        if not need.missing:
            return Settled(ask.ask)
        verdict = memory.verdict(need, now)
        if verdict is None:
            return None
        memory.wanted.wished.pop(ask.model, None)
        return Settled(ask.ask, *verdict)


def _unknown(ask: int, model: str) -> Settled:
    return Settled(ask, Code.NOT_FOUND, f"there is no model {model!r}; see edged models")
