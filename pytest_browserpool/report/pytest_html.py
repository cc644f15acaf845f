"""pytest-html: columns for browser, backend, node, latency and recovery; the run section; console and
screenshot of failures.

Runs on the controller only. What pytest-html puts into the page unescaped (cells, summary, extras) is
escaped here.
"""

from __future__ import annotations

import dataclasses
import html
from typing import Any

import pytest

from pytest_browserpool.report.details import Pictures, TestDetails, details_of, tail
from pytest_browserpool.report.final import FinalView
from pytest_browserpool.report.words import milliseconds

RESULT, TEST = 0, 1
"""Places of pytest-html's own columns."""

AFTER_TEST = 2
"""Where our columns begin."""

COLUMNS = ("browser", "backend", "node", "latency", "recovery")


def is_active(config: pytest.Config) -> bool:
    """Whether this run writes an HTML report here: pytest-html is installed, ``--html`` given, and this
    is no worker.
    """
    return bool(
        config.pluginmanager.hasplugin("html")
        and config.getoption("htmlpath", None)
        and not hasattr(config, "workerinput")
    )


class HtmlReport:
    """Plugin for the controller."""

    def __init__(self, view: FinalView) -> None:
        self._view = view
        self._details: dict[str, TestDetails] = {}
        self._nodes: dict[str, str] = {}
        self._pictures = Pictures()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Before pytest-html sees the report: remember what ran it, attach console and screenshot to a
        failure.
        """
        self._nodes[report.nodeid] = _node_of(report)
        details = details_of(report)
        if details is None:
            return
        self._details[report.nodeid] = details
        if report.failed and _pytest_html_takes_extras(report.nodeid):
            extras: list[dict[str, Any]] = list(getattr(report, "extras", []))
            report.extras = [*extras, *_extras(self._with_few_pictures(details))]  # type: ignore[attr-defined]

    def _with_few_pictures(self, details: TestDetails) -> TestDetails:
        """Without its screenshot once the page has enough of them."""
        if self._pictures.fits(details.screenshot):
            return details
        return dataclasses.replace(details, screenshot=None)

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_header(self, cells: list[str]) -> None:
        cells[AFTER_TEST:AFTER_TEST] = [
            f'<th class="sortable" data-column-type="{name}">{name.capitalize()}</th>' for name in COLUMNS
        ]

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        if not cells:
            return
        # pytest-html writes the node id as it is: a parameter with a tag in it would become one
        name = (
            report.nodeid
            if getattr(report, "when", None) in ("call", None)
            else f"{report.nodeid}::{report.when}"
        )
        cells[TEST] = f'<td class="col-testId">{html.escape(_one_line(name))}</td>'
        details = self._details.get(report.nodeid, TestDetails())
        node = details.node or self._nodes.get(report.nodeid, "")
        browser = " ".join(part for part in (details.browser, details.browser_version) if part)
        backend = details.backend + (" (degraded)" if details.degraded else "")
        recoveries = f"{details.recoveries}" if details.recoveries else ""
        cells[AFTER_TEST:AFTER_TEST] = [
            _cell("browser", browser),
            _cell("backend", backend),
            _cell("node", node),
            _cell(
                "latency",
                "" if details.latency_ms is None else milliseconds(details.latency_ms),
                details.latency_ms,
            ),
            _cell("recovery", recoveries, details.recoveries),
        ]

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, postfix: list[str]) -> None:
        view = self._view()
        if view is None:
            return
        from pytest_browserpool.report import render

        postfix.append(render.section(view))


def _node_of(report: Any) -> str:
    gateway = getattr(getattr(report, "node", None), "gateway", None)
    return str(gateway.id) if gateway is not None else "main"


def _cell(name: str, text: str, number: float | None = None) -> str:
    """A cell that sorts right: pytest-html compares what is between the tags as text, so a hidden key
    leads.
    """
    key = "" if number is None else f"{number:020.6f}"
    if not text:
        key = key or "~"  # after everything that has a value
    hidden = f"<span hidden>{key}</span>" if key else ""
    return f'<td class="col-{name} bp-cell">{hidden}{html.escape(_one_line(text))}</td>'


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()) if "\n" in text or "\r" in text else text


def _pytest_html_takes_extras(nodeid: str) -> bool:
    """Whether pytest-html can name a file for extras of this test: its way of doing so fails for some
    backslashes.
    """
    try:
        nodeid.encode("utf-8").decode("unicode_escape")
    except UnicodeDecodeError:
        return False
    return True


def _extras(details: TestDetails) -> list[dict[str, Any]]:
    """pytest-html's extras, as the dicts that its own functions make."""
    from pytest_html import extras

    found = []
    if details.page_errors:
        found.append(extras.html(_block("Page errors", details.page_errors, opened=True)))
    if details.console:
        found.append(extras.html(_block("Browser console", details.console, opened=False)))
    if details.screenshot:
        found.append(
            extras.png(details.screenshot, name=f"{details.browser or 'browser'} when the test failed")
        )
    return found


def _block(title: str, lines: tuple[str, ...], *, opened: bool) -> str:
    text = html.escape("\n".join(tail(lines)))
    state = " open" if opened else ""
    head = f'<details class="bp-console"{state}><summary>{title} ({len(lines)})</summary>'
    return f"{head}<pre>{text}</pre></details>"
