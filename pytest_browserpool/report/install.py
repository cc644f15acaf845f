"""Registers the reports' plugins on the controller."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_browserpool.report.crashed import CrashedTests
from pytest_browserpool.report.pytest_html import HtmlReport, is_active

if TYPE_CHECKING:
    import pytest

    from pytest_browserpool.store.rows import RunRows


def prefer_one_file(config: pytest.Config) -> None:
    """Let pytest-html write one self-contained file; call before its own ``pytest_configure`` (tryfirst)."""
    if is_active(config):
        config.option.self_contained_html = True


def install(
    config: pytest.Config,
    *,
    rows: Callable[[], RunRows | None],
    warnings: Callable[[], Sequence[str]],
    history: Path,
    advice: Callable[[], str | None] = lambda: None,
    prometheus: Path | None = None,
    otel: bool = False,
) -> None:
    """Register crashed tests' remedy and everything that shows the run when it ends: the HTML report (where ``--html``
    asks for one), the terminal's section, JUnit's properties, GitHub's step summary, and what other tools are to get.

    ``rows`` gives the run's records so far (``HistoryWriter.seen.rows``), ``warnings`` the history's troubles,
    ``advice`` the one recommendation that matters most. Call it on the controller, before ``pytest_sessionstart``.

    Raises:
        ConfigurationError: a library that ``prometheus`` or ``otel`` needs is not installed.
    """
    from pytest_browserpool.report.final import FinalView
    from pytest_browserpool.report.github import StepSummary
    from pytest_browserpool.report.junit import JUnitProperties
    from pytest_browserpool.report.terminal import TerminalSummary

    manager = config.pluginmanager
    manager.register(CrashedTests(config), "browserpool-crashed")
    view = FinalView(rows, warnings, advice)
    manager.register(JUnitProperties(config, view), "browserpool-junit")
    manager.register(StepSummary(view), "browserpool-github")
    if prometheus is not None:
        from pytest_browserpool.report.prometheus import PrometheusFile

        manager.register(PrometheusFile(view, prometheus), "browserpool-prometheus")
    if otel:
        from pytest_browserpool.report.otel import Tracing

        manager.register(Tracing(view), "browserpool-otel")
    report: Path | None = None
    if is_active(config):
        manager.register(HtmlReport(view), "browserpool-html")
        asked = Path(os.path.expandvars(config.getoption("htmlpath"))).expanduser()
        report = config.invocation_params.dir / asked
    manager.register(TerminalSummary(view, history, report), "browserpool-summary")
