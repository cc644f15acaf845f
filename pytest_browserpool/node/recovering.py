"""Recovery of a model's operations on this node: the seats it may move to, and the hands that carry the steps out."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.pool import Pool
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import BackendRefused, Fault
from pytest_browserpool.recovery import signals
from pytest_browserpool.recovery.breaker import Breakers
from pytest_browserpool.recovery.carry_out import Story, Unavailable, recover
from pytest_browserpool.recovery.choice import Plan
from pytest_browserpool.recovery.signals import Step
from pytest_browserpool.recovery.strategies import choose

if TYPE_CHECKING:
    from pytest_browserpool.node.reporting import Reporter
    from pytest_browserpool.node.resident import Resident
    from pytest_browserpool.node.use import RunningTest

T = TypeVar("T")

LAUNCH_SECONDS = 3.0
"""What a launch is expected to take before one was measured: Firefox's, the slowest seen."""


class Recovery:
    """One per node: the circuit breakers live as long as it."""

    def __init__(
        self,
        settings: Settings,
        report: Reporter,
        pool: Callable[[], Pool],
        test: Callable[[], RunningTest | None],
    ) -> None:
        self._settings, self._report, self._pool, self._test = settings, report, pool, test
        self.breakers = Breakers()

    def not_tried(self, resident: Resident, fault: Fault) -> None:
        """A fault that is not recovered from, for the record."""
        self._report.fault(
            self._test(), resident, fault, strategy="none", attempts="[]", outcome="not_retried"
        )

    async def recover(
        self, resident: Resident, fault: Fault, began: float, attempt: Callable[[], Awaitable[T]]
    ) -> T:
        """``attempt`` again, as the strategy of the test says."""
        seats = _seats(resident)
        here = resident.current or next(iter(seats.values()))
        strategy = choose(resident.needs.recovery, self._settings.recovery, resident.needs.priority)
        pool = self._pool()
        plan = Plan(
            candidates=tuple(
                signals.Candidate(key=key, browser=c.browser, family=pool.installed[c.browser].family)
                for key, c in seats.items()
            ),
            strategy=strategy,
            priority=resident.needs.priority,
            timeout=resident.needs.timeout,
            fallback=resident.needs.fallback,
            backend=here.backend,
            costs=_costs(resident),
        )
        carrier = _Carrier(pool, resident, seats)

        def told(story: Story) -> None:
            if story.outcome in ("recovered", "degraded"):
                resident.use.recoveries += 1
            resident.use.degraded = resident.use.degraded or story.degraded
            attempts = json.dumps([a.to_plain() for a in story.attempts])
            self._report.fault(
                self._test(),
                resident,
                fault,
                strategy=strategy.name,
                attempts=attempts,
                outcome=story.outcome,
                recovery_ms=story.seconds * 1000 if story.outcome in ("recovered", "degraded") else None,
                seat=here,
            )

        return await recover(
            fault,
            seat=_key(here),
            began_at=began,
            plan=plan,
            carrier=carrier,
            attempt=attempt,
            breakers=self.breakers,
            told=told,
        )


class _Carrier:
    """See ``recovery.carry_out.Carrier``."""

    def __init__(self, pool: Pool, resident: Resident, seats: dict[str, Candidate]) -> None:
        self._pool, self._resident, self._seats = pool, resident, seats

    async def prepare(self, order: signals.Order) -> None:
        seat = self._seats[order.key]
        if order.on_cpu:
            seat = Candidate(seat.browser, "wasm")
        match order:
            case signals.Retry():
                loaded = self._resident.loaded
                if loaded is None or loaded.page.lost is not None:
                    raise Unavailable("the page is gone")
                return
            case signals.UseStandby():
                raise Unavailable("no standby holds the model")
            case signals.RestartBrowser():
                await self._pool.end(seat.browser, "restarted by recovery")
        try:
            await self._resident.move(seat)
        except BackendRefused as error:
            raise Unavailable(error.what) from error

    async def drop_page(self, key: str, reason: str) -> None:
        await self._pool.drop_lost(self._seats[key].browser)

    async def retire(self, key: str, reason: str) -> None:
        await self._pool.end(self._seats[key].browser, reason)


def _key(candidate: Candidate) -> str:
    return f"{candidate.browser}/{candidate.backend}"


def _seats(resident: Resident) -> dict[str, Candidate]:
    """Where the model may run: the current place, the same backend elsewhere, then backends that the marker names."""
    here = resident.current
    found = list(resident.candidates)
    if here is not None:
        named = resident.needs.backends
        found = [c for c in found if c.backend == here.backend] + [
            c for c in found if c.backend != here.backend and named
        ]
        found = [here, *(c for c in found if c != here)]
    return {_key(c): c for c in found}


def _costs(resident: Resident) -> dict[Step, float]:
    """Seconds that each step takes before the attempt itself, as far as this test has seen."""
    load = (resident.use.load_ms + resident.use.compile_ms) / 1000
    launch = resident.use.launch_ms / 1000 or LAUNCH_SECONDS
    return {
        Step.RELOAD: load,
        Step.RESTART: launch + load,
        Step.MIGRATE: launch + load,
        Step.CPU: launch + load,
    }
