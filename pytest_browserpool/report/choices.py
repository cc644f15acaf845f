"""Why tests ran where they did, what was expected beside what came, and recoveries step by step. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pytest_browserpool.records import DecisionRecord, FaultRecord
from pytest_browserpool.report.words import clock, median
from pytest_browserpool.store.rows import RunRows


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
class Expectation:
    """How well the ends of tests were foreseen."""

    tests: int
    error_s: float
    """Median of |expected − measured|."""
    ratio: float
    """Median of measured ÷ expected."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that was tried after a fault."""

    action: str
    browser: str
    seconds: float | None
    outcome: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """A fault, what was done about it, step by step, and what came of it."""

    at: str
    """Since the run's start."""
    fault: FaultRecord
    steps: tuple[Step, ...]


def decision_lines(rows: RunRows) -> list[DecisionLine]:
    """Every decision of the run, in the order in which they were made."""
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
            alternatives=tuple(_alternative(a) for a in from_json(d.alternatives, list)),
        )
        for d in sorted(rows.decisions, key=_when)
    ]


def _when(decision: DecisionRecord) -> float:
    return decision.at


def expectation(lines: list[DecisionLine]) -> Expectation | None:
    """None where nothing was foreseen, as without a scheduler."""
    pairs = [
        (line.expected_s, line.actual_s)
        for line in lines
        if line.expected_s is not None and line.actual_s is not None
    ]
    error = median(abs(e - a) for e, a in pairs)
    ratio = median(a / e for e, a in pairs if e > 0)
    if error is None or ratio is None:
        return None
    return Expectation(tests=len(pairs), error_s=error, ratio=ratio)


def recoveries(rows: RunRows) -> tuple[Recovery, ...]:
    """Every fault of the run with its steps, in the order in which they came."""
    return tuple(
        Recovery(at=clock(max(0.0, fault.at - rows.run.started_at)), fault=fault, steps=steps_of(fault))
        for fault in sorted(rows.faults, key=lambda f: f.at)
    )


def steps_of(fault: FaultRecord) -> tuple[Step, ...]:
    """The attempts of ``fault``; of what an older version recorded, as much as can be read."""
    steps = []
    for plain in from_json(fault.attempts, list):
        if not isinstance(plain, dict):
            continue
        seconds = plain.get("seconds")
        steps.append(
            Step(
                action=str(plain.get("action") or "").replace("_", " "),
                browser=str(plain.get("browser") or ""),
                seconds=float(seconds) if isinstance(seconds, (int, float)) else None,
                outcome=str(plain.get("outcome") or "").replace("_", " "),
                detail=str(plain.get("detail") or ""),
            )
        )
    return tuple(steps)


def from_json(text: str, kind: type) -> Any:
    """What a JSON column holds, empty where it is empty or damaged."""
    try:
        value = json.loads(text) if text else kind()
    except ValueError:
        return kind()
    return value if isinstance(value, kind) else kind()


def _pairs(text: str) -> tuple[tuple[str, float], ...]:
    return tuple((str(k), float(v)) for k, v in from_json(text, dict).items() if isinstance(v, (int, float)))


def _alternative(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    where = "/".join(str(value[k]) for k in ("node", "browser", "backend") if value.get(k))
    expected = value.get("expected_s")
    return f"{where}: {expected:.2f} s" if isinstance(expected, (int, float)) else where
