"""The section at the end of pytest's output: what the pool did, what was slow, where the history and the
report are.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_browserpool.report.final import FinalView
from pytest_browserpool.report.view import RunView
from pytest_browserpool.report.words import count, duration, milliseconds

SLOWEST = 3
"""Models named as slowest: the ones worth a look, without filling the screen."""


def summary_lines(view: RunView, *, history: Path, report: Path | None) -> list[str]:
    """The lines of the section; none for a run that used no browser."""
    lines: list[str] = []
    if not view.browsers and not view.models:
        return lines
    launches = sum(line.launches for line in view.browsers)
    launched: Counter[str] = Counter()
    for line in view.browsers:  # a line for each adapter
        launched[f"{line.name} {line.version}"] += line.launches
    kinds = ", ".join(f"{kind} ×{times}" for kind, times in launched.items())
    lines.append(
        f"browsers   {count(launches, 'launch', 'launches')}: {kinds}"
        if launches
        else "browsers   none launched"
    )
    sizes = [f"{n.node} {', '.join(map(str, n.pool_sizes))}" for n in view.nodes if n.pool_sizes]
    if sizes:
        lines.append(f"pool size  {'; '.join(sizes)}")
    lines.append(f"models     {_loads(view)}")
    if view.saved_s >= 1:
        lines.append(f"saved      {duration(view.saved_s)} of launches and loads by what was warm")
    lines += [f"slowest    {text}" for text in _slowest(view)]
    if view.faults:
        recovered = sum(fault.outcome == "recovered" for fault in view.faults)
        lines.append(f"faults     {len(view.faults)}, {recovered} recovered")
    degraded = sum(test.degraded for test in view.tests)
    if degraded:
        lines.append(f"degraded   {count(degraded, 'test')} ran on the CPU instead of the backend asked for")
    lines.append(f"history    {history}")
    if report is not None:
        lines.append(f"report     {report}")
    return lines


def _loads(view: RunView) -> str:
    loads = sum(line.loads for line in view.models)
    models = len({line.model for line in view.models})
    calls = sum(line.calls for line in view.models)
    text = f"{count(loads, 'load')} of {count(models, 'model')}, {count(calls, 'call')}"
    return f"{text}, {view.warm_hits} found warm" if view.warm_hits else text


def _slowest(view: RunView) -> list[str]:
    timed = [line for line in view.models if line.warm_ms is not None]
    timed.sort(key=lambda line: -(line.warm_ms or 0.0))
    return [
        f"{line.model} {line.browser}/{line.backend} {milliseconds(line.warm_ms)} a warm call"
        + (f", {milliseconds(line.load_ms)} to load" if line.load_ms is not None else "")
        for line in timed[:SLOWEST]
    ]


class TerminalSummary:
    """Plugin for the controller: writes the section. With ``-q`` only what went wrong with the history."""

    def __init__(self, view: FinalView, history: Path, report: Path | None) -> None:
        self._view, self._history, self._report = view, history, report

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        warnings = self._view.warnings()
        view = self._view() if config.get_verbosity() >= 0 else None
        lines = summary_lines(view, history=self._history, report=self._report) if view else []
        if lines and (advice := self._view.advice()):
            lines.insert(-1 if self._report is None else -2, f"advice     {advice}")
        if not lines and not warnings:
            return
        terminalreporter.section("browser pool", sep="=")
        for line in lines:
            terminalreporter.write_line(line)
        for warning in warnings:
            terminalreporter.write_line(f"WARNING: {warning}", yellow=True, bold=True)
