"""A second browser that holds a test's model loaded (``--browserpool-redundancy 2``): failover then needs no load."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.pool import Loaded
from pytest_browserpool.errors import BrowserPoolError
from pytest_browserpool.node.use import ASKED_BY

if TYPE_CHECKING:
    from pytest_browserpool.node.resident import Resident


class Seat(NamedTuple):
    """A place for a model: ``slot`` tells several browsers of one name apart."""

    candidate: Candidate
    slot: int = 0

    @property
    def key(self) -> str:
        return f"{self.candidate.browser}{f'#{self.slot}' if self.slot else ''}/{self.candidate.backend}"


class Standby:
    """The standby of one resident. Everything but ``let_go`` runs in the node's loop."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self.seat: Seat | None = None
        self.loaded: Loaded | None = None
        self.reason = "it is being loaded"
        """Why there is none."""
        self._task: asyncio.Task[None] | None = None
        self._failed = self._ended = False

    @property
    def hot(self) -> bool:
        """Whether it holds the model and its page is sound."""
        return self.loaded is not None and self.loaded.page.lost is None and self.loaded.instance.usable

    def provide(self) -> None:
        """Loads the model in a second browser, beside the test, unless that was done or cannot be done."""
        if self.hot or self._failed or (self._task is not None and not self._task.done()):
            return
        self._release()
        self.reason = "it is being loaded"
        self._task = self._resident.pool.beside(self._load())

    async def ready(self, timeout: float) -> bool:
        """Waits until it is loaded or cannot be; whether it is."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout)
        return self.hot

    async def _load(self) -> None:
        ASKED_BY.set("")
        refused = []
        for seat in self._seats():
            try:
                loaded = await self._resident.load(seat.candidate, slot=seat.slot)
            except BrowserPoolError as error:
                refused.append(f"{seat.key}: {error.what}")
                continue
            self.seat, self.loaded = seat, loaded
            loaded.instance.leases += 1
            if self._ended:  # the test is over meanwhile; the session stays warm for the next
                self._release()
            return
        self._failed, self.reason = True, "; ".join(refused) or "no other place"

    def _seats(self) -> list[Seat]:
        """Another browser with the same backend first: what kills one often kills its like too."""
        here = self._resident.current
        if here is None:
            return []
        others = [
            c for c in self._resident.candidates if c.backend == here.backend and c.browser != here.browser
        ]
        return [*(Seat(c) for c in others), Seat(here, 0 if self._resident.slot else 1)]

    def take(self) -> tuple[Seat, Loaded] | None:
        """The standby becomes the place of the model; None where it is not hot. ``provide`` makes the next one."""
        if not self.hot or self.loaded is None or self.seat is None:
            return None
        seat, loaded = self.seat, self.loaded
        self._release()
        self._failed = False
        return seat, loaded

    def let_go(self) -> None:
        """The test is over."""
        self._ended = True
        self._release()

    def _release(self) -> None:
        loaded, self.loaded = self.loaded, None
        if loaded is not None:
            loaded.instance.leases -= 1
