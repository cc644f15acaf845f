"""Whose silence counts: not that of the time in which nobody listened."""

from __future__ import annotations

import pytest

from pytest_browserpool import heartbeat
from pytest_browserpool.heartbeat import STARTUP, Watch


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(heartbeat, "time", clock)
    return clock


def looked_at_each_second(watch: Watch, clock: Clock, seconds: float) -> list[tuple[float, object]]:
    found = []
    for _ in range(int(seconds)):
        clock.now += 1.0
        found += [(clock.now, node) for node in watch.silent()]
    return found


def test_a_node_that_is_silent_for_too_long_is_told_once(clock: Clock) -> None:
    watch = Watch(timeout=30)
    watch.expect("a")
    watch.heard("a")
    watch.expect("starts")
    assert looked_at_each_second(watch, clock, 29) == []
    assert looked_at_each_second(watch, clock, 200) == [(1031.0, "a"), (1000.0 + STARTUP + 31, "starts")]


def test_a_pause_of_our_own_is_no_silence_of_the_nodes(clock: Clock) -> None:
    watch = Watch(timeout=30)
    watch.heard("a")
    assert looked_at_each_second(watch, clock, 10) == []
    clock.now += 600
    assert watch.silent() == [], "it may have spoken, and nobody has read it yet"
    assert looked_at_each_second(watch, clock, 19) == []
    (told,) = looked_at_each_second(watch, clock, 10)
    assert told == (1631.0, "a"), "the time before the pause counts"
