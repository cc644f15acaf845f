"""Limits and backoff."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.recovery.limits import (
    Attempts,
    Backoff,
    Limit,
    Priorities,
    Seconds,
    Spent,
    default_limit,
)

spents = st.builds(Spent, seconds=st.floats(0, 200), attempts=st.integers(0, 10), priority=st.integers(1, 5))
simple = st.one_of(
    st.builds(Seconds, st.floats(0, 100)),
    st.builds(Attempts, st.integers(1, 9)),
    st.builds(Priorities, st.integers(1, 3), st.integers(3, 5)),
)
limits = st.recursive(
    simple,
    lambda x: st.builds(lambda a, b, both: a & b if both else a | b, x, x, st.booleans()),
    max_leaves=8,
)


@given(limits, limits, spents)
def test_joined_limits_are_reached_as_logic_says(a: Limit, b: Limit, spent: Spent) -> None:
    one, two = a.reached(spent) is not None, b.reached(spent) is not None
    assert ((a & b).reached(spent) is not None) == (one and two)  # type: ignore[operator]
    assert ((a | b).reached(spent) is not None) == (one or two)  # type: ignore[operator]


@given(limits, spents)
def test_seconds_left_is_when_it_is_reached_if_only_time_passes(limit: Limit, spent: Spent) -> None:
    left = limit.seconds_left(spent)
    assert (left == 0) == (limit.reached(spent) is not None)
    if math.isinf(left):
        assert limit.reached(Spent(seconds=1e12, attempts=spent.attempts, priority=spent.priority)) is None
    else:
        later = Spent(seconds=spent.seconds + left + 1e-6, attempts=spent.attempts, priority=spent.priority)
        assert limit.reached(later) is not None


def test_the_recovery_timeout_by_priority() -> None:
    quick, slow = default_limit(5.0), default_limit(90.0)
    for priority, seconds in ((1, 15.0), (2, 15.0), (3, 60.0), (4, 60.0), (5, 60.0)):
        assert quick.seconds_left(Spent(priority=priority)) == seconds
        assert slow.seconds_left(Spent(priority=priority)) == 90.0
    assert quick.reached(Spent(attempts=7)) == "7 attempts made, 7 allowed"
    assert quick.reached(Spent(attempts=6)) is None


@given(st.integers(-1, 10_000), st.integers(0, 99))
def test_backoff_grows_is_bounded_and_repeats_with_its_seed(n: int, seed: int) -> None:
    backoff = Backoff()
    delay = backoff.delay(n, random.Random(seed))
    assert delay == backoff.delay(n, random.Random(seed))
    if n <= 0:
        assert delay == 0
    else:
        full = min(2.0, 0.1 * 2 ** min(n - 1, 64))
        assert full / 2 < delay <= full


def test_jitter_spreads() -> None:
    source = random.Random(1)
    delays = {round(Backoff().delay(3, source), 3) for _ in range(50)}
    assert len(delays) > 30
