"""Where a sharded model's sessions live: in this node's pool, and in browsers that other nodes lend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from pytest_browserpool.browsers.page import SessionKey
from pytest_browserpool.browsers.pool import Loaded, ModelContent, Pool
from pytest_browserpool.browsers.protocol import Packed, StateUse
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import CapabilityError, Fault
from pytest_browserpool.node.away import LOOK_SECONDS, Visit
from pytest_browserpool.node.cutting import Seat
from pytest_browserpool.node.reach import further
from pytest_browserpool.values import ModelNeeds

T = TypeVar("T")


class Places:
    """What ``Pool`` is for whole models. Runs in the node's loop."""

    def __init__(self, pool: Pool, visit: Visit | None = None) -> None:
        self.pool, self.visit = pool, visit

    @property
    def settings(self) -> Settings:
        return self.pool.settings

    def beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """See ``Pool.beside``."""
        return self.pool.beside(work)

    async def load(self, seat: Seat, key: SessionKey, model: ModelContent, timeout: float) -> Loaded:
        """See ``Pool.load``."""
        if not seat.node:
            return await self.pool.load(seat.browser, key, model, timeout, seat.slot)
        return await self._away.load(seat, key, model, timeout)

    async def run_packed(
        self, loaded: Loaded, inputs: Mapping[str, Packed], timeout: float, state: StateUse | None = None
    ) -> Any:
        """See ``Pool.run_packed``."""
        if not loaded.instance.node:
            return await self.pool.run_packed(loaded, inputs, timeout, state)
        running = loaded.page.run_packed(loaded.session, inputs, timeout=timeout, state=state)
        return await self._away.command(loaded, running)

    async def command(self, loaded: Loaded, command: Awaitable[T]) -> T:
        """See ``Pool.command``."""
        return await (self._away if loaded.instance.node else self.pool).command(loaded, command)

    async def release(self, loaded: Loaded) -> None:
        """See ``Pool.release``."""
        await (self._away if loaded.instance.node else self.pool).release(loaded)

    async def ways(self, known: Iterable[Seat], lost: Seat, needs: ModelNeeds) -> AsyncIterator[Seat]:
        """Where a lost shard may go: the ``known`` seats; then, where another node lent its browser, whatever nodes of the
        run lend now, also those that come up later. Ends only with who asks: it has a deadline."""
        for seat in known:
            yield seat
        while lost.node:
            for seat in further(needs, await self._away.more(lost), self._away.seats, like=lost):
                try:
                    await self._away.take(seat)
                except (CapabilityError, Fault):
                    continue
                yield seat
            await asyncio.sleep(LOOK_SECONDS)

    @property
    def _away(self) -> Visit:
        assert self.visit is not None, "a browser of another node without a visit there"
        return self.visit
