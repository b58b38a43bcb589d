"""All units: in which order they start and stop, what people ask of them, and how they make way for jobs."""

import asyncio
import os
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from azaion.declarations.services import Declaration
from azaion.environment import env_file, resolve
from azaion.layout import Layout
from supervisor.jobs.launchers import Launcher
from supervisor.jobs.store import Store
from supervisor.units.model import UnitError, Wish
from supervisor.units.unit import SHIM_MARGIN_S, Surroundings, Unit

#: How often it is looked whether a log has grown large.
_TRIM_S: Final = 600.0
#: Beyond its grace: so long it is waited until one that was asked to end has ended.
_MARGIN_S: Final = SHIM_MARGIN_S + 5.0

_log = structlog.get_logger("azaion.services")


class UnitRoom:
    """Every unit that is declared, and those that are declared no more and still run. It is a `Way`.

    Args:
        declared: each after those that it comes after.
        store: where it is kept what people want, and what happens.
        layout: where everything lies.
        launcher: how shims are started.
        boot_id: this boot of the machine.
        gpus: the numbers of the GPUs that jobs may use.
    """

    def __init__(
        self,
        declared: Sequence[Declaration],
        *,
        store: Store,
        layout: Layout,
        launcher: Launcher,
        boot_id: str,
        gpus: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._layout = layout
        self._holder = ""
        self._heard = asyncio.Event()
        self._moved = asyncio.Event()
        surroundings = Surroundings(
            launcher=launcher,
            boot_id=boot_id,
            gpus=gpus,
            note=store.note,
            holder=lambda: self._holder,
            blockers=self._blockers,
            changed=self._poke,
            resolve=lambda secret: resolve(secret, os.environ, env_file(os.environ)),
        )
        wishes = store.wishes()

        def unit(name: str, found: Declaration | None) -> Unit:
            folder = layout.service(name)
            return Unit(name, found, folder=folder, wish=wishes.get(name, Wish()), surroundings=surroundings)

        self._units = {each.name: unit(each.name, each) for each in declared}
        known = [path.name for path in layout.services.iterdir()] if layout.services.is_dir() else []
        self._removed = [unit(name, None) for name in sorted(known) if name not in self._units]

    @property
    def units(self) -> Sequence[Unit]:
        """Those that are declared, each after those that it comes after."""
        return tuple(self._units.values())

    async def run(self) -> None:
        """Keep every unit as it is wanted; on cancellation leave them alone."""
        # Whether one may start that uses the GPUs is not known before the queue has been looked at.
        await self._heard.wait()
        async with asyncio.TaskGroup() as tasks:
            for unit in (*self._units.values(), *self._removed):
                tasks.create_task(unit.run(), name=f"service {unit.name}")
            while True:
                for unit in self._units.values():
                    with suppress(OSError):
                        await asyncio.to_thread(unit.trim)
                await asyncio.sleep(_TRIM_S)

    # Making way.

    @property
    def nonces(self) -> AbstractSet[str]:
        """What those carry that use the GPUs and would make way."""
        return frozenset(unit.nonce for unit in self._all() if unit.holds_gpu and unit.nonce)

    def told(self, holder: str) -> None:
        """Hear who has the GPUs, or is about to get them; empty if nobody does."""
        self._heard.set()
        if holder != self._holder:
            self._holder = holder
            self._poke()

    async def make(self) -> None:
        """Wait until no unit uses the GPUs."""
        # Whoever rests now stays at rest for as long as somebody has the GPUs.
        for unit in self._all():
            while unit.holds_gpu and not unit.rested.is_set():
                moved = self._moved
                await moved.wait()

    # What people ask.

    async def start(self, names: Sequence[str], actor: str) -> None:
        """Have units run, and forget why they have failed.

        Raises:
            UnitError: there is no such unit, or its declaration says that it is not to run.
        """
        for unit in [self._startable(name) for name in names]:
            self._want(unit, Wish(forgiven=unit.number), "service-start", actor)
            unit.forgive()
            await self._settled(unit, partial(getattr, unit, "heeded"))

    async def stop(self, names: Sequence[str], actor: str) -> None:
        """Stop units, each before those that it comes after, and wait until they have ended.

        Raises:
            UnitError: there is no such unit, or one does not end even when it is killed.
        """
        wanted = {self._unit(name).name for name in names}
        for unit in reversed(self._units.values()):
            if unit.name in wanted:
                if not unit.wish.stopped:
                    self._want(unit, replace(unit.wish, stopped=True, by=str(actor)), "service-stop", actor)
                unit.poke()
                await self._settled(unit, unit.rested.is_set)

    async def restart(self, names: Sequence[str], actor: str) -> None:
        """Have units stop and start again; returns when the old ones have ended.

        Raises:
            UnitError: there is no such unit, or its declaration says that it is not to run.
        """
        for unit in [self._startable(name) for name in names]:
            before = unit.nonce
            self._want(unit, Wish(forgiven=unit.number), "service-restart", actor)
            unit.again(f"restarted by {actor}")
            await self._settled(unit, partial(_another, unit, before))

    def _want(self, unit: Unit, wish: Wish, kind: str, actor: str) -> None:
        self._store.wish(unit.name, wish, kind, actor)
        unit.wish = wish

    async def _settled(self, unit: Unit, condition: Callable[[], bool]) -> None:
        grace = unit.declared.grace_s if unit.declared is not None else 0.0
        try:
            async with asyncio.timeout(grace + _MARGIN_S):
                while not condition():
                    moved = self._moved
                    await moved.wait()
        except TimeoutError:
            raise UnitError(
                f"service {unit.name} has not ended, not even when it was killed; look at pid {unit.pid}"
            ) from None

    def _startable(self, name: str) -> Unit:
        unit = self._unit(name)
        if unit.declared is None or not unit.declared.enabled:
            raise UnitError(f"service {name} is declared with `enabled: false`; change that and restart azaiond")
        return unit

    def _unit(self, name: str) -> Unit:
        if (unit := self._units.get(name)) is None:
            known = ", ".join(self._units) or "none is declared, see docs/services.md"
            raise UnitError(f"there is no service {name!r} to start or stop; there is: {known}")
        return unit

    # Small things.

    def _all(self) -> Sequence[Unit]:
        return (*self._units.values(), *self._removed)

    def _blockers(self, after: Sequence[str]) -> list[str]:
        return [f"waits for {name}, which is {other.state}" for name in after if not (other := self._units[name]).ready]

    def _poke(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        for unit in self._all():
            unit.poke()


def _another(unit: Unit, nonce: str) -> bool:
    """Whether what carries this nonce runs no more."""
    return not nonce or unit.nonce != nonce
