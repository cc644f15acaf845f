"""Forecasts beside what came, and tests that were moved: what the scheduler's looking ahead was worth. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from pytest_browserpool.records import ForecastRecord
from pytest_browserpool.store.rows import RunRows

MAX_MOVES = 100
"""Moved tests listed; the history has all of them."""


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """The forecasts of one browser's utilization that came due."""

    browser: str
    points: tuple[tuple[float, float, float, float], ...]
    """(seconds from the run's start to the middle of the time foreseen, foreseen, came, as the last minute)."""
    error: float
    """Mean of |foreseen − came|."""
    error_as_last_minute: float


@dataclass(frozen=True, kw_only=True)
class Move:
    """A test that ran on another node than first planned; seconds from when it was sent to its end."""

    nodeid: str
    from_node: str
    to_node: str
    expected_there_s: float | None
    took_s: float | None
    useful: bool | None


@dataclass(frozen=True, kw_only=True)
class Wait:
    """How long tests of one priority waited from collection until they were sent, in seconds."""

    priority: int
    mean_s: float
    longest_s: float


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """All of it, of one run."""

    forecasts: tuple[Forecasts, ...]
    moves: tuple[Move, ...]
    moved: int
    useful: int
    waits: tuple[Wait, ...]
    """By priority, the most urgent first."""
    decision_us: tuple[float, float] | None
    """What a decision took, median and 99th percentile; None without our scheduler."""


def foresight(rows: RunRows) -> Foresight:
    """What ``rows`` tell of it."""
    by_browser: dict[str, list[ForecastRecord]] = defaultdict(list)
    for record in rows.forecasts:
        if record.came is not None:
            by_browser[record.browser].append(record)
    sums = {metric.name: metric.value for metric in rows.metrics if not metric.node}
    return Foresight(
        forecasts=tuple(
            _forecasts(name, sorted(records, key=lambda r: r.at), rows.run.started_at)
            for name, records in sorted(by_browser.items())
        ),
        moves=tuple(
            Move(
                nodeid=s.nodeid,
                from_node=s.from_node,
                to_node=s.to_node,
                expected_there_s=s.expected_there_s,
                took_s=s.took_s,
                useful=s.useful,
            )
            for s in sorted(rows.steals, key=lambda s: s.at)[:MAX_MOVES]
        ),
        moved=len(rows.steals),
        useful=sum(bool(s.useful) for s in rows.steals),
        waits=tuple(
            Wait(
                priority=priority,
                mean_s=sums[f"wait_mean_s_{priority}"],
                longest_s=sums.get(f"wait_longest_s_{priority}", 0.0),
            )
            for priority in range(1, 6)
            if f"wait_mean_s_{priority}" in sums
        ),
        decision_us=(sums["decision_us_p50"], sums["decision_us_p99"]) if "decision_us_p99" in sums else None,
    )


def _forecasts(browser: str, records: list[ForecastRecord], zero: float) -> Forecasts:
    points = tuple(
        (r.at - zero + r.horizon_s / 2, r.utilization, r.came or 0.0, r.as_last_minute) for r in records
    )
    return Forecasts(
        browser=browser,
        points=points,
        error=sum(abs(p[1] - p[2]) for p in points) / len(points),
        error_as_last_minute=sum(abs(p[3] - p[2]) for p in points) / len(points),
    )
