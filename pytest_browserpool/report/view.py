"""What is shown of a run, worked out from its records. Pure: the same for the live report and for one
from the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pytest_browserpool.records import FaultRecord, TestRecord
from pytest_browserpool.report.choices import (
    DecisionLine,
    Expectation,
    Recovery,
    decision_lines,
    expectation,
    recoveries,
)
from pytest_browserpool.report.foresight import Foresight, foresight
from pytest_browserpool.report.latency import Spread, spreads
from pytest_browserpool.report.lines import (
    BrowserLine,
    ModelLine,
    NodeLine,
    browser_lines,
    model_lines,
    node_lines,
)
from pytest_browserpool.report.saved import saved_seconds
from pytest_browserpool.report.series import Panel, panels
from pytest_browserpool.report.timeline import Timeline, build_timeline
from pytest_browserpool.report.words import count, duration
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
class RunView:
    """Everything the run section shows."""

    run_id: str
    title: str
    subtitle: str
    started_at: float
    """Seconds since the epoch: the timeline's zero."""
    facts: tuple[Fact, ...]
    browsers: tuple[BrowserLine, ...]
    models: tuple[ModelLine, ...]
    nodes: tuple[NodeLine, ...]
    timeline: Timeline
    panels: tuple[Panel, ...]
    """What was measured over time."""
    spreads: tuple[Spread, ...]
    """Warm latencies as distributions."""
    faults: tuple[FaultRecord, ...]
    recoveries: tuple[Recovery, ...]
    decisions: tuple[DecisionLine, ...]
    decisions_left_out: int
    expectation: Expectation | None
    foresight: Foresight
    attachments: Mapping[str, Mapping[str, str]]
    """Test → kind → what a failure left to look at."""
    tests: tuple[TestRecord, ...]
    warm_hits: int
    """Loads that found their session warm."""
    saved_s: float
    """Seconds of launches and loads that warm browsers made needless."""
    warnings: tuple[str, ...]


def build_view(rows: RunRows, warnings: Sequence[str] = ()) -> RunView:
    """The view of one run. ``warnings`` are the history's own troubles."""
    timeline = build_timeline(rows)
    decisions = decision_lines(rows)
    browsers, models = browser_lines(rows, timeline.seconds), model_lines(rows)
    saved = saved_seconds(rows, browsers, models)
    return RunView(
        run_id=rows.run.run_id,
        title=f"Run {rows.run.run_id}",
        subtitle=_subtitle(rows),
        started_at=rows.run.started_at,
        facts=_facts(rows, timeline.seconds, saved),
        browsers=browsers,
        models=models,
        nodes=node_lines(rows, timeline.seconds),
        timeline=timeline,
        panels=panels(rows),
        spreads=spreads(models),
        faults=tuple(sorted(rows.faults, key=lambda f: f.at)),
        recoveries=recoveries(rows),
        decisions=tuple(decisions[:MAX_DECISIONS]),
        decisions_left_out=max(0, len(decisions) - MAX_DECISIONS),
        expectation=expectation(decisions),
        foresight=foresight(rows),
        attachments=_attachments(rows),
        tests=tuple(sorted(rows.tests, key=lambda t: (t.started_at, t.nodeid))),
        warm_hits=sum(o.warm for o in rows.operations if o.kind == "load"),
        saved_s=saved,
        warnings=tuple(warnings),
    )


def _attachments(rows: RunRows) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for each in rows.attachments:
        found.setdefault(each.nodeid, {})[each.kind] = each.content
    return found


def _subtitle(rows: RunRows) -> str:
    run = rows.run
    started = datetime.fromtimestamp(run.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts = [started, run.host and f"on {run.host}", run.scheduler and f"scheduler {run.scheduler}"]
    parts += [
        run.version and f"pytest-browserpool {run.version}",
        run.runtime and f"onnxruntime-web {run.runtime}",
    ]
    return " · ".join(part for part in parts if part)


def _facts(rows: RunRows, seconds: float, saved: float) -> tuple[Fact, ...]:
    tests = rows.tests
    failed = sum(t.outcome in FAILED for t in tests)
    degraded = sum(t.degraded for t in tests)
    loads = [o for o in rows.operations if o.kind == "load"]
    warm = sum(o.warm for o in loads)
    facts = [
        Fact(name="tests", value=str(len(tests)), note=_outcomes(rows, failed), bad=bool(failed)),
        Fact(name="wall time", value=duration(seconds)),
        Fact(
            name="browser launches",
            value=str(len(rows.browsers)),
            note=_sum_ms(b.launch_ms for b in rows.browsers),
        ),
        Fact(name="model loads", value=str(len(loads) - warm), note=f"{warm} more found warm"),
        Fact(name="model calls", value=str(sum(o.kind != "load" for o in rows.operations))),
        Fact(
            name="recoveries",
            value=str(sum(t.recoveries for t in tests)),
            note=count(len(rows.faults), "fault"),
            bad=bool(rows.faults),
        ),
    ]
    if saved >= 1:
        facts.append(Fact(name="saved", value=duration(saved), note="of launches and loads"))
    if degraded:
        note = "ran on CPU instead"
        facts.append(Fact(name="degraded tests", value=str(degraded), note=note, bad=True))
    return tuple(facts)


def _outcomes(rows: RunRows, failed: int) -> str:
    skipped = sum(t.outcome == "skipped" for t in rows.tests)
    expected = sum(t.outcome == "xfailed" for t in rows.tests)
    notes = [f"{failed} failed"] if failed else []
    notes += [f"{skipped} skipped"] if skipped else []
    notes += [f"{expected} expected to fail"] if expected else []
    return ", ".join(notes) or ("all passed" if rows.tests else "none ran")


def _sum_ms(values: Iterable[float]) -> str:
    total = sum(values)
    return f"{duration(total / 1000)} in all" if total else ""
