"""Tests whose worker died: shown once in the HTML report and once in JUnit XML, whatever becomes of them.

xdist reports a crashed test with ``when="???"`` and never sends its teardown, so pytest-html keeps
waiting for the row's
end and shows nothing; and a crashed test that is run again leaves a testcase without a name in the XML.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

_MARK = "_browserpool_row_open"


def close_crashed_row(report: pytest.TestReport) -> None:
    """Make xdist's report of a crash one that reporters understand; call it from ``pytest_handlecrashitem``.

    Set ``report.outcome = "rerun"`` as well where the test is given to another node. Needs
    ``CrashedTests`` registered.
    """
    report.when = "call"
    report.duration = 0.0
    report.browserpool_crashed = True  # type: ignore[attr-defined]  # tells the record what the outcome is
    setattr(report, _MARK, True)


class CrashedTests:
    """Plugin for the controller: ends what a crashed test left open in other reporters."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, Any, Any]:
        result = yield
        if getattr(report, _MARK, False):
            if report.outcome == "rerun":  # type: ignore[comparison-overlap]
                self._forget_in_junit(report)
            else:
                self._config.hook.pytest_runtest_logreport(report=_teardown_after(report))
        return result

    def _forget_in_junit(self, report: pytest.TestReport) -> None:
        """Take out the testcase that the first, crashed attempt opened: its next attempt opens its own."""
        from _pytest.junitxml import xml_key  # pytest offers no public way to the writer

        xml = self._config.stash.get(xml_key, None)
        if xml is None:
            return
        node = getattr(report, "node", None)
        for key, case in list(xml.node_reporters.items()):
            if key[1] is node and str(key[0]) == report.nodeid:
                del xml.node_reporters[key]
                xml.node_reporters_ordered.remove(case)


def _teardown_after(report: pytest.TestReport) -> pytest.TestReport:
    teardown = pytest.TestReport(
        nodeid=report.nodeid,
        location=report.location,
        keywords={},
        outcome="passed",
        longrepr=None,
        when="teardown",
    )
    for name in ("node", "worker_id", "item_index"):  # what JUnit's writer finds the open testcase by
        if hasattr(report, name):
            setattr(teardown, name, getattr(report, name))
    return teardown
