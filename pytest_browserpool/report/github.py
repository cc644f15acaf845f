"""The step summary of GitHub Actions: the run in Markdown, appended to the file that ``GITHUB_STEP_SUMMARY`` names."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_browserpool.report.final import FinalView
from pytest_browserpool.report.view import FAILED, RunView
from pytest_browserpool.report.words import milliseconds

MAX_FAILURES = 20
"""Failures listed: GitHub cuts a summary at 1 MiB, and nobody reads more on one page."""

MAX_MESSAGE = 4000
"""Characters of a failure's message."""


def summary(view: RunView, advice: str | None) -> str:
    """The run as Markdown; nothing that a test wrote is taken for Markdown or HTML."""
    return "\n".join(_lines(view, advice)) + "\n"


def _lines(view: RunView, advice: str | None) -> Iterator[str]:
    yield f"### Browser pool: {_text(view.title)}"
    yield ""
    yield "| " + " | ".join(_text(fact.name) for fact in view.facts) + " |"
    yield "|" + " --- |" * len(view.facts)
    yield "| " + " | ".join(_text(f"{f.value} ({f.note})" if f.note else f.value) for f in view.facts) + " |"
    slowest = sorted((line for line in view.models if line.warm_ms), key=lambda line: -(line.warm_ms or 0))[
        :5
    ]
    if slowest:
        yield ""
        yield "| slowest models | browser | backend | warm call | load |"
        yield "| --- | --- | --- | --: | --: |"
        for line in slowest:
            times = f"{milliseconds(line.warm_ms)} | {milliseconds(line.load_ms)}"
            yield f"| {_text(line.model)} | {_text(line.browser)} | {_text(line.backend)} | {times} |"
    failed = [test for test in view.tests if test.outcome in FAILED]
    for test in failed[:MAX_FAILURES]:
        where = "/".join(part for part in (test.browser, test.backend) if part)
        yield ""
        yield f"<details><summary>{_text(test.outcome)}: {_text(test.nodeid)} {_text(where)}</summary>"
        yield ""
        yield f"<pre>{_block(test.message[-MAX_MESSAGE:])}</pre>"
        yield "</details>"
    if len(failed) > MAX_FAILURES:
        yield ""
        yield f"{len(failed) - MAX_FAILURES} more failed."
    if advice:
        yield ""
        yield f"> {_text(advice)}"


def _text(text: str) -> str:
    """``text`` on one line, every character that Markdown or HTML would take for its own as an entity."""
    return "".join(
        c if c.isalnum() or c in " .,:/-×·–%=()@+" else f"&#{ord(c)};" for c in " ".join(text.split())
    )


def _block(text: str) -> str:
    """``text`` for a ``pre`` element: a blank line would end the HTML block."""
    return "\n".join(html.escape(line) or "&nbsp;" for line in text.splitlines())


class StepSummary:
    """Plugin for the controller; does nothing where the variable is not set."""

    def __init__(self, view: FinalView) -> None:
        self._view = view

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        path = os.environ.get("GITHUB_STEP_SUMMARY")
        view = self._view() if path else None
        if not path or view is None:
            return
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(summary(view, self._view.advice()))
        except OSError as error:
            terminalreporter.write_line(
                f"WARNING: GITHUB_STEP_SUMMARY names {path}, which cannot be written: {error}", yellow=True
            )
