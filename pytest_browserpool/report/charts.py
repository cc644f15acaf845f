"""What the page's script draws, as plain data: the numbers of the view, rounded, tests by their place in a list. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pytest_browserpool.report.latency import ROWS
from pytest_browserpool.report.timeline import KINDS, Lane, Span
from pytest_browserpool.report.view import FAILED, RunView


def chart_data(view: RunView) -> dict[str, Any]:
    """One object for ``static/*.js``, which says how each part is drawn."""
    names = list(dict.fromkeys([*(t.nodeid for t in view.tests), *_mentioned(view)]))
    place = {nodeid: number for number, nodeid in enumerate(names)}
    known = {t.nodeid: t for t in view.tests}
    tests = []
    for nodeid in names:
        test = known.get(nodeid)
        tests.append(
            [nodeid, test.outcome, _round(test.duration_s), test.browser, test.backend]
            if test
            else [nodeid, "", 0, "", ""]
        )
    return {
        "seconds": _round(view.timeline.seconds),
        "tests": tests,
        "timeline": [_lane(lane, place) for lane in view.timeline.lanes],
        "panels": [
            {
                "key": panel.key,
                "unit": panel.unit,
                "step": panel.step,
                "series": [
                    {
                        "name": series.name,
                        "node": series.node,
                        "browser": series.browser,
                        "points": [[_round(at), _round(value)] for at, value in series.points],
                    }
                    for series in panel.series
                ],
            }
            for panel in view.panels
        ],
        "latency": [
            {
                "model": s.model,
                "where": f"{s.browser}/{s.backend}",
                "calls": s.calls,
                "box": [_round(v) for v in (s.low, s.first, s.median, s.third, s.high)],
                "dots": [_round(v) for v in s.dots],
                "tests": [place[n] for n in s.nodeids if n in place],
            }
            for s in view.spreads[:ROWS]
        ],
        "expected": [
            [place[d.nodeid], _round(d.expected_s), _round(d.actual_s)]
            for d in view.decisions
            if d.nodeid in place and d.expected_s and d.actual_s
        ],
    }


def _mentioned(view: RunView) -> Iterable[str]:
    for lane in view.timeline.lanes:
        for span in lane.spans:
            yield from span.nodeids


def _lane(lane: Lane, place: dict[str, int]) -> dict[str, Any]:
    return {
        "node": lane.node,
        "browser": lane.browser,
        "spans": [_span(span, place) for span in lane.spans],
        "faults": [[_round(mark.at), mark.words] for mark in lane.marks],
    }


def _span(span: Span, place: dict[str, int]) -> list[Any]:
    """[kind, start, end, tests, failed, words]; no words where they are those of the test itself."""
    tests = [place[nodeid] for nodeid in span.nodeids]
    own = span.kind == "run" and len(tests) == 1
    failed = int(span.outcome in FAILED)
    return [
        KINDS.index(span.kind),
        _round(span.start),
        _round(span.end),
        tests,
        failed,
        "" if own else span.words,
    ]


def _round(value: float | None, digits: int = 5) -> float | None:
    """Five significant digits: a page needs no more, and each byte counts a thousand times."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded == int(rounded) else rounded
