"""What the breaker hears of operations that the real ``recover`` carries through: the first fault counts like any other."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from pytest_browserpool.errors import BrowserCrashed
from pytest_browserpool.recovery import signals as s
from pytest_browserpool.recovery.breaker import Breakers, Circuit
from pytest_browserpool.recovery.carry_out import recover
from pytest_browserpool.recovery.choice import Plan
from pytest_browserpool.recovery.strategies import STRATEGIES

BOTH = (s.Candidate(key="ff", browser="firefox"), s.Candidate(key="cr", browser="chromium"))


class Steps:
    """Takes every step at once, and remembers which."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def prepare(self, order: s.Order) -> None:
        self.taken.append(type(order).__name__)

    async def drop_page(self, key: str, reason: str) -> None: ...

    async def retire(self, key: str, reason: str) -> None: ...

    async def stop(self) -> int:
        return 0

    async def restore(self, step: int) -> None: ...


def crash(breakers: Breakers, times: int, strategy: str = "progressive", seats: Any = BOTH) -> list[str]:
    """That many operations whose first attempt crashes Firefox and whose second succeeds; the steps that were taken."""
    steps = Steps()

    async def fine() -> int:
        return 1

    async def each() -> None:
        for _ in range(times):
            plan = Plan(candidates=seats, strategy=STRATEGIES[strategy])
            answer = await recover(
                BrowserCrashed("dead"),
                seat="ff",
                began_at=time.monotonic(),
                plan=plan,
                carrier=steps,
                attempt=fine,
                breakers=breakers,
                told=lambda story: None,
            )
            assert answer == 1

    asyncio.run(each())
    return steps.taken


@pytest.mark.parametrize(("strategy", "step"), [("progressive", "RestartBrowser"), ("immediate", "Migrate")])
def test_a_browser_that_crashes_at_every_operation_opens_its_breaker(strategy: str, step: str) -> None:
    breakers = Breakers()
    assert crash(breakers, 4, strategy) == [step] * 4
    firefox = breakers.of("firefox")
    assert (firefox.circuit, firefox.failures) == (Circuit.CLOSED, 4)
    assert crash(breakers, 1, strategy) == ["Migrate"]
    assert firefox.circuit is Circuit.OPEN
    assert breakers.blocked(time.monotonic(), ["firefox", "chromium"]) == {"firefox"}
    assert breakers.pristine("chromium")


def test_a_success_of_the_same_browser_starts_anew_one_elsewhere_does_not() -> None:
    breakers = Breakers()
    crash(breakers, 4, "immediate")  # each then succeeded in chromium
    now = time.monotonic()
    breakers.of("chromium").met(now, now, ok=True)
    assert breakers.of("firefox").failures == 4
    breakers.of("firefox").met(now, now, ok=True)
    crash(breakers, 4)
    assert breakers.of("firefox").circuit is Circuit.CLOSED


def test_the_only_browser_is_tried_though_its_breaker_is_open() -> None:
    breakers = Breakers()
    assert crash(breakers, 8, seats=BOTH[:1]) == ["RestartBrowser"] * 8
    assert breakers.of("firefox").circuit is Circuit.OPEN
