"""What is shown of a run, worked out by hand for small runs; the page and the terminal's section."""

from __future__ import annotations

import html.parser
import time
from pathlib import Path
from typing import Any

import pytest
import report_samples
from report_samples import EVIL, START

from pytest_browserpool.records import (
    BrowserRecord,
    FaultRecord,
    NodeRecord,
    OperationRecord,
    RunRecord,
    TestRecord,
)
from pytest_browserpool.report import render, timeline
from pytest_browserpool.report.details import MAX_CONSOLE_LINES, TestDetails, details_of, tail
from pytest_browserpool.report.terminal import summary_lines
from pytest_browserpool.report.view import build_view, duration, milliseconds
from pytest_browserpool.store.rows import RunCollector, RunRows


def a_test(nodeid: str = "t.py::a", **changes: Any) -> TestRecord:
    given = {
        "run_id": "r",
        "nodeid": nodeid,
        "node": "gw0",
        "outcome": "passed",
        "started_at": START,
        "duration_s": 1.0,
    }
    return TestRecord(**{**given, **changes})


def browser(**changes: Any) -> BrowserRecord:
    given = {
        "run_id": "r",
        "node": "gw0",
        "instance": "i",
        "name": "chromium",
        "family": "chrome",
        "version": "1",
    }
    return BrowserRecord(**{**given, "launched_at": START + 1.0, "launch_ms": 1000.0, **changes})


def operation(number: int, **changes: Any) -> OperationRecord:
    given = {"run_id": "r", "operation": str(number), "nodeid": "t.py::a", "node": "gw0", "instance": "i"}
    given |= {"browser": "chromium", "browser_version": "1", "backend": "wasm", "model": "m", "kind": "run"}
    return OperationRecord(**{**given, "started_at": START + 5, "latency_ms": 10.0, "warm": True, **changes})


def run(**rows: Any) -> RunRows:
    return RunRows(run=RunRecord(run_id="r", started_at=START, finished_at=START + 10), **rows)


def test_a_run_without_anything_is_shown() -> None:
    view = build_view(RunRows(run=RunRecord(run_id="r", started_at=START)))
    assert view.timeline.lanes == ()
    assert "Run r" in render.section(view)
    assert summary_lines(view, history=Path("h"), report=None) == []


def test_bars_have_their_setup_without_counting_a_launch_twice() -> None:
    load = operation(1, kind="load", warm=False, started_at=START + 0.0, latency_ms=1800.0)
    rows = run(tests=(a_test(duration_s=4.0),), browsers=(browser(),), operations=(load,))
    (lane,) = build_view(rows).timeline.lanes
    assert lane.bars[0].setup == pytest.approx(1.8)  # 1.0 launch + 0.8 load
    assert (lane.lives[0].start, lane.lives[0].ready, lane.lives[0].end) == (0.0, 1.0, 10.0)


def test_the_life_of_a_browser_ends_with_its_node() -> None:
    nodes = (NodeRecord(run_id="r", node="gw0", up_at=START, down_at=START + 6, down_reason="killed"),)
    view = build_view(run(browsers=(browser(),), nodes=nodes))
    assert view.timeline.lanes[0].lives[0].end == 6.0
    assert view.nodes[0].end == "killed"


def test_lanes_come_in_the_order_of_their_numbers() -> None:
    view = build_view(run(tests=tuple(a_test(f"t{n}", node=f"gw{n}") for n in (10, 9, 0))))
    assert [lane.node for lane in view.timeline.lanes] == ["gw0", "gw9", "gw10"]


@pytest.mark.parametrize(
    ("seconds", "step"),
    [(0.05, 0.005), (0.9, 0.1), (9.0, 1.0), (30.0, 5.0), (100.0, 10.0), (300.0, 30.0), (7200.0, 900.0)],
)
def test_ticks_are_round(seconds: float, step: float) -> None:
    found = timeline.ticks(seconds)
    assert found[1] == pytest.approx(step)
    assert found[-1] <= seconds + 1e-9
    assert len(found) <= timeline.MAX_TICKS + 1


def test_models_leave_out_what_failed_or_was_degraded() -> None:
    operations = (
        operation(1, latency_ms=10.0),
        operation(2, latency_ms=20.0),
        operation(3, latency_ms=900.0, ok=False),
        operation(4, latency_ms=900.0, degraded=True),
        operation(5, latency_ms=500.0, warm=False),
    )
    (line,) = build_view(run(operations=operations)).models
    assert (line.calls, line.warm_ms, line.degraded) == (5, 15.0, 1)


def test_browsers_are_busy_for_a_share_of_their_lives() -> None:
    (line,) = build_view(run(browsers=(browser(),), operations=(operation(1, latency_ms=4500.0),))).browsers
    assert line.busy == pytest.approx(0.5)  # 4.5 of the 9 s from ready to the run's end


def test_the_terminals_section_says_what_happened() -> None:
    rows = run(
        tests=(a_test(degraded=True),),
        browsers=(browser(),),
        operations=(operation(1, kind="load", warm=False), operation(2, kind="load"), operation(3)),
        faults=(FaultRecord(run_id="r", node="gw0", at=START, kind="page_hung", outcome="recovered"),),
    )
    text = "\n".join(summary_lines(build_view(rows), history=Path("/h.duckdb"), report=Path("/r.html")))
    assert "1 launch: chromium 1 ×1" in text
    assert "1 load of 1 model, 1 call, 1 found warm" in text
    assert "m chromium/wasm 10.0 ms a warm call" in text
    assert "faults     1, 1 recovered" in text
    assert "1 test ran on the CPU" in text
    assert "/h.duckdb" in text
    assert "/r.html" in text


def test_numbers_are_readable() -> None:
    assert [duration(s) for s in (0.0004, 0.5, 3.21, 59.97, 125, 3725)] == [
        "0 ms",
        "500 ms",
        "3.2 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 02 min",
    ]
    assert [milliseconds(v) for v in (None, 0.123, 12.34, 123.4, 1234.0, 12340.0)] == [
        "–",
        "0.12 ms",
        "12.3 ms",
        "123 ms",
        "1.23 s",
        "12.3 s",
    ]


class Tags(html.parser.HTMLParser):
    """Collects what an HTML page really contains."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        assert not any(name.startswith("on") for name in given), given
        self.links += [given[name] or "" for name in ("src", "href") if name in given]
        self.ids += [given["id"] or ""] if "id" in given else []


def test_the_page_holds_no_script_and_needs_no_network() -> None:
    page = render.page(build_view(report_samples.sample_run(), [f"warned {EVIL}"]))
    found = Tags(page)
    assert "script" not in found.tags
    assert "img" not in found.tags
    assert all(link.startswith("#") for link in found.links)
    assert "@import" not in page
    assert "url(" not in page
    from urllib.parse import unquote

    assert {unquote(link[1:]) for link in found.links} == set(found.ids)  # each bar leads to its test's row


def test_a_page_of_a_thousand_tests_is_small_and_quick() -> None:
    rows = report_samples.sample_run(tests=1000, nodes=4)
    started = time.perf_counter()
    page = render.page(build_view(rows))
    assert time.perf_counter() - started < 10  # 0.3 s alone on a machine
    assert len(page) < 3_000_000


def test_a_long_console_is_cut_to_its_end() -> None:
    lines = tail(tuple(f"line {n}" for n in range(MAX_CONSOLE_LINES + 5)))
    assert lines[0] == "(5 earlier lines left out)"
    assert lines[-1] == f"line {MAX_CONSOLE_LINES + 4}"
    assert len(tail(("x" * 10_000,))[0]) < 3000


def test_details_take_what_any_version_of_a_node_sends() -> None:
    class Report:
        browserpool = {"browser": "firefox", "console": ["a"], "from_the_future": 1}  # noqa: RUF012

    assert details_of(Report()) == TestDetails(browser="firefox", console=("a",))
    assert details_of(object()) is None


def test_the_collector_gives_the_last_of_each_row() -> None:
    collector = RunCollector()
    assert collector.rows() is None
    collector.add([RunRecord(run_id="r", started_at=START), a_test(), operation(1)])
    collector.add([a_test(outcome="failed"), RunRecord(run_id="r", started_at=START, finished_at=START + 1)])
    rows = collector.rows()
    assert rows is not None
    assert [t.outcome for t in rows.tests] == ["failed"]
    assert rows.run.finished_at == START + 1
    assert len(rows.operations) == 1
