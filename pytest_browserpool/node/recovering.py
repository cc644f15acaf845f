"""Recovery of a model's operations on this node: the seats it may move to, and the hands that carry the steps out."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.pool import Pool
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import (
    BackendRefused,
    CapabilityError,
    ConfigurationError,
    Fault,
    StateDiverged,
)
from pytest_browserpool.node.journal import Journal, Operation
from pytest_browserpool.node.standby import Seat, Standby
from pytest_browserpool.recovery import signals
from pytest_browserpool.recovery.breaker import Breakers
from pytest_browserpool.recovery.carry_out import Story, Unavailable, recover
from pytest_browserpool.recovery.choice import Plan
from pytest_browserpool.recovery.signals import Step
from pytest_browserpool.recovery.strategies import STRATEGIES, Strategy, choose
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.node.reporting import Reporter
    from pytest_browserpool.node.resident import Resident
    from pytest_browserpool.node.stateful import PageState
    from pytest_browserpool.node.use import RunningTest

T = TypeVar("T")

LAUNCH_SECONDS = 3.0
"""What a launch may take at least: Firefox's, the slowest seen."""

LOAD_SECONDS = 3.0
"""What a load may take at least: a page with onnxruntime-web compiled anew takes one on an idle machine."""

SAVED = ("recovered", "degraded")
"""Outcomes in which the operation has its answer."""

SLACK = 2.0
"""Times what this test has seen a step take: a machine that just lost a browser is busier than before."""


class Recovery:
    """One per node: the circuit breakers live as long as it."""

    def __init__(
        self,
        settings: Settings,
        report: Reporter,
        pool: Callable[[], Pool],
        test: Callable[[], RunningTest | None],
        strategies: Mapping[str, Strategy],
    ) -> None:
        self._strategies = strategies
        self._settings, self._report, self._pool, self._test = settings, report, pool, test
        self.breakers = Breakers(changed=lambda name, circuit: report.journal.circuit(name, circuit.value))
        if settings.redundancy > settings.max_browsers:
            raise ConfigurationError(
                f"redundancy {settings.redundancy} needs as many browsers, and max_browsers is {settings.max_browsers}",
                remedy=f"--browserpool-max-browsers={settings.redundancy}",
            )

    def guard(self, resident: Resident) -> None:
        """Gives the resident a standby where the settings want one."""
        if self._settings.redundancy > 1:
            resident.standby = Standby(resident)

    def not_tried(self, resident: Resident, fault: Fault) -> None:
        """A fault that is not recovered from, for the record; the browser's breaker counts it all the same."""
        if resident.current is not None:
            now = time.monotonic()
            self.breakers.of(resident.current.browser).met(now, now, ok=False)
        self._report.fault(
            self._test(), resident, fault, strategy="none", attempts="[]", outcome="not_retried"
        )

    def answered(self, browser: str, began: float) -> None:
        """A call that ``began`` (seconds of ``time.monotonic``) went well in that browser, at its first attempt. In the
        node's loop."""
        if not self.breakers.pristine(browser):
            self.breakers.of(browser).met(time.monotonic(), began, ok=True)

    def steered(self, candidates: Sequence[Candidate], needs: ModelNeeds) -> list[Candidate]:
        """The candidates in their order; where the first one's breaker is open, or half-open with another model on trial
        there, the next browser without comes first.

        Where the marker names backends it must give the same one: the breaker takes no test to another.
        """
        blocked = self.breakers.blocked(time.monotonic(), (c.browser for c in candidates))
        if not blocked or candidates[0].browser not in blocked:
            return list(candidates)
        backends = {candidates[0].backend} if needs.backends else {c.backend for c in candidates}
        free = [c for c in candidates if c.browser not in blocked and c.backend in backends][:1]
        return [*free, *(c for c in candidates if c not in free)]

    def circuits(self) -> dict[str, str]:
        """The state of each circuit breaker that has counted a fault, by browser name."""
        return {name: c.value for name, c in self.breakers.circuits(time.monotonic()).items()}

    async def recover(
        self,
        resident: Resident,
        fault: Fault,
        began: float,
        attempt: Callable[[], Awaitable[T]],
        state: PageState | None = None,
    ) -> T:
        """``attempt`` again, as the strategy of the test says; ``state`` is brought back before it."""
        seats = _seats(resident, same_bits=state is not None)
        here = next(iter(seats.values()))
        plan = self._plan(resident, seats, state)
        operation = resident.use.operation or Operation("run")
        instance = resident.pinned.identity if resident.pinned is not None else ""
        carrier = _Carrier(self._pool(), resident, seats, state, self._report.journal, operation)
        self._report.met_fault(operation, instance)

        def told(story: Story) -> None:
            if operation is not resident.use.operation:  # nobody else has it on the record
                self._report.journal.ended(operation, ok=story.outcome in SAVED)
            self._tell(
                resident,
                fault,
                story,
                strategy=plan.strategy.name,
                seat=here.candidate,
                instance=instance,
                operation=operation,
            )

        self._report.doing("recovering from", f"{fault.kind} in {here.candidate.browser}")
        return await recover(
            fault,
            seat=here.key,
            began_at=began,
            plan=plan,
            carrier=carrier,
            attempt=attempt,
            breakers=self.breakers,
            told=told,
        )

    def _tell(self, resident: Resident, fault: Fault, story: Story, **told: Any) -> None:
        """The model's handle and the record get what came of a fault."""
        saved = story.outcome in SAVED
        resident.use.recoveries += saved
        self._report.fault(
            self._test(),
            resident,
            fault,
            attempts=json.dumps([a.to_plain() for a in story.attempts]),
            outcome=story.outcome,
            recovery_ms=story.seconds * 1000 if saved else None,
            **told,
        )

    def _plan(self, resident: Resident, seats: Mapping[str, Seat], state: PageState | None) -> Plan:
        """Where the model may go, the first being where it is, and what limits the recovery."""
        needs, standby = resident.needs, resident.standby
        installed = self._pool().installed
        return Plan(
            candidates=tuple(
                signals.Candidate(
                    key=key,
                    browser=seat.candidate.browser,
                    family=installed[seat.candidate.browser].family,
                    standby=standby is not None and standby.hot and standby.seat == seat,
                )
                for key, seat in seats.items()
            ),
            strategy=self._strategy(needs, state),
            priority=needs.priority,
            timeout=needs.timeout,
            fallback=needs.fallback,
            backend=next(iter(seats.values())).candidate.backend,
            costs=_costs(resident, state),
        )

    def _strategy(self, needs: ModelNeeds, state: PageState | None) -> Strategy:
        """What the marker or the run asks for; a model with state in its page needs a coordinated one."""
        chosen = choose(needs.recovery, self._settings.recovery, needs.priority, self._strategies)
        if state is None or chosen.coordinated or chosen.name == "none":
            return chosen
        return STRATEGIES["coordinated"]


class _Carrier:
    """See ``recovery.carry_out.Carrier``."""

    def __init__(
        self,
        pool: Pool,
        resident: Resident,
        seats: dict[str, Seat],
        state: PageState | None,
        journal: Journal,
        operation: Operation,
    ) -> None:
        self._pool, self._resident, self._seats, self._state = pool, resident, seats, state
        self._journal, self._operation = journal, operation

    async def prepare(self, order: signals.Order) -> None:
        self._journal.tried_again(self._operation, degraded=order.on_cpu)
        seat = self._seats[order.key]
        candidate = Candidate(seat.candidate.browser, "wasm") if order.on_cpu else seat.candidate
        match order:
            case signals.Retry():
                loaded = self._resident.loaded
                if loaded is None or loaded.page.lost is not None:
                    raise Unavailable("the page is gone")
                return
            case signals.UseStandby():
                if not self._resident.fail_over():
                    raise Unavailable("the standby is gone")
                return
            case signals.RestartBrowser():
                self._pool.running.abandon(candidate.browser, "restarted by recovery", seat.slot)
        use = self._resident.use
        # whatever comes of it: a load on the CPU, or a test that fails there, is no figure of a backend either
        before, use.degraded = use.degraded, use.degraded or order.on_cpu
        try:
            await self._resident.move(candidate, seat.slot)
        except (BackendRefused, CapabilityError) as error:
            use.degraded = before
            raise Unavailable(error.what) from error

    async def stop(self) -> int:
        return self._state.checkpoint_step if self._state is not None else 0

    async def restore(self, step: int) -> None:
        loaded = self._resident.loaded
        if self._state is None or loaded is None:
            return
        try:
            await self._state.bring(loaded)
        except StateDiverged as error:
            raise Unavailable(error.what) from error

    async def drop_page(self, key: str, reason: str) -> None:
        await self._pool.drop_lost(self._seats[key].candidate.browser)

    async def retire(self, key: str, reason: str) -> None:
        self._pool.running.abandon(self._seats[key].candidate.browser, reason, self._seats[key].slot)


def _seats(resident: Resident, *, same_bits: bool) -> dict[str, Seat]:
    """Where the model may run: the current place, the standby, the same backend elsewhere, then backends that the
    marker names. With ``same_bits`` (state goes along) only where the bits can be the same: wasm in any browser, an
    accelerator in its own kind."""
    here = resident.current
    found = [Seat(c) for c in resident.candidates]
    if here is not None:
        named = resident.needs.backends and not same_bits
        others = [s for s in found if s.candidate.backend == here.backend]
        others += [s for s in found if s.candidate.backend != here.backend and named]
        standby = resident.standby.seat if resident.standby is not None and resident.standby.hot else None
        found = [Seat(here, resident.slot), *([standby] if standby else []), *others]
        if same_bits and here.backend != "wasm":
            found = [s for s in found if s.candidate.browser == here.browser]
    return {seat.key: seat for seat in found}


def _costs(resident: Resident, state: PageState | None) -> dict[Step, float]:
    """Seconds that each step may take before the attempt itself, going by what this test has seen."""
    load = max(LOAD_SECONDS, SLACK * (resident.use.load_ms + resident.use.compile_ms) / 1000)
    launch = max(LAUNCH_SECONDS, SLACK * resident.use.launch_ms / 1000)
    replay = 0.0
    if state is not None:
        replay = SLACK * state.steps_to_replay * (resident.use.latency_ms or 0.0) / 1000
    return {
        Step.STANDBY: replay,
        Step.RELOAD: load + replay,
        Step.RESTART: launch + load + replay,
        Step.MIGRATE: launch + load + replay,
        Step.CPU: launch + load + replay,
    }
