"""The run's figures in Prometheus' text format, for the node exporter's textfile collector or a push gateway.

Written with Prometheus' own library: ``pip install pytest-browserpool[metrics]``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pytest_browserpool.errors import ConfigurationError
from pytest_browserpool.report.final import FinalView
from pytest_browserpool.report.view import RunView


def write(view: RunView, path: Path) -> None:
    """Write ``view`` to ``path``, in one rename.

    Raises:
        OSError: the file cannot be written.
    """
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()

    def gauge(name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"browserpool_{name}", words, labels, registry=registry)

    tests = gauge("tests", "Tests of the run", "outcome")
    for outcome, number in Counter(test.outcome for test in view.tests).items():
        tests.labels(outcome).set(number)
    gauge("run_seconds", "Wall time of the run").set(view.timeline.seconds)
    gauge("run_started_timestamp_seconds", "When the run began").set(view.started_at)
    gauge("saved_seconds", "Launches and loads that warm browsers made needless").set(view.saved_s)
    gauge("model_loads_warm", "Loads that found their session").set(view.warm_hits)
    launches = gauge("browser_launches", "Browsers launched", "browser", "version")
    for browser in view.browsers:
        launches.labels(browser.name, browser.version).inc(browser.launches)
    where = ("model", "browser", "backend")
    loads = gauge("model_loads", "Sessions created", *where)
    calls = gauge("model_calls", "Calls of models", *where)
    warm = gauge("model_call_seconds", "Latency of warm calls", *where, "quantile")
    for line in view.models:
        labels = (line.label or line.model, line.browser, line.backend)
        loads.labels(*labels).inc(line.loads)
        calls.labels(*labels).inc(line.calls)
        if line.warm_ms is not None:
            warm.labels(*labels, "0.5").set(line.warm_ms / 1000)
        if line.p95_ms is not None:
            warm.labels(*labels, "0.95").set(line.p95_ms / 1000)
    faults = gauge("faults", "Faults", "browser", "kind", "outcome")
    for fault in view.faults:
        faults.labels(fault.browser, fault.kind, fault.outcome).inc()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)


class PrometheusFile:
    """Plugin for the controller."""

    def __init__(self, view: FinalView, path: Path) -> None:
        """Raises:
        ConfigurationError: Prometheus' library is not installed.
        """
        try:
            import prometheus_client  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                "prometheus_client is not installed",
                where="--browserpool-prometheus",
                remedy="pip install 'pytest-browserpool[metrics]'",
            ) from error
        self._view, self._path = view, path

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        view = self._view()
        if view is None:
            return
        try:
            write(view, self._path)
        except OSError as error:
            terminalreporter.write_line(f"WARNING: {self._path} cannot be written: {error}", yellow=True)
