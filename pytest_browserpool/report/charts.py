"""What the page's script draws, as plain data: the numbers of the view, rounded, tests by their place in a list. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_browserpool.records import TestRecord
from pytest_browserpool.report.latency import ROWS, Spread
from pytest_browserpool.report.series import Panel
from pytest_browserpool.report.timeline import KINDS, Span, drawn
from pytest_browserpool.report.view import FAILED, RunView


def chart_data(view: RunView) -> dict[str, Any]:
    """One object for ``static/*.js``, which says how each part is drawn."""
    names = list(dict.fromkeys([*(t.nodeid for t in view.tests), *_mentioned(view)]))
    place = {nodeid: number for number, nodeid in enumerate(names)}
    return {
        "seconds": rounded(view.timeline.seconds),
        "tests": tests_data(names, {test.nodeid: test for test in view.tests}),
        "timelines": [lanes_data(view, place)],
        "panels": [_panel(panel) for panel in view.panels],
        "latency": [_spread(spread, place) for spread in view.spreads[:ROWS]],
        "forecasts": [
            {"browser": f.browser, "points": [[rounded(v) for v in point] for point in f.points]}
            for f in view.foresight.forecasts
        ],
        "expected": [
            [place[d.nodeid], rounded(d.expected_s), rounded(d.actual_s)]
            for d in view.decisions
            if d.nodeid in place and d.expected_s and d.actual_s
        ],
    }


def tests_data(names: Sequence[str], known: Mapping[str, TestRecord]) -> list[list[Any]]:
    """[node id, outcome, seconds, browser, backend] of each test; of one that never ended only its name."""
    found: list[list[Any]] = []
    for nodeid in names:
        test = known.get(nodeid)
        if test is None:
            found.append([nodeid, "", 0, "", ""])
        else:
            found.append([nodeid, test.outcome, rounded(test.duration_s), test.browser, test.backend])
    return found


def lanes_data(view: RunView, place: Mapping[str, int]) -> list[dict[str, Any]]:
    """The timeline's lanes. ``place``: where each test is in the list of tests; spans of others name none."""
    return [
        {
            "node": lane.node,
            "browser": lane.browser,
            "spans": [_span(span, place) for span in lane.spans],
            "faults": [[rounded(mark.at), mark.words] for mark in lane.marks],
        }
        for lane in drawn(view.timeline)
    ]


def _mentioned(view: RunView) -> Iterable[str]:
    for lane in view.timeline.lanes:
        for span in lane.spans:
            yield from span.nodeids


def _span(span: Span, place: Mapping[str, int]) -> list[Any]:
    """[kind, start, end, tests, failed, words]; no words where they are those of the test itself."""
    tests = [place[nodeid] for nodeid in span.nodeids if nodeid in place]
    own = span.kind == "run" and len(tests) == 1
    failed = int(span.outcome in FAILED)
    words = "" if own else span.words
    return [KINDS.index(span.kind), rounded(span.start), rounded(span.end), tests, failed, words]


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "key": panel.key,
        "unit": panel.unit,
        "step": panel.step,
        "series": [
            {
                "name": series.name,
                "node": series.node,
                "browser": series.browser,
                "points": [[rounded(at), rounded(value)] for at, value in series.points],
            }
            for series in panel.series
        ],
    }


def _spread(spread: Spread, place: Mapping[str, int]) -> dict[str, Any]:
    return {
        "model": spread.model,
        "where": f"{spread.browser}/{spread.backend}",
        "calls": spread.calls,
        "box": [rounded(v) for v in (spread.low, spread.first, spread.median, spread.third, spread.high)],
        "dots": [rounded(v) for v in spread.dots],
        "tests": [place[n] for n in spread.nodeids if n in place],
    }


def rounded(value: float | None, digits: int = 5) -> float | None:
    """Five significant digits: a page needs no more, and each byte counts a thousand times."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short == int(short) else short
