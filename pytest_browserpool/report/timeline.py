"""The timeline of nodes and tests: bars with their set-up, browsers' lives, faults; in seconds from the
run's start. Pure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from pytest_browserpool.records import BrowserRecord, FaultRecord, OperationRecord, TestRecord
from pytest_browserpool.store.rows import RunRows

MAX_TICKS = 10

_STEPS = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)
"""Seconds between ticks where the axis is in minutes."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One test on its node. All times in seconds from the start of the run."""

    nodeid: str
    start: float
    end: float
    setup: float
    """Seconds of it that went into launching browsers and loading models."""
    browser: str
    backend: str
    outcome: str
    recoveries: int
    words: str
    """What a pointer or a screen reader is told."""


@dataclass(frozen=True, kw_only=True)
class Life:
    """One browser process, from launch to close."""

    instance: str
    browser: str
    start: float
    ready: float
    end: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A fault."""

    at: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One node."""

    node: str
    bars: tuple[Bar, ...]
    lives: tuple[Life, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All nodes over the run."""

    seconds: float
    """From the start of the run to its end."""
    lanes: tuple[Lane, ...]
    browsers: tuple[str, ...]
    """Every browser name, in the order in which colours are given."""
    ticks: tuple[float, ...]


def build_timeline(rows: RunRows) -> Timeline:
    """The timeline of one run. A run that is not finished ends with the last thing that is known of it."""
    zero = rows.run.started_at
    seconds = _length(rows)
    names = sorted({b.name for b in rows.browsers} | {t.browser for t in rows.tests if t.browser})
    nodes = {t.node for t in rows.tests} | {b.node for b in rows.browsers} | {n.node for n in rows.nodes}
    setups = _setups(rows)
    gone = {n.node: n.down_at - zero for n in rows.nodes if n.down_at}
    lanes = []
    for node in sorted(nodes, key=natural):
        bars = [_bar(t, zero, setups.get((t.nodeid, t.node), 0.0)) for t in rows.tests if t.node == node]
        lives = [_life(b, zero, gone.get(node, seconds)) for b in rows.browsers if b.node == node]
        marks = [Mark(at=f.at - zero, words=_fault_words(f)) for f in rows.faults if f.node == node]
        lanes.append(
            Lane(
                node=node,
                bars=tuple(sorted(bars, key=lambda b: b.start)),
                lives=tuple(sorted(lives, key=lambda b: b.start)),
                marks=tuple(sorted(marks, key=lambda m: m.at)),
            )
        )
    return Timeline(seconds=seconds, lanes=tuple(lanes), browsers=tuple(names), ticks=ticks(seconds))


def natural(name: str) -> tuple[str, int, str]:
    """Sorts ``gw10`` after ``gw9``."""
    head = name.rstrip("0123456789")
    return (head, int(name[len(head) :] or 0), name)


def _length(rows: RunRows) -> float:
    ends = [t.started_at + t.duration_s for t in rows.tests]
    ends += [b.closed_at for b in rows.browsers if b.closed_at]
    ends += [rows.run.finished_at] if rows.run.finished_at else []
    return max(0.0, max(ends, default=rows.run.started_at) - rows.run.started_at)


def _setups(rows: RunRows) -> dict[tuple[str, str], float]:
    """Seconds of launching and loading within each test, by (test, node)."""
    setups: dict[tuple[str, str], float] = defaultdict(float)
    launched = {browser.instance: browser for browser in rows.browsers}
    for operation in rows.operations:
        if operation.kind == "load" and not operation.warm:
            seconds = load_ms(operation, launched.get(operation.instance)) / 1000
            setups[operation.nodeid, operation.node] += seconds
    by_node = defaultdict(list)
    for browser in rows.browsers:
        by_node[browser.node].append(browser)
    for test in rows.tests:
        for browser in by_node[test.node]:
            if test.started_at <= browser.launched_at < test.started_at + test.duration_s:
                setups[test.nodeid, test.node] += browser.launch_ms / 1000
    return setups


def load_ms(operation: OperationRecord, browser: BrowserRecord | None) -> float:
    """Milliseconds of a load without the launch of its browser, where the load had to wait for one.

    The same rule as in the view ``operations`` of the history: a launch that ended during the load is
    part of it.
    """
    end = operation.started_at + operation.latency_ms / 1000
    if browser is None or not operation.started_at <= browser.launched_at <= end:
        return operation.latency_ms
    return max(0.0, operation.latency_ms - browser.launch_ms)


def _bar(test: TestRecord, zero: float, setup: float) -> Bar:
    start = max(0.0, test.started_at - zero)
    setup = min(setup, test.duration_s)
    where = "/".join(part for part in (test.browser, test.backend) if part) or "no browser"
    words = f"{test.nodeid}: {test.outcome} in {test.duration_s:.2f} s on {test.node}, {where}"
    words += f", {setup:.2f} s of it set-up" if setup else ""
    words += f", {test.recoveries} recoveries" if test.recoveries else ""
    words += ", degraded" if test.degraded else ""
    return Bar(
        nodeid=test.nodeid,
        start=start,
        end=start + test.duration_s,
        setup=setup,
        browser=test.browser,
        backend=test.backend,
        outcome=test.outcome,
        recoveries=test.recoveries,
        words=words,
    )


def _life(browser: BrowserRecord, zero: float, end_of_node: float) -> Life:
    ready = max(0.0, browser.launched_at - zero)
    start = max(0.0, ready - browser.launch_ms / 1000)
    end = browser.closed_at - zero if browser.closed_at else end_of_node
    words = f"{browser.name} {browser.version} on {browser.node}, launched in {browser.launch_ms:.0f} ms"
    words += f", closed: {browser.close_reason}" if browser.close_reason else ""
    return Life(
        instance=browser.instance,
        browser=browser.name,
        start=start,
        ready=ready,
        end=max(end, ready),
        words=words,
    )


def _fault_words(fault: FaultRecord) -> str:
    parts = [fault.kind, fault.browser and f"of {fault.browser}", fault.outcome and f"– {fault.outcome}"]
    return " ".join(part for part in parts if part)


def ticks(seconds: float) -> tuple[float, ...]:
    """Round times for an axis of that length: 1, 2 or 5 times a power of ten apart, minutes beyond two."""
    if seconds <= 0:
        return (0.0,)
    rough = seconds / MAX_TICKS
    if seconds > 120:
        step = next((s for s in _STEPS if s >= rough), 3600.0 * math.ceil(rough / 3600))
    else:
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return tuple(round(i * step, 9) for i in range(int(seconds / step + 1e-9) + 1))
