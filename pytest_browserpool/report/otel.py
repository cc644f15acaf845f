"""The run as an OpenTelemetry trace: a span for the run, one for each test, launch and recovery.

Sent with OpenTelemetry's own SDK (``pip install pytest-browserpool[otel]``), where its own variables say: the usual
ones are OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_SERVICE_NAME.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_browserpool.errors import ConfigurationError
from pytest_browserpool.report.final import FinalView
from pytest_browserpool.report.view import FAILED, RunView

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from pytest_browserpool.records import TestRecord

MESSAGE_CHARACTERS = 500
"""Of a failure, from its end: it begins with the test's source, and what went wrong comes last."""


def send(view: RunView, exporter: SpanExporter) -> bool:
    """Give ``exporter`` the run's spans; whether it took them all within its own time-outs."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Status, StatusCode

    provider = TracerProvider(resource=_resource())
    heard = _heard(exporter)
    provider.add_span_processor(BatchSpanProcessor(heard))
    tracer = provider.get_tracer("pytest_browserpool")

    def at(seconds: float) -> int:
        return round((view.started_at + seconds) * 1e9)

    facts = {
        "browserpool.run_id": view.run_id,
        **{f"browserpool.{f.name.replace(' ', '_')}": f.value for f in view.facts},
    }
    run = tracer.start_span(view.title, start_time=at(0), attributes=facts)
    inside = trace.set_span_in_context(run)
    for test in view.tests:
        start = test.started_at - view.started_at
        span = tracer.start_span(
            test.nodeid, context=inside, start_time=at(start), attributes=_of_a_test(test)
        )
        if test.outcome in FAILED:
            span.set_status(Status(StatusCode.ERROR, test.message[-MESSAGE_CHARACTERS:]))
        span.end(at(start + test.duration_s))
    for lane in view.timeline.lanes:
        where = {"browserpool.node": lane.node, "browserpool.browser": lane.browser}
        for stretch in lane.spans:
            if stretch.kind in ("setup", "recovery"):
                span = tracer.start_span(
                    stretch.words, context=inside, start_time=at(stretch.start), attributes=where
                )
                span.end(at(stretch.end))
    run.end(at(view.timeline.seconds))
    flushed = provider.force_flush()
    provider.shutdown()
    return bool(flushed) and heard.took_all


def _resource() -> Resource:
    """Ours only where the environment has no name for the service: an attribute that is given to the SDK itself wins over
    OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    told = Resource.create()
    if str(told.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return told.merge(Resource({SERVICE_NAME: "pytest-browserpool"}))
    return told


def _of_a_test(test: TestRecord) -> dict[str, str | bool | int | float]:
    attributes: dict[str, str | bool | int | float] = {
        "test.case.name": test.nodeid,
        "test.case.result.status": "fail" if test.outcome in FAILED else "pass",
        "browserpool.outcome": test.outcome,
        "browserpool.node": test.node,
        "browserpool.browser": test.browser,
        "browserpool.backend": test.backend,
        "browserpool.recoveries": test.recoveries,
        "browserpool.degraded": test.degraded,
    }
    if test.latency_ms is not None:
        attributes["browserpool.latency_ms"] = test.latency_ms
    return attributes


def _heard(exporter: SpanExporter) -> Any:
    """``exporter`` with ``took_all``: the processor, which hands spans to it, tells nobody what became of them."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Heard(SpanExporter):
        took_all = True

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = exporter.export(spans)
            self.took_all = self.took_all and result is SpanExportResult.SUCCESS
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return exporter.force_flush(timeout_millis)

    return Heard()


class Tracing:
    """Plugin for the controller."""

    def __init__(self, view: FinalView) -> None:
        """Raises:
        ConfigurationError: OpenTelemetry's SDK or its exporter is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise ConfigurationError(
                "OpenTelemetry's SDK is not installed",
                where="--browserpool-otel",
                remedy="pip install 'pytest-browserpool[otel]'",
            ) from error
        self._view, self._exporter = view, OTLPSpanExporter

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        view = self._view()
        if view is not None and not send(view, self._exporter()):
            terminalreporter.write_line(
                "WARNING: not all spans reached the OpenTelemetry collector", yellow=True
            )
