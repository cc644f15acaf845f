"""JUnit XML: what ran each test as properties of its testcase, the run's figures as properties of the suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pytest_browserpool.report.final import FinalView
from pytest_browserpool.report.view import RunView

PREFIX = "browserpool_"
"""Of every property's name: other plugins and the tests themselves have properties too."""

OF_A_TEST = ("browser", "browser_version", "backend", "model_label", "latency_ms", "load_ms", "launch_ms")
"""What is told of a test where it applies; recoveries and degradation only where there were any."""


def test_properties(used: Mapping[str, Any], node: str) -> list[tuple[str, str]]:
    """The properties of one test, from what the node says it used; xdist carries them with pytest's reports."""
    found = [(PREFIX + "node", node)]
    for name in OF_A_TEST:
        value = used.get(name)
        if value not in (None, "", 0.0):
            found.append((PREFIX + name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    if used.get("recoveries"):
        found.append((PREFIX + "recoveries", str(used["recoveries"])))
    if used.get("degraded"):
        found.append((PREFIX + "degraded", "true"))
    return found


def run_properties(view: RunView) -> Iterator[tuple[str, str]]:
    """The properties of the run."""
    yield PREFIX + "run_id", view.run_id
    yield PREFIX + "browser_launches", str(sum(line.launches for line in view.browsers))
    yield PREFIX + "model_loads", str(sum(line.loads for line in view.models))
    yield PREFIX + "model_loads_warm", str(view.warm_hits)
    yield PREFIX + "model_calls", str(sum(line.calls for line in view.models))
    yield PREFIX + "recoveries", str(sum(test.recoveries for test in view.tests))
    yield PREFIX + "faults", str(len(view.faults))
    yield PREFIX + "saved_s", f"{view.saved_s:.3f}"


class JUnitProperties:
    """Plugin for the controller: the run's properties, before pytest writes the file at the session's end."""

    def __init__(self, config: pytest.Config, view: FinalView) -> None:
        self._config, self._view = config, view

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Before the file is written; every test has ended by now."""
        from _pytest.junitxml import xml_key  # pytest offers no public way to the writer

        xml = self._config.stash.get(xml_key, None)
        view = self._view() if xml is not None else None
        if xml is None or view is None:
            return
        for name, value in run_properties(view):
            xml.add_global_property(name, value)
