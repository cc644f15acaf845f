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
) -> None:
    """Register crashed tests' remedy, the HTML report (where ``--html`` asks for one) and the terminal's
    section.

    ``rows`` gives the run's records so far (``HistoryWriter.seen.rows``), ``warnings`` the history's
    troubles.
    Call it on the controller, before ``pytest_sessionstart``.
    """
    from pytest_browserpool.report.terminal import TerminalSummary

    manager = config.pluginmanager
    manager.register(CrashedTests(config), "browserpool-crashed")
    report: Path | None = None
    if is_active(config):
        manager.register(HtmlReport(rows, warnings), "browserpool-html")
        asked = Path(os.path.expandvars(config.getoption("htmlpath"))).expanduser()
        report = config.invocation_params.dir / asked
    manager.register(TerminalSummary(rows, warnings, history, report), "browserpool-summary")
