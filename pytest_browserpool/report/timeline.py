"""The timeline of a run: for each browser of each node what it did when; in seconds from the run's start. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_browserpool.records import BrowserRecord, FaultRecord, OperationRecord, TestRecord
from pytest_browserpool.report import spans
from pytest_browserpool.report.spans import Interval
from pytest_browserpool.report.words import natural, short_names
from pytest_browserpool.store.rows import RunRows

KINDS = ("idle", "setup", "run", "recovery")
"""What a browser does, in the order in which bars are drawn: a later one covers an earlier."""

MAX_SPANS = 4000
"""Bars in the page: more are narrower than a pixel, and a browser draws four thousand in half a second."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of one lane. Times in seconds from the start of the run."""

    kind: str
    start: float
    end: float
    nodeids: tuple[str, ...] = ()
    """The tests that it belongs to; several where neighbours are drawn as one."""
    outcome: str = ""
    words: str
    """What a pointer or a screen reader is told."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A fault."""

    at: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One kind of browser on one node; ``browser`` is empty for tests without one."""

    node: str
    browser: str
    spans: tuple[Span, ...]
    marks: tuple[Mark, ...]

    @property
    def tests(self) -> int:
        """How many tests it ran."""
        return len({nodeid for s in self.spans if s.kind == "run" for nodeid in s.nodeids})

    def seconds(self, kind: str) -> float:
        """How long it did that."""
        return spans.seconds((s.start, s.end) for s in self.spans if s.kind == kind)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All nodes and browsers over the run."""

    seconds: float
    """From the start of the run to its end."""
    lanes: tuple[Lane, ...]
    browsers: tuple[str, ...]
    """Every browser name."""


def build_timeline(rows: RunRows) -> Timeline:
    """The timeline of one run. A run that is not finished ends with the last thing that is known of it."""
    length = _length(rows)
    busy = _setups(rows)
    recoveries = _recoveries(rows)
    lives = _lives(rows, length)
    tests: dict[tuple[str, str], list[TestRecord]] = defaultdict(list)
    for test in rows.tests:
        for name in test.browser.split("+"):  # the shards of a model are in several browsers
            tests[test.node, name].append(test)
    marks = _marks(rows)
    keys = {*busy, *recoveries, *lives, *tests, *marks}
    lanes = []
    for node, browser in sorted(keys, key=lambda key: (natural(key[0]), key[1] == "", key[1])):
        key = node, browser
        taken = spans.united((s.start, s.end) for s in (*busy[key], *recoveries[key]))
        ran = [piece for test in tests[key] for piece in _pieces(test, rows.run.started_at, taken)]
        working = spans.united((s.start, s.end) for s in (*busy[key], *recoveries[key], *ran))
        idle = [
            Span(kind="idle", start=start, end=end, words=f"{browser} on {node}, idle {end - start:.1f} s")
            for life in lives[key]
            for start, end in spans.without(life, working)
        ]
        everything = sorted((*idle, *busy[key], *ran, *recoveries[key]), key=_order)
        lanes.append(Lane(node=node, browser=browser, spans=tuple(everything), marks=tuple(marks[key])))
    names = sorted({browser for _, browser in keys if browser})
    return Timeline(seconds=length, lanes=tuple(lanes), browsers=tuple(names))


def _order(span: Span) -> tuple[int, float]:
    return KINDS.index(span.kind), span.start


def _length(rows: RunRows) -> float:
    ends = [t.started_at + t.duration_s for t in rows.tests]
    ends += [b.closed_at for b in rows.browsers if b.closed_at]
    ends += [rows.run.finished_at] if rows.run.finished_at else []
    return max(0.0, max(ends, default=rows.run.started_at) - rows.run.started_at)


def _setups(rows: RunRows) -> dict[tuple[str, str], list[Span]]:
    """Launches and cold loads by (node, browser)."""
    zero = rows.run.started_at
    found: dict[tuple[str, str], list[Span]] = defaultdict(list)
    launched = {browser.instance: browser for browser in rows.browsers}
    names = short_names(m.id or m.label for m in rows.models)
    models = {m.sha256: names[m.id or m.label] for m in rows.models}
    for browser in rows.browsers:
        end = max(0.0, browser.launched_at - zero)
        start = max(0.0, end - browser.launch_ms / 1000)
        words = f"{browser.name} {browser.version} on {browser.node} launched in {browser.launch_ms:.0f} ms"
        found[browser.node, browser.name].append(Span(kind="setup", start=start, end=end, words=words))
    for operation in rows.operations:
        if operation.kind != "load" or operation.warm:
            continue
        spent = load_ms(operation, launched.get(operation.instance)) / 1000
        end = max(0.0, operation.started_at + operation.latency_ms / 1000 - zero)
        name = models.get(operation.model, operation.model[:12])
        words = f"{name} loaded in {operation.browser}/{operation.backend} in {spent:.2f} s"
        found[operation.node, operation.browser].append(
            Span(kind="setup", start=max(0.0, end - spent), end=end, nodeids=_name(operation), words=words)
        )
    return found


def load_ms(operation: OperationRecord, browser: BrowserRecord | None) -> float:
    """Milliseconds of a load without the launch of its browser, where the load had to wait for one.

    The same rule as in the view ``operations`` of the history: a launch that ended during the load is
    part of it.
    """
    end = operation.started_at + operation.latency_ms / 1000
    if browser is None or not operation.started_at <= browser.launched_at <= end:
        return operation.latency_ms
    return max(0.0, operation.latency_ms - browser.launch_ms)


def _lives(rows: RunRows, length: float) -> dict[tuple[str, str], list[Interval]]:
    """When there was such a browser, by (node, browser); one that nobody saw close went with its node."""
    zero = rows.run.started_at
    gone = {n.node: n.down_at - zero for n in rows.nodes if n.down_at}
    found: dict[tuple[str, str], list[Interval]] = defaultdict(list)
    for browser in rows.browsers:
        start = max(0.0, browser.launched_at - zero)
        end = browser.closed_at - zero if browser.closed_at else min(length, gone.get(browser.node, length))
        found[browser.node, browser.name].append((start, end))
    return defaultdict(list, {key: spans.united(lives) for key, lives in found.items()})


def _recoveries(rows: RunRows) -> dict[tuple[str, str], list[Span]]:
    """From the fault to the right answer; the record is made when it is there."""
    found: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for fault in rows.faults:
        if not fault.recovery_ms:
            continue
        end = max(0.0, fault.at - rows.run.started_at)
        start = max(0.0, end - fault.recovery_ms / 1000)
        words = f"{fault_words(fault)} in {end - start:.2f} s"
        found[fault.node, fault.browser].append(
            Span(kind="recovery", start=start, end=end, nodeids=_name(fault), words=words)
        )
    return found


def _name(row: OperationRecord | FaultRecord) -> tuple[str, ...]:
    return (row.nodeid,) if row.nodeid else ()


def _marks(rows: RunRows) -> dict[tuple[str, str], list[Mark]]:
    found: dict[tuple[str, str], list[Mark]] = defaultdict(list)
    for fault in sorted(rows.faults, key=lambda f: f.at):
        at = fault.at - rows.run.started_at - (fault.recovery_ms or 0.0) / 1000
        found[fault.node, fault.browser].append(Mark(at=max(0.0, at), words=fault_words(fault)))
    return found


def fault_words(fault: FaultRecord) -> str:
    """A fault in one line."""
    parts = [fault.kind, fault.browser and f"of {fault.browser}", fault.outcome and f"– {fault.outcome}"]
    return " ".join(part for part in parts if part)


def _pieces(test: TestRecord, zero: float, taken: list[Interval]) -> list[Span]:
    """The test's time outside set-up and recovery; at least a point, so that each test can be seen."""
    start = max(0.0, test.started_at - zero)
    end = start + test.duration_s
    where = "/".join(part for part in (test.browser, test.backend) if part) or "no browser"
    words = f"{test.nodeid}: {test.outcome} in {test.duration_s:.2f} s on {test.node}, {where}"
    words += f", {test.recoveries} recoveries" if test.recoveries else ""
    words += ", degraded" if test.degraded else ""
    return [
        Span(kind="run", start=begin, end=stop, nodeids=(test.nodeid,), outcome=test.outcome, words=words)
        for begin, stop in spans.without((start, end), taken) or [(end, end)]
    ]


def drawn(timeline: Timeline) -> Sequence[Lane]:
    """The lanes with neighbours of one kind as one bar where there are too many to be seen apart: such a bar covers the gaps
    between them too."""
    lanes = timeline.lanes
    if sum(len(lane.spans) for lane in lanes) <= MAX_SPANS:
        return lanes
    gap = len(KINDS) * timeline.seconds * len(lanes) / MAX_SPANS
    return [
        Lane(node=lane.node, browser=lane.browser, spans=tuple(_merged(lane.spans, gap)), marks=lane.marks)
        for lane in lanes
    ]


def _merged(given: tuple[Span, ...], gap: float) -> Iterable[Span]:
    failed: list[Span] = []
    for kind in KINDS:
        group: list[Span] = []
        for span in given:
            if span.kind != kind:
                continue
            if span.outcome not in ("", "passed"):
                failed.append(span)
            elif group and span.end - group[0].start > gap:
                yield _one(group)
                group = [span]
            else:
                group.append(span)
        if group:
            yield _one(group)
    yield from failed


def _one(group: list[Span]) -> Span:
    if len(group) == 1:
        return group[0]
    first, busy = group[0], math.fsum(s.end - s.start for s in group)
    words = f"{len(group)} times {first.kind}, {busy:.1f} s in all; first {first.words}"
    end = max(s.end for s in group)
    nodeids = tuple(dict.fromkeys(nodeid for span in group for nodeid in span.nodeids))
    return Span(kind=first.kind, start=first.start, end=end, nodeids=nodeids, words=words)
