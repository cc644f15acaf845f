"""What is shown of a run, worked out from its records. Pure: the same for the live report and for one
from the history.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pytest_browserpool.records import FaultRecord, OperationRecord, TestRecord
from pytest_browserpool.report.timeline import Timeline, build_timeline, load_ms, natural
from pytest_browserpool.store.rows import RunRows

FAILED = ("failed", "error", "crashed")
PASSED = ("passed", "xpassed")

MAX_DECISIONS = 300
"""Decisions listed in the page: the file must stay small; ``browserpool explain`` has all of them."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A number with its name."""

    name: str
    value: str
    note: str = ""
    bad: bool = False


@dataclass(frozen=True, kw_only=True)
class BrowserLine:
    """One kind of browser that was used."""

    name: str
    version: str
    adapter: str
    software: bool
    nodes: tuple[str, ...]
    launches: int
    launch_ms: float | None
    """Median."""
    tests: int
    calls: int
    busy: float | None
    """Share of its life that it spent loading and running models, 0 … 1, over all its instances."""


@dataclass(frozen=True, kw_only=True)
class ModelLine:
    """One model in one browser on one backend. Failed and degraded operations are left out of the times."""

    model: str
    type: str
    browser: str
    backend: str
    loads: int
    load_ms: float | None
    calls: int
    warm_ms: float | None
    """Median of calls on a session that had run before."""
    p95_ms: float | None
    degraded: int


@dataclass(frozen=True, kw_only=True)
class NodeLine:
    """One node and what it did."""

    node: str
    host: str
    cores: int
    memory_gib: float
    tests: int
    busy_s: float
    utilization: float
    """Share of the run that it spent in tests, 0 … 1."""
    end: str


@dataclass(frozen=True, kw_only=True)
class DecisionLine:
    """Why one test ran where it did, beside what came."""

    nodeid: str
    node: str
    where: str
    expected_s: float | None
    actual_s: float | None
    breakdown: tuple[tuple[str, float], ...]
    factors: tuple[tuple[str, float], ...]
    alternatives: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunView:
    """Everything the run section shows."""

    title: str
    subtitle: str
    started_at: float
    """Seconds since the epoch: the timeline's zero."""
    facts: tuple[Fact, ...]
    browsers: tuple[BrowserLine, ...]
    models: tuple[ModelLine, ...]
    nodes: tuple[NodeLine, ...]
    timeline: Timeline
    faults: tuple[FaultRecord, ...]
    decisions: tuple[DecisionLine, ...]
    decisions_left_out: int
    tests: tuple[TestRecord, ...]
    warm_hits: int
    """Loads that found their session warm."""
    warnings: tuple[str, ...]


def build_view(rows: RunRows, warnings: Sequence[str] = ()) -> RunView:
    """The view of one run. ``warnings`` are the history's own troubles."""
    timeline = build_timeline(rows)
    decisions = _decisions(rows)
    return RunView(
        title=f"Run {rows.run.run_id}",
        subtitle=_subtitle(rows),
        started_at=rows.run.started_at,
        facts=_facts(rows, timeline.seconds),
        browsers=_browsers(rows, timeline.seconds),
        models=_models(rows),
        nodes=_nodes(rows, timeline.seconds),
        timeline=timeline,
        faults=tuple(sorted(rows.faults, key=lambda f: f.at)),
        decisions=tuple(decisions[:MAX_DECISIONS]),
        decisions_left_out=max(0, len(decisions) - MAX_DECISIONS),
        tests=tuple(sorted(rows.tests, key=lambda t: (t.started_at, t.nodeid))),
        warm_hits=sum(o.warm for o in rows.operations if o.kind == "load"),
        warnings=tuple(warnings),
    )


def _subtitle(rows: RunRows) -> str:
    run = rows.run
    started = datetime.fromtimestamp(run.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts = [started, run.host and f"on {run.host}", run.scheduler and f"scheduler {run.scheduler}"]
    parts += [
        run.version and f"pytest-browserpool {run.version}",
        run.runtime and f"onnxruntime-web {run.runtime}",
    ]
    return " · ".join(part for part in parts if part)


def median(values: Iterable[float]) -> float | None:
    """The median, or None of nothing."""
    known = list(values)
    return statistics.median(known) if known else None


def p95(values: Iterable[float]) -> float | None:
    """The 95th percentile (linear interpolation), or None of fewer than two values."""
    known = list(values)
    return statistics.quantiles(known, n=20, method="inclusive")[-1] if len(known) > 1 else None


def _facts(rows: RunRows, seconds: float) -> tuple[Fact, ...]:
    tests = rows.tests
    failed = sum(t.outcome in FAILED for t in tests)
    skipped = sum(t.outcome == "skipped" for t in tests)
    expected = sum(t.outcome == "xfailed" for t in tests)
    degraded = sum(t.degraded for t in tests)
    loads = [o for o in rows.operations if o.kind == "load"]
    warm = sum(o.warm for o in loads)
    calls = [o for o in rows.operations if o.kind != "load"]
    recovered = sum(t.recoveries for t in tests)
    notes = [f"{failed} failed"] if failed else []
    notes += [f"{skipped} skipped"] if skipped else []
    notes += [f"{expected} expected to fail"] if expected else []
    return (
        Fact(name="tests", value=str(len(tests)), note=", ".join(notes) or "all passed", bad=bool(failed)),
        Fact(name="wall time", value=duration(seconds)),
        Fact(
            name="browser launches",
            value=str(len(rows.browsers)),
            note=_sum_ms(b.launch_ms for b in rows.browsers),
        ),
        Fact(name="model loads", value=str(len(loads) - warm), note=f"{warm} more found warm"),
        Fact(name="model calls", value=str(len(calls))),
        Fact(
            name="recoveries",
            value=str(recovered),
            note=count(len(rows.faults), "fault"),
            bad=bool(rows.faults),
        ),
        *(
            [Fact(name="degraded tests", value=str(degraded), note="ran on CPU instead", bad=True)]
            if degraded
            else []
        ),
    )


def _sum_ms(values: Iterable[float]) -> str:
    total = sum(values)
    return f"{duration(total / 1000)} in all" if total else ""


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 fault``, ``2 faults``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Seconds as people read them: ``740 ms``, ``3.2 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(value: float | None) -> str:
    """Milliseconds with three significant digits, ``–`` for none."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value / 1000:.{2 if value < 10_000 else 1}f} s"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ms"


def _browsers(rows: RunRows, seconds: float) -> tuple[BrowserLine, ...]:
    kinds: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    for browser in rows.browsers:
        kinds[browser.name, browser.version, browser.adapter].append(browser)
    busy: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for operation in rows.operations:
        busy[operation.instance] += operation.latency_ms / 1000
        calls[operation.instance] += operation.kind != "load"
    tests_of: dict[str, set[str]] = defaultdict(set)
    for operation in rows.operations:
        tests_of[operation.instance].add(operation.nodeid)
    lines = []
    for (name, version, adapter), group in sorted(kinds.items()):
        life = sum((b.closed_at or rows.run.started_at + seconds) - b.launched_at for b in group)
        lines.append(
            BrowserLine(
                name=name,
                version=version,
                adapter=adapter,
                software="(software)" in adapter,
                nodes=tuple(sorted({b.node for b in group})),
                launches=len(group),
                launch_ms=median(b.launch_ms for b in group if b.launch_ms > 0),
                tests=len(set().union(*(tests_of[b.instance] for b in group))),
                calls=sum(calls[b.instance] for b in group),
                busy=min(1.0, sum(busy[b.instance] for b in group) / life) if life > 0 else None,
            )
        )
    return tuple(lines)


def _models(rows: RunRows) -> tuple[ModelLine, ...]:
    known = {model.sha256: model for model in rows.models}
    launched = {browser.instance: browser for browser in rows.browsers}
    groups: dict[tuple[str, str, str], list[OperationRecord]] = defaultdict(list)
    for operation in rows.operations:
        groups[operation.model, operation.browser, operation.backend].append(operation)
    lines = []
    for (sha256, browser, backend), operations in groups.items():
        model = known.get(sha256)
        good = [o for o in operations if o.ok and not o.degraded]
        loads = [load_ms(o, launched.get(o.instance)) for o in good if o.kind == "load" and not o.warm]
        warm = [o.latency_ms for o in good if o.kind == "run" and o.warm]
        lines.append(
            ModelLine(
                model=(model.id or model.label) if model else sha256[:12],
                type=model.type if model else "",
                browser=browser,
                backend=backend,
                loads=len(loads),
                load_ms=median(loads),
                calls=sum(o.kind != "load" for o in operations),
                warm_ms=median(warm),
                p95_ms=p95(warm),
                degraded=sum(o.degraded for o in operations),
            )
        )
    return tuple(sorted(lines, key=lambda line: (line.model, line.backend, line.browser)))


def _nodes(rows: RunRows, seconds: float) -> tuple[NodeLine, ...]:
    lines = []
    for node in sorted(rows.nodes, key=lambda n: natural(n.node)):
        mine = [t for t in rows.tests if t.node == node.node]
        busy = sum(t.duration_s for t in mine)
        lines.append(
            NodeLine(
                node=node.node,
                host=node.host,
                cores=node.cores,
                memory_gib=node.memory_gib,
                tests=len(mine),
                busy_s=busy,
                utilization=min(1.0, busy / seconds) if seconds > 0 else 0.0,
                end="" if node.down_reason in ("", "end", "finished") else node.down_reason,
            )
        )
    return tuple(lines)


def _decisions(rows: RunRows) -> list[DecisionLine]:
    took = {test.nodeid: test.duration_s for test in rows.tests}
    return [
        DecisionLine(
            nodeid=d.nodeid,
            node=d.node,
            where="/".join(part for part in (d.browser, d.backend) if part),
            expected_s=d.expected_s,
            actual_s=took.get(d.nodeid),
            breakdown=_pairs(d.breakdown),
            factors=_pairs(d.factors),
            alternatives=tuple(_alternative(a) for a in _json(d.alternatives, list)),
        )
        for d in sorted(rows.decisions, key=lambda d: d.at)
    ]


def _json(text: str, kind: type) -> Any:
    """What a JSON column holds, empty where it is empty or damaged."""
    try:
        value = json.loads(text) if text else kind()
    except ValueError:
        return kind()
    return value if isinstance(value, kind) else kind()


def _pairs(text: str) -> tuple[tuple[str, float], ...]:
    return tuple((str(k), float(v)) for k, v in _json(text, dict).items() if isinstance(v, (int, float)))


def _alternative(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    where = "/".join(str(value[k]) for k in ("node", "browser", "backend") if value.get(k))
    expected = value.get("expected_s")
    return f"{where}: {expected:.2f} s" if isinstance(expected, (int, float)) else where
