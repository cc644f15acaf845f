"""What is shown of a run, worked out by hand for small runs; the page and the terminal's section."""

from __future__ import annotations

import html.parser
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_samples
from report_samples import EVIL, START

from pytest_browserpool.artefacts import charts
from pytest_browserpool.records import (
    AttachmentRecord,
    BrowserRecord,
    DecisionRecord,
    FaultRecord,
    ForecastRecord,
    MetricRecord,
    NodeRecord,
    OperationRecord,
    RunRecord,
    StealRecord,
    TestRecord,
)
from pytest_browserpool.report import latency, render, series, timeline
from pytest_browserpool.report.charts import chart_data
from pytest_browserpool.report.compare import compare, compared_data
from pytest_browserpool.report.details import MAX_CONSOLE_LINES, Pictures, TestDetails, details_of, tail
from pytest_browserpool.report.terminal import summary_lines
from pytest_browserpool.report.view import RunView, build_view
from pytest_browserpool.report.words import duration, milliseconds, short_names
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


def kinds(view: RunView) -> list[tuple[str, float, float]]:
    (lane,) = view.timeline.lanes
    return [(s.kind, round(s.start, 3), round(s.end, 3)) for s in lane.spans]


def test_a_browsers_time_is_told_apart_without_counting_a_launch_twice() -> None:
    load = operation(1, kind="load", warm=False, started_at=START + 0.0, latency_ms=1800.0)
    fault = FaultRecord(run_id="r", node="gw0", at=START + 3, kind="x", browser="chromium", recovery_ms=500.0)
    test = a_test(duration_s=4.0, browser="chromium")
    rows = run(tests=(test,), browsers=(browser(),), operations=(load,), faults=(fault,))
    assert kinds(build_view(rows)) == [
        ("idle", 4.0, 10.0),
        ("setup", 0.0, 1.0),  # the launch
        ("setup", 1.0, 1.8),  # the load, without the launch that it waited for
        ("run", 1.8, 2.5),
        ("run", 3.0, 4.0),
        ("recovery", 2.5, 3.0),
    ]


def test_the_life_of_a_browser_ends_with_its_node() -> None:
    nodes = (NodeRecord(run_id="r", node="gw0", up_at=START, down_at=START + 6, down_reason="killed"),)
    view = build_view(run(browsers=(browser(),), nodes=nodes))
    assert kinds(view) == [("idle", 1.0, 6.0), ("setup", 0.0, 1.0)]
    assert view.nodes[0].end == "killed"


def test_a_test_of_a_sharded_model_is_in_the_lane_of_each_of_its_browsers() -> None:
    view = build_view(run(tests=(a_test(browser="chromium+firefox"), a_test("t.py::b"))))
    assert [(lane.browser, lane.tests) for lane in view.timeline.lanes] == [
        ("chromium", 1),
        ("firefox", 1),
        ("", 1),
    ]


def test_lanes_come_in_the_order_of_their_numbers() -> None:
    view = build_view(run(tests=tuple(a_test(f"t{n}", node=f"gw{n}") for n in (10, 9, 0))))
    assert [lane.node for lane in view.timeline.lanes] == ["gw0", "gw9", "gw10"]


def test_what_is_too_fine_to_be_seen_is_drawn_as_one_and_keeps_its_tests_and_failures() -> None:
    tests = [a_test(f"t{n}", started_at=START + n / 1000, duration_s=0.0008) for n in range(9999)]
    tests.append(a_test("bad", started_at=START + 5, outcome="failed"))
    view = build_view(run(tests=tuple(tests)))
    (lane,) = timeline.drawn(view.timeline)
    assert len(lane.spans) <= timeline.MAX_SPANS
    assert lane.tests == 10_000
    assert [s.nodeids for s in lane.spans if s.outcome == "failed"] == [("bad",)]


def test_what_is_drawn_as_one_does_not_count_as_longer() -> None:
    tests = tuple(
        a_test(f"t{n}", node=f"gw{n % 4}", started_at=START + n // 4, duration_s=0.3) for n in range(6000)
    )
    view = build_view(run(tests=tests))
    assert all(len(lane.spans) == 1500 for lane in view.timeline.lanes)
    assert [round(lane.seconds("run"), 3) for lane in view.timeline.lanes] == [450.0] * 4


def metric(at: float, value: float, **changes: Any) -> MetricRecord:
    return MetricRecord(
        **{"run_id": "r", "node": "gw0", "at": START + at, "name": "cpu_percent", "value": value, **changes}
    )


def test_series_are_grouped_by_what_they_measure() -> None:
    metrics = (
        metric(1, 50.0),
        metric(2, 70.0),
        metric(1, 0.25, name="utilization", instance="i"),
        metric(1, 2.0 * 2**30, name="memory_bytes", instance="i"),
        metric(1, 7.0, name="queued_3", node=""),
        metric(1, 3.0, name="shard_idle_ms", instance="i"),
    )
    found = {p.key: p.series for p in build_view(run(browsers=(browser(),), metrics=metrics)).panels}
    assert [(s.name, s.points) for s in found["utilization"]] == [
        ("gw0 processor", ((1.0, 50.0), (2.0, 70.0))),
        ("gw0 chromium", ((1.0, 25.0),)),
    ]
    assert [(s.name, s.values) for s in found["memory"]] == [("gw0 chromium", (2.0,))]
    assert [(s.name, s.values) for s in found["queue"]] == [("priority 3", (7.0,))]
    assert set(found) == {"utilization", "memory", "queue"}


def test_a_long_series_is_thinned_out_and_keeps_its_peaks() -> None:
    points = [(float(t), 0.0) for t in range(10_000)]
    points[4321] = (4321.0, 9.0)
    found = series.thinned(points)
    assert len(found) <= series.POINTS
    assert (4321.0, 9.0) in found
    assert list(found) == sorted(found)


def test_distributions_have_the_quantiles_that_numpy_has() -> None:
    values = [random.Random(5).lognormvariate(0, 1) for _ in range(333)]
    operations = tuple(operation(i, latency_ms=v) for i, v in enumerate(values))
    (spread,) = build_view(run(operations=operations)).spreads
    found = (spread.low, spread.first, spread.median, spread.third, spread.high)
    assert found == pytest.approx(np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)))
    assert len(spread.dots) == latency.DOTS
    assert spread.nodeids == ("t.py::a",)


def test_recoveries_have_their_steps_whatever_was_recorded() -> None:
    steps = '[{"action": "restart_browser", "browser": "chromium", "seconds": 1.5, "outcome": "ok"}, 7]'
    faults = (
        FaultRecord(run_id="r", node="gw0", at=START + 2, kind="page_hung", attempts=steps),
        FaultRecord(run_id="r", node="gw0", at=START + 1, kind="node_lost", attempts="{damaged"),
    )
    lost, hung = build_view(run(faults=faults)).recoveries
    assert (lost.at, lost.steps) == ("1 s", ())
    assert [(s.action, s.browser, s.seconds, s.outcome) for s in hung.steps] == [
        ("restart browser", "chromium", 1.5, "ok")
    ]


def test_a_model_is_called_by_as_much_of_its_label_as_tells_it_from_the_others() -> None:
    labels = (
        "pypi:a==1/x/model.onnx",
        "pypi:b==1/y/model.onnx#sha256=ab12",
        "m/ocr.onnx#sha256=ab, segment 1",
        "vad",
    )
    assert list(short_names(labels).values()) == [
        "x/model.onnx",
        "y/model.onnx",
        "ocr.onnx, segment 1",
        "vad",
    ]


def test_what_was_expected_is_compared_with_what_came() -> None:
    made = DecisionRecord(run_id="r", nodeid="t.py::a", at=START, node="gw0", expected_s=0.5)
    found = build_view(run(tests=(a_test(),), decisions=(made,))).expectation
    assert found is not None
    assert (found.tests, found.error_s, found.ratio) == (1, 0.5, 2.0)
    assert build_view(run(tests=(a_test(),))).expectation is None


def test_what_was_saved_is_what_a_launch_and_a_load_for_each_test_would_have_cost() -> None:
    operations = (
        operation(1, kind="load", warm=False, latency_ms=400.0, started_at=START + 2),
        operation(2, warm=False, latency_ms=110.0),  # compiles for 100 ms
        operation(3, latency_ms=10.0),
        operation(4, kind="load", warm=True, nodeid="t.py::b", latency_ms=1.0),
        operation(5, nodeid="t.py::b", latency_ms=10.0),
    )
    view = build_view(run(browsers=(browser(),), operations=operations))
    assert view.saved_s == pytest.approx(1.0 + 0.4 + 0.1)  # one launch, one load, one compilation


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


def test_nothing_in_the_page_is_a_tests_and_it_needs_no_network() -> None:
    page = render.page(build_view(report_samples.sample_run(), [f"warned {EVIL}"]))
    found = Tags(page)
    ours = ["script"] * (3 if charts.held() else 2)  # data, library, ours
    assert [tag for tag in found.tags if tag == "script"] == ours
    assert found.tags.count("img") == 2  # the screenshots of the two failures
    assert EVIL not in page
    assert set(found.links) == {f"data:image/png;base64,{report_samples.PICTURE}"}
    head = page.replace(charts.source() or "", "")
    assert "@import" not in head
    assert "url(" not in head
    assert "http" not in head


def test_the_data_says_which_tests_each_mark_stands_for() -> None:
    view = build_view(report_samples.sample_run())
    data = chart_data(view)
    assert json.loads(json.dumps(data)) == data
    names = [test[0] for test in data["tests"]]
    assert names[: len(view.tests)] == [t.nodeid for t in view.tests]  # the table counts on it
    marked = {names[i] for lane in data["timelines"][0] for span in lane["spans"] for i in span[3]}
    assert {t.nodeid for t in view.tests} <= marked
    assert all(0 <= i < len(names) for row in data["latency"] for i in row["tests"])
    assert len(data["expected"]) == 60


def test_what_a_failure_left_is_in_its_row_and_only_a_png_is_a_picture() -> None:
    def left(kind: str, content: str) -> AttachmentRecord:
        return AttachmentRecord(run_id="r", nodeid="t.py::a", kind=kind, content=content)

    failed = a_test(outcome="failed", message="assert 0")
    told = (left("console", "warn: <b>"), left("screenshot", report_samples.PICTURE))
    page = render.page(build_view(run(tests=(failed,), attachments=told)))
    assert "warn: &lt;b&gt;" in page
    assert f'src="data:image/png;base64,{report_samples.PICTURE}"' in page
    evil = left("screenshot", 'iVBORw0K" onerror="alert(1)')
    page = render.page(build_view(run(tests=(failed,), attachments=(evil,))))
    assert "img" not in Tags(page).tags


def test_forecasts_are_shown_beside_what_came() -> None:
    def made(browser: str, foreseen: float, came: float | None) -> ForecastRecord:
        given = {"run_id": "r", "at": START + 1, "browser": browser, "horizon_s": 4.0, "as_last_minute": 1.0}
        return ForecastRecord(**given, utilization=foreseen, came=came)  # type: ignore[arg-type]

    forecasts = (made("firefox", 0.5, 0.25), made("firefox", 0.5, 0.75), made("chromium", 0.9, None))
    moved = StealRecord(run_id="r", nodeid="t", at=START, from_node="gw0", to_node="gw1", useful=True)
    found = build_view(run(forecasts=forecasts, steals=(moved,))).foresight
    (line,) = found.forecasts  # what did not come due says nothing
    assert (line.browser, line.error, line.error_as_last_minute) == ("firefox", 0.25, 0.5)
    assert line.points[0] == (3.0, 0.5, 0.25, 1.0)  # in the middle of the time foreseen
    assert (found.moved, found.useful) == (1, 1)


def test_waits_and_decision_times_are_said() -> None:
    metrics = (
        metric(9, 40.0, name="decision_us_p50", node=""),
        metric(9, 300.0, name="decision_us_p99", node=""),
        metric(9, 2.5, name="wait_mean_s_3", node=""),
        metric(9, 9.0, name="wait_longest_s_3", node=""),
    )
    page = render.page(build_view(run(metrics=metrics)))
    assert "A decision took 40 µs (median), 300 µs at the 99th percentile." in page
    assert "Tests of priority 3 waited 2.5 s on average, 9.0 s at most" in page


def test_two_runs_are_compared_test_by_test_and_model_by_model() -> None:
    before = run(
        tests=(
            a_test("t::same"),
            a_test("t::broken"),
            a_test("t::mended", outcome="failed"),
            a_test("t::slower"),
            a_test("t::gone"),
        ),
        operations=(operation(1, latency_ms=10.0), operation(2, browser="firefox")),
    )
    after = run(
        tests=(
            a_test("t::same", duration_s=1.05),
            a_test("t::broken", outcome="error"),
            a_test("t::mended"),
            a_test("t::slower", duration_s=1.5),
            a_test("t::new"),
        ),
        operations=(operation(1, latency_ms=20.0),),
    )
    found = compare(build_view(before), build_view(after))
    assert [(pair.nodeid, pair.change) for pair in found.tests] == [
        (f"t::{change}", change) for change in ("broken", "mended", "new", "gone", "slower", "same")
    ]
    assert [(m.browser, m.warm_before, m.warm_after, m.ratio) for m in found.models] == [
        ("chromium", 10.0, 20.0, 2.0),
        ("firefox", 10.0, None, None),
    ]
    data = compared_data(found)
    assert [test[0] for test in data["tests"]] == [pair.nodeid for pair in found.tests]
    assert [pair["name"] for pair in data["pairs"]] == ["m chromium/wasm"]
    page = render.comparison(found)
    assert "× 2.00" in page
    assert page.count("<script") == (3 if charts.held() else 2)


def test_without_the_library_the_page_says_so_and_has_the_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BROWSERPOOL_CACHE", str(tmp_path))
    page = render.page(build_view(report_samples.sample_run()))
    assert "<code>browserpool install</code> brings it" in page
    assert "Timeline as a table" in page


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


def test_pictures_are_kept_while_there_is_room() -> None:
    pictures = Pictures()
    assert [pictures.fits("x" * size) for size in (0, 200_000, 400_000, 300_000, 1)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert Pictures().fits("x" * 2_000_000)  # better one that is large than none


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


def test_a_run_of_nothing_did_not_pass() -> None:
    (tests,) = [fact for fact in build_view(run(tests=())).facts if fact.name == "tests"]
    assert (tests.value, tests.note) == ("0", "none ran")
