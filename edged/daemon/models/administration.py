"""What administrators can have done: load, unload, pin and unpin models, and reload the store.

A reload brings new versions in beside the old ones, has them loaded, and only then serves them;
versions that are not served any more leave when their last request is answered. If any of it fails,
everything is served as before. Knows no sockets and no files: a host carries out what is decided.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from edged.core.events import LoadAsked, PinAsked, Settled, UnloadAsked
from edged.daemon.models.catalog import Catalog
from edged.daemon.models.held_store import Contents
from edged.daemon.models.instructions import Instructions, Wish
from edged.daemon.models.versions import Change, Versions
from edged.device.failures import typed
from edged.errors import Code, EdgedError, NotFound, StoreError, Unavailable, from_code
from edged.link import messages as link

log = logging.getLogger("edged")

Ask: TypeAlias = "Callable[[int], LoadAsked | UnloadAsked | PinAsked]"
"""What to ask of the scheduler, given a number for it."""

Done: TypeAlias = "Callable[[EdgedError | None, float], None]"
"""Called once when it is done (None), or with why it is not; and when."""

Reloaded: TypeAlias = "Callable[[Change | EdgedError, float], None]"


class Shelf(Protocol):
    """Where the models are; see edged.daemon.models.held_store."""

    def read(self) -> Contents: ...

    def keep(self, blocks: Collection[str]) -> None: ...


class Host(Protocol):
    """Carries out what is decided here."""

    @property
    def device_is_up(self) -> bool: ...

    def ask(self, event: LoadAsked | UnloadAsked | PinAsked, now: float) -> None:
        """Put it to the scheduler, which answers with Settled, perhaps at once."""

    def order(self, message: link.Define | link.Forget) -> None:
        """Send it to the worker."""

    def tell_versions(self, now: float) -> None:
        """Let the scheduler know of the versions that there are."""

    def is_in_use(self, key: str) -> bool:
        """Whether a request that was accepted for this version is not answered yet."""

    def failing_models(self) -> Collection[str]:
        """Keys of served versions that could not be loaded when it was tried last."""

    def serve(self, catalog: Catalog) -> None:
        """Take new requests for these models."""


@dataclass(slots=True, eq=False)
class _Reload:
    change: Change
    done: list[Reloaded]
    asked: dict[str, Wish] = field(default_factory=dict)  # what was asked for each new key
    defined: bool = False
    open_asks: int = 0


class Administration:
    """Owns the versions, what administrators want of each model, and the reload under way."""

    def __init__(
        self, versions: Versions, shelf: Shelf, instructions: Instructions, host: Host
    ) -> None:
        self.versions = versions
        self._instructions = instructions
        self._shelf = shelf
        self._host = host
        self._last_ask = 0
        self._asks: dict[int, Done] = {}
        self._reload: _Reload | None = None
        self._next_reload: list[Reloaded] = []
        self._lingering: list[str] = []  # versions off the device that requests still wait for

    @property
    def pinned(self) -> Collection[str]:
        """Names of the models that are to stay."""
        return self._instructions.pinned

    @property
    def unloaded(self) -> Collection[str]:
        """Names of the models that an administrator has unloaded."""
        return self._instructions.unloaded

    def recall(self, now: float) -> None:
        """Ask the scheduler for what administrators said before this start."""
        served, instructions = self.versions.served, self._instructions
        for name in sorted(instructions.unloaded & served.keys()):
            self._ask(functools.partial(_unload, served[name]), _ignore, now)
        for name in sorted(instructions.pinned_by_administrators & served.keys()):
            recalled = functools.partial(self._on_recalled, name)
            self._ask(functools.partial(_pin, served[name]), recalled, now)

    def _on_recalled(self, name: str, error: EdgedError | None, now: float) -> None:
        """A model that has only failed to come stays pinned: the scheduler goes on trying."""
        if error is None or name not in self._instructions.pinned_by_administrators:
            return  # it is pinned, or an administrator has changed it meanwhile
        never_fits = error.code is Code.RESOURCE_EXHAUSTED
        log.warning(
            "model %s is not %s, though an administrator pinned it: %s",
            name, "pinned" if never_fits else "on the device yet", error,
            extra={"model": name},
        )  # fmt: skip
        if not never_fits:
            return
        self._instructions.skip_pin(name)
        if name in self.versions.served:
            self._ask(functools.partial(_unpin, self.versions.served[name]), _ignore, now)

    # --- one model ------------------------------------------------------------------------------

    def load(self, name: str, done: Done, now: float) -> None:
        """Raises NotFound, as the other three."""
        key = self._key(name)
        self._instructions.load(name)
        self._ask(functools.partial(_load, key), done, now)

    def unload(self, name: str, done: Done, now: float) -> None:
        key = self._key(name)
        self._instructions.unload(name)
        self._ask(functools.partial(_unload, key), done, now)

    def pin(self, name: str, done: Done, now: float) -> None:
        key = self._key(name)

        def pinned(error: EdgedError | None, now: float) -> None:
            if error is None:
                self._instructions.pin(name)
            elif name not in self.pinned:
                self._ask(functools.partial(_unpin, key), _ignore, now)
            done(error, now)

        self._instructions.load(name)
        self._ask(functools.partial(_pin, key), pinned, now)

    def unpin(self, name: str, done: Done, now: float) -> None:
        key = self._key(name)
        self._instructions.unpin(name)
        self._ask(functools.partial(_unpin, key), done, now)

    def settled(self, event: Settled, now: float) -> None:
        """The scheduler has answered."""
        self._asks.pop(event.ask)(_error(event), now)

    # --- reload ---------------------------------------------------------------------------------

    def reload(self, done: Reloaded, now: float) -> None:
        """Serve what the store holds now; after the reload that is under way, if one is."""
        self._next_reload.append(done)
        self.try_reload(now)

    def try_reload(self, now: float) -> None:
        """Begin what waits for the device to be up, or for another reload."""
        if self._reload is not None or not self._next_reload or not self._host.device_is_up:
            return
        done, self._next_reload = self._next_reload, []
        try:
            change = self._read()
        except Exception as caught:  # any error is one of the new contents: the old ones are served
            error = typed(caught, "the store could not be read")
            self._keep_blocks()
            log.error("reload failed, all is served as before: %s", error)
            for tell in done:
                tell(error, now)
            return
        for key in self._host.failing_models():
            if not self._instructions.wish(self.versions.models[key].name).unloaded:
                self._ask(functools.partial(_load, key), _ignore, now)  # it may have been mended
        reload = self._reload = _Reload(change, done)
        if reload.change.new:
            self._host.order(link.Define(tuple(reload.change.new.items())))
        else:
            self._switch(reload, now)

    def _read(self) -> Change:
        """What the store would change. Raises, when it cannot be served as a whole."""
        contents = self._shelf.read()
        change = self.versions.compare(contents)
        Catalog(contents.models, contents.block_bytes, change.keys, contents.unusable)
        return change

    def defined(self, now: float) -> None:
        """The worker knows the new versions: have them loaded."""
        reload = self._reload
        if reload is None:
            return  # it was given up meanwhile, which only the end of the daemon does
        reload.defined = True
        self.versions.bring_in(reload.change)
        self._host.tell_versions(now)
        reload.open_asks = len(reload.change.new)
        for key, manifest in reload.change.new.items():
            if reload is not self._reload:
                return  # one of those before has failed at once
            wish = reload.asked[key] = self._instructions.wish(manifest.name)
            done = functools.partial(self._on_new, reload)
            self._ask(functools.partial(_EVENTS[wish], key), done, now)

    def define_failed(self, error: EdgedError, now: float) -> None:
        """The worker cannot: all stays as it is."""
        if self._reload is not None:
            self._give_up(self._reload, error, now)

    def on_worker_lost(self, reason: str, now: float) -> None:
        """A worker that is started next knows all versions but those that were being defined."""
        if self._reload is not None and not self._reload.defined:
            error = Unavailable(f"the device worker ended while it prepared new models: {reason}")
            self._give_up(self._reload, error, now)

    def on_drain(self, now: float) -> None:
        """Nothing changes any more."""
        error = Unavailable("the daemon is shutting down")
        waiting, self._next_reload = self._next_reload, []
        for tell in waiting:
            tell(error, now)
        if self._reload is not None:
            self._give_up(self._reload, error, now)

    def on_sweep(self, now: float) -> None:
        """Forget versions whose last request has been answered meanwhile; called now and then."""
        lingering, self._lingering = self._lingering, []
        for key in lingering:
            self._forget(key, None, now)

    def _on_new(self, reload: _Reload, error: EdgedError | None, now: float) -> None:
        if reload is not self._reload:
            return  # it has failed already
        reload.open_asks -= 1
        if error is not None:
            self._give_up(reload, error, now)
        elif not reload.open_asks:
            self._switch(reload, now)

    def _switch(self, reload: _Reload, now: float) -> None:
        """Give the new versions to all requests that arrive from now on."""
        change = reload.change
        gone = self.versions.switch(change)
        self._instructions.forget(change.removed)
        self._host.serve(self.versions.catalog())
        log.info(
            "reloaded: %d models added, %d changed, %d removed",
            len(change.added), len(change.changed), len(change.removed),
        )  # fmt: skip
        for key, asked in reload.asked.items():
            wish = self._instructions.wish(self.versions.models[key].name)
            if wish != asked:  # an administrator has changed the old version meanwhile
                self._ask(functools.partial(_EVENTS[wish], key), _ignore, now)
        self._end(reload, change, now)
        self._retire(gone, now)

    def _give_up(self, reload: _Reload, error: EdgedError, now: float) -> None:
        self.versions.give_up(reload.change)
        log.error("reload failed, all is served as before: %s", error)
        self._end(reload, error, now)
        if reload.defined:
            self._retire(tuple(reload.change.new), now)
        else:
            self._keep_blocks()

    def _end(self, reload: _Reload, outcome: Change | EdgedError, now: float) -> None:
        self._reload = None
        for tell in reload.done:
            tell(outcome, now)
        self.try_reload(now)

    def _retire(self, keys: Iterable[str], now: float) -> None:
        """Versions leave when their last request is answered."""
        for key in keys:
            done = functools.partial(self._forget, key)
            self._ask(functools.partial(_unload, key), done, now)

    def _forget(self, key: str, error: EdgedError | None, now: float) -> None:
        if error is not None:
            log.info("version %s stays: %s", key, error)  # the daemon shuts down, for example
            return
        if self._host.is_in_use(key):
            self._lingering.append(key)
            return
        self.versions.forget((key,))
        self._host.tell_versions(now)
        self._host.order(link.Forget((key,)))
        self._keep_blocks()

    # --- inside -----------------------------------------------------------------------------------

    def _keep_blocks(self) -> None:
        """Let go of the blocks that no version needs, nor one that a reload is bringing in."""
        new = self._reload.change.new.values() if self._reload is not None else ()
        blocks = {step.block for manifest in new for step in manifest.steps}
        self._shelf.keep(self.versions.blocks | blocks)

    def _key(self, name: str) -> str:
        key = self.versions.served.get(name)
        if key is None and name in self.versions.unusable:
            raise StoreError(
                f"model {name!r} cannot be served: {self.versions.unusable[name].reason}; when "
                "that is mended: edged reload"
            )
        if key is None:
            known = ", ".join(sorted(self.versions.served))
            raise NotFound(f"there is no model {name!r}; there are {known}")
        return key

    def _ask(self, event: Ask, done: Done, now: float) -> None:
        self._last_ask += 1
        self._asks[self._last_ask] = done
        self._host.ask(event(self._last_ask), now)


def _error(event: Settled) -> EdgedError | None:
    if event.code is None:
        return None
    return from_code(event.code, event.message, retry_after_s=event.retry_after_s)


def _load(key: str, ask: int) -> LoadAsked:
    return LoadAsked(ask, key)


def _unload(key: str, ask: int) -> UnloadAsked:
    return UnloadAsked(ask, key)


def _pin(key: str, ask: int) -> PinAsked:
    return PinAsked(ask, key, True)


def _unpin(key: str, ask: int) -> PinAsked:
    return PinAsked(ask, key, False)


_EVENTS: dict[Wish, Callable[[str, int], LoadAsked | UnloadAsked | PinAsked]] = {
    Wish(unloaded=False, pinned=False): _load,
    Wish(unloaded=False, pinned=True): _pin,
    Wish(unloaded=True, pinned=False): _unload,
    Wish(unloaded=True, pinned=True): _unload,
}


def _ignore(error: EdgedError | None, now: float) -> None:
    """Nobody waits for this outcome."""
