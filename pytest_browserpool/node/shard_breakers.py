"""What the circuit breakers hear of a model over several browsers, and what they say about where its shards may go."""

from __future__ import annotations

import time
from collections.abc import Iterable

from pytest_browserpool.errors import Fault
from pytest_browserpool.node.cutting import Seat
from pytest_browserpool.recovery.breaker import Breakers, Trials


class ShardBreakers:
    """One per sharded model. Everything runs in the node's loop but ``leave``, which the test's thread may call."""

    def __init__(self, breakers: Breakers) -> None:
        self._breakers = breakers
        self._trials = Trials(breakers)
        self._last: dict[Seat, Fault] = {}
        self._hurt: dict[str, float] = {}
        """When each browser last met a fault, in seconds of ``time.monotonic``."""

    def enter(self, seats: Iterable[Seat]) -> None:
        """The shards are about to be loaded there."""
        self.leave()
        for circuit in dict.fromkeys(seat.circuit for seat in seats):
            self._trials.enter(time.monotonic(), circuit)

    def leave(self) -> None:
        """The test holds the model no more."""
        self._trials.leave(time.monotonic())

    def met(self, seat: Seat, fault: Fault, began: float | None = None) -> None:
        """A shard there met a fault, in an attempt that ``began`` then (just now unless given). Counts once: several
        requests may meet the same crash, and each later one the same dead page."""
        if self._last.get(seat) is fault:
            return
        now = time.monotonic()
        self._last[seat], self._hurt[seat.circuit] = fault, now
        self._breakers.of(seat.circuit).met(now, now if began is None else began, ok=False)

    def answered(self, seats: Iterable[Seat], began: float) -> None:
        """A request that ``began`` then went well; no success of the browsers in which something failed meanwhile."""
        for circuit in dict.fromkeys(seat.circuit for seat in seats):
            if not self._breakers.pristine(circuit) and self._hurt.get(circuit, began) <= began:
                self._breakers.of(circuit).met(time.monotonic(), began, ok=True)

    def steered(self, ways: list[Seat]) -> list[Seat]:
        """The ways in their order, those through an open breaker last."""
        blocked = self._breakers.blocked(time.monotonic(), (seat.circuit for seat in ways))
        return sorted(ways, key=lambda seat: seat.circuit in blocked)
