"""What other tools get of a run: JUnit's properties, GitHub's summary, Prometheus' text, OpenTelemetry's spans."""

from __future__ import annotations

import re
import threading
import xml.etree.ElementTree as ET
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import report_samples
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client.parser import text_string_to_metric_families
from report_samples import EVIL

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.report import github, otel, prometheus
from pytest_browserpool.report.final import FinalView
from pytest_browserpool.report.junit import run_properties, test_properties
from pytest_browserpool.report.view import build_view

test_properties.__test__ = False  # type: ignore[attr-defined]


def test_prometheus_own_parser_reads_what_is_written(tmp_path: Path) -> None:
    view = build_view(report_samples.sample_run())
    prometheus.write(view, tmp_path / "new" / "run.prom")
    text = (tmp_path / "new" / "run.prom").read_text()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    outcomes = {s.labels["outcome"]: s.value for s in found["browserpool_tests"].samples}
    assert outcomes == {"passed": 57.0, "failed": 2.0, "crashed": 1.0}
    assert sum(s.value for s in found["browserpool_browser_launches"].samples) == len(
        report_samples.sample_run().browsers
    )
    assert sum(s.value for s in found["browserpool_model_calls"].samples) == 300.0
    medians = [s for s in found["browserpool_model_call_seconds"].samples if s.labels["quantile"] == "0.5"]
    assert {s.labels["model"] for s in medians} == {f"models/{m}.onnx" for m in report_samples.MODELS}
    assert all(0.001 < s.value < 0.2 for s in medians)


def test_opentelemetrys_own_sdk_exports_a_span_for_each_test_within_the_run() -> None:
    view, exporter = build_view(report_samples.sample_run()), InMemorySpanExporter()
    assert otel.send(view, exporter)
    spans = exporter.get_finished_spans()
    (run,) = [span for span in spans if span.parent is None]
    assert run.name == "Run sample-run"
    tests = [span for span in spans if "test.case.name" in (span.attributes or {})]
    assert len(tests) == 60
    assert {span.parent.span_id for span in spans if span.parent} == {run.context.span_id}
    assert sum(span.status.status_code is StatusCode.ERROR for span in tests) == 3
    first = view.tests[0]
    (span,) = [s for s in tests if s.name == first.nodeid]
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time / 1e9 == pytest.approx(first.started_at)
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(first.duration_s)
    assert any("launched in" in span.name for span in spans)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "pytest-browserpool"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs,team=models"}, "theirs"),
    ],
)
def test_the_environment_names_the_service(
    variables: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    exporter = InMemorySpanExporter()
    assert otel.send(build_view(report_samples.sample_run()), exporter)
    assert {s.resource.attributes["service.name"] for s in exporter.get_finished_spans()} == {name}


def test_of_a_long_failure_the_span_has_the_end() -> None:
    view, exporter = build_view(report_samples.sample_run()), InMemorySpanExporter()
    source = "def test():\n" + "    x = 1\n" * 200
    tests = [
        replace(t, message=f"{source}E   assert 1 == 2") if t.outcome == "failed" else t for t in view.tests
    ]
    assert otel.send(replace(view, tests=tests), exporter)
    told = [s.status.description for s in exporter.get_finished_spans() if s.status.description]
    assert told
    assert all(words.endswith("assert 1 == 2") for words in told)


@pytest.mark.parametrize(("answer", "taken"), [(200, True), (400, False), (None, False)])
def test_spans_that_a_collector_did_not_take_are_told_of(answer: int | None, taken: bool) -> None:
    """By OpenTelemetry's own exporter, to a server that takes them, one that refuses them, and one that is not there."""

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(answer or 500)
            self.end_headers()

        def log_message(self, *words: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        if answer is None:
            server.server_close()
        else:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/v1/traces"
        view = build_view(report_samples.sample_run())
        assert otel.send(view, OTLPSpanExporter(endpoint=address, timeout=1)) is taken
        if answer is not None:
            server.shutdown()


def test_the_step_summary_takes_nothing_of_a_test_for_markdown_or_html() -> None:
    text = github.summary(build_view(report_samples.sample_run()), f"use [this]({EVIL}) | now")
    assert "<script>" not in text
    assert EVIL not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    heads = tables[0].count("|")
    assert [line.count("|") for line in tables[:3]] == [heads] * 3
    assert "57" not in text or "3 failed" in text
    assert re.findall(r"<(?!/?(?:details|summary|pre)>)", text) == []


def test_what_a_test_used_is_in_its_properties() -> None:
    used = {"browser": "firefox", "backend": "wasm", "latency_ms": 12.3456, "launch_ms": 0.0, "recoveries": 1}
    assert test_properties(used, "gw0") == [
        ("browserpool_node", "gw0"),
        ("browserpool_browser", "firefox"),
        ("browserpool_backend", "wasm"),
        ("browserpool_latency_ms", "12.35"),
        ("browserpool_recoveries", "1"),
    ]
    found = dict(run_properties(build_view(report_samples.sample_run())))
    assert found["browserpool_model_calls"] == "300"
    assert float(found["browserpool_saved_s"]) > 1


def test_advice_is_asked_for_once_and_a_history_that_cannot_be_read_gives_none() -> None:
    asked: list[int] = []

    def broken() -> str | None:
        asked.append(1)
        raise HistoryError("damaged")

    view = FinalView(lambda: None, advice=broken)
    assert (view.advice(), view.advice()) == (None, None)
    assert asked == [1]


SUITE = """
def test_one(): pass
def test_two(): assert "|" == "<b>"
"""


def test_a_run_tells_them_all(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    pytester.makeini(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nbrowserpool_prometheus = run.prom\n"
    )
    pytester.makepyfile(SUITE)
    monkeypatch.chdir(pytester.mkdir("below"))  # what is in a file is meant from where the project is
    outputs = ("--junitxml=../j.xml", "-n1", "..")
    done = pytester.runpytest_subprocess("--browserpool", "-p", "no:cacheprovider", *outputs, timeout=120)
    done.assert_outcomes(passed=1, failed=1)
    assert "### Browser pool" in summary.read_text()
    assert "test&#95;two" in summary.read_text()
    assert 'browserpool_tests{outcome="failed"} 1.0' in (pytester.path / "run.prom").read_text()
    suite = ET.parse(pytester.path / "j.xml").getroot()
    names = {p.get("name"): p.get("value") for p in suite.iterfind("./testsuite/properties/property")}
    assert names["browserpool_model_loads"] == "0"
    assert names["browserpool_run_id"]


def test_a_step_summary_that_cannot_be_written_fails_no_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "nowhere" / "summary.md"))
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile("def test_one(): pass")
    done = pytester.runpytest_subprocess("--browserpool", "-p", "no:cacheprovider", timeout=120)
    done.assert_outcomes(passed=1)
    assert done.ret == 0
    done.stdout.fnmatch_lines(["WARNING: GITHUB_STEP_SUMMARY names *nowhere*cannot be written*"])
