"""Carries out what the machine says for one operation: waits, drops, retires, attempts again, and keeps the story."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pytest_browserpool.errors import BrowserPoolError, CapabilityError, Fault, PageHung
from pytest_browserpool.recovery import signals as s
from pytest_browserpool.recovery.breaker import Breakers
from pytest_browserpool.recovery.choice import Plan
from pytest_browserpool.recovery.machine import Machine
from pytest_browserpool.recovery.story import in_words

T = TypeVar("T")


class Unavailable(Exception):  # noqa: N818 - an answer of the carrier, not an error that a user sees
    """The step cannot be taken here; nothing was touched."""


class Carrier(Protocol):
    """What can be done to the browsers that an operation runs in. Seats are the plan's candidates, by key."""

    async def prepare(self, order: s.Order) -> None:
        """Takes the step, so that the operation can be tried again.

        Raises:
            Unavailable: it cannot be taken. Fault: it was taken and failed.
        """

    async def stop(self) -> int:
        """Coordinated: brings what is sound to a standstill; the last step that there is a checkpoint of."""

    async def restore(self, step: int) -> None:
        """Coordinated: brings the state of that step to where ``prepare`` went.

        Raises:
            Unavailable: it does not come back there bit for bit. Fault: it failed meanwhile.
        """

    async def drop_page(self, key: str, reason: str) -> None:
        """Closes the page on that seat for good."""

    async def retire(self, key: str, reason: str) -> None:
        """Ends the browser on that seat."""


@dataclass(frozen=True)
class Story:
    """How a recovery went, for the record."""

    outcome: str
    """recovered, degraded, failed, not_retried or cancelled."""
    attempts: Sequence[s.Attempt]
    seconds: float
    recoveries: int
    degraded: bool
    error: BrowserPoolError | None = None


async def recover(
    fault: Fault,
    *,
    seat: str,
    began_at: float,
    plan: Plan,
    carrier: Carrier,
    attempt: Callable[[], Awaitable[T]],
    breakers: Breakers,
    told: Callable[[Story], None],
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Tries ``attempt`` again as the plan's strategy says, until it succeeds or nothing is left to try.

    Args:
        fault: what ended the first attempt, on ``seat``, which began at ``began_at`` (seconds of ``clock``).
        told: gets the story once, however it ends.

    Raises:
        Fault: the last one, with the history of what was tried in its text.
        BrowserPoolError: an attempt found that it is the test's own (bad input, say).
    """
    return await _Recovery(seat, began_at, plan, carrier, attempt, breakers, told, clock).run(fault)


class _Recovery(Generic[T]):
    def __init__(
        self,
        seat: str,
        began_at: float,
        plan: Plan,
        carrier: Carrier,
        attempt: Callable[[], Awaitable[T]],
        breakers: Breakers,
        told: Callable[[Story], None],
        clock: Callable[[], float],
    ) -> None:
        self._plan, self._carrier, self._attempt, self._told = plan, carrier, attempt, told
        self._breakers, self._clock = breakers, clock
        self._machine = Machine(plan, source=random.Random())
        self._machine.handle(s.Begin(at=began_at, key=seat))
        self._began, self._started = began_at, clock()
        self._last: Fault | None = None
        self._hurt = {plan.candidate(seat).browser}
        """The browsers in which the operation met a fault: its answer is no success of theirs."""
        self._results: list[T] = []

    async def run(self, fault: Fault) -> T:
        # the fault that a recovery begins with counts like those of its own attempts
        self._breakers.of(*self._hurt).met(self._clock(), self._began, ok=False)
        try:
            waiting = self._faulted(fault)
            while waiting:
                waiting = [*await self._step(waiting[0]), *waiting[1:]]
        except BaseException as error:
            self._tell(error if isinstance(error, BrowserPoolError) else None)
            raise
        self._tell(None)
        return self._results[-1]

    async def _step(self, step: s.Instruction) -> list[s.Instruction]:
        """Carries out one instruction; what the machine says next."""
        match step:
            case s.Wait():
                await asyncio.sleep(step.seconds)
                return self._machine.handle(s.Waited(at=self._clock(), blocked=self._blocked()))
            case s.DropPage():
                await self._carrier.drop_page(step.key, step.reason)
                return []
            case s.RetireBrowser():
                await self._carrier.retire(step.key, step.reason)
                return []
            case s.GiveUp():
                raise self._given_up(step)
            case s.Order():
                return await self._order(step)
            case s.StopAll():
                stands_at = await self._carrier.stop()
                return self._machine.handle(s.Stopped(at=self._clock(), step=stands_at))
            case s.Restore():
                return await self._order(step.by, step)
            case s.Resume():
                raise AssertionError(f"{step!r} follows a Restore, and is carried out with it")

    async def _order(self, order: s.Order, restore: s.Restore | None = None) -> list[s.Instruction]:
        browser = self._plan.candidate(order.key).browser
        breaker = self._breakers.of(browser)
        ticket = breaker.acquire(self._clock(), forced=True)  # the machine has refused blocked ones already
        assert ticket is not None
        try:
            async with asyncio.timeout(order.seconds):
                try:
                    await self._carrier.prepare(order)
                    if restore is not None:
                        await self._carrier.restore(restore.step)
                except (Unavailable, CapabilityError) as reason:
                    breaker.abandon(self._clock(), ticket)
                    event = s.Unavailable(at=self._clock(), reason=str(reason), blocked=self._blocked())
                    return self._machine.handle(event)
                self._goes_on(order, restore)
                result = await self._attempt()
        except Fault as fault:
            self._failed_in(browser, ticket)
            return self._faulted(fault, order.attempt)
        except TimeoutError:
            self._failed_in(browser, ticket)
            hung = PageHung(
                f"attempt {order.attempt} did not end within {order.seconds:.1f} s", where=order.key
            )
            return self._faulted(hung, order.attempt)
        except BrowserPoolError as error:
            breaker.abandon(self._clock(), ticket)
            self._machine.handle(s.NotAFault(at=self._clock(), error=type(error).__name__))
            raise
        if browser in self._hurt:
            breaker.abandon(self._clock(), ticket)
        else:
            breaker.success(self._clock(), ticket)
        self._machine.handle(s.Succeeded(at=self._clock()))
        self._results.append(result)
        return []

    def _failed_in(self, browser: str, ticket: int) -> None:
        self._hurt.add(browser)
        self._breakers.of(browser).failure(self._clock(), ticket)

    def _goes_on(self, order: s.Order, restore: s.Restore | None) -> None:
        """Tells the machine that the attempt runs: one model has one part, so nothing else is to be restored."""
        if restore is None:
            self._machine.handle(s.Started(at=self._clock(), attempt=order.attempt))
        else:
            self._machine.handle(s.Restored(at=self._clock(), part=restore.part))
            self._machine.handle(s.Resumed(at=self._clock()))

    def _faulted(self, fault: Fault, attempt: int = 1) -> list[s.Instruction]:
        self._last = fault
        blocked = self._blocked()
        detail = fault.what[:500]
        event = s.Faulted(
            at=self._clock(), fault=type(fault), attempt=attempt, detail=detail, blocked=blocked
        )
        return self._machine.handle(event)

    def _blocked(self) -> frozenset[str]:
        return self._breakers.blocked(self._clock(), (c.browser for c in self._plan.candidates))

    def _given_up(self, step: s.GiveUp) -> BrowserPoolError:
        last = self._last
        assert last is not None
        if self._machine.recoveries == 0:
            return last
        tried = "\n    ".join(in_words(a) for a in step.history)
        text = f"{last.what}\n  tried, until {step.reason}:\n    {tried}"
        return type(last)(text, where=last.where, remedy=last.remedy)

    def _tell(self, error: BrowserPoolError | None) -> None:
        machine = self._machine
        seconds = self._clock() - self._started
        outcome = machine.outcome or "cancelled"
        self._told(Story(outcome, machine.story, seconds, machine.recoveries, machine.degraded, error))
