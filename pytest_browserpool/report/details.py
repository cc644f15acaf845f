"""What a node tells about one test: attached to pytest's report as ``report.browserpool``, carried by
xdist as builtins.

On the node: ``attach(report, TestDetails(...))`` in ``pytest_runtest_makereport``, on the report of each
phase that has
something to tell (the call's, or the setup's or teardown's that failed). On the controller:
``details_of(report)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_browserpool.values import Plain

ATTRIBUTE = "browserpool"

MAX_CONSOLE_LINES = 200
"""Console lines kept for one test: the newest. A page that logs in a loop must not fill the report."""

MAX_LINE = 2000
"""Characters kept of one console line."""


@dataclass(frozen=True, kw_only=True)
class TestDetails(Plain):
    """What ran one test. All times in milliseconds; fields that do not apply are left at their defaults."""

    __test__ = False

    browser: str = ""
    browser_version: str = ""
    backend: str = ""
    """The one that really ran."""
    node: str = ""
    model: str = ""
    """sha256."""
    model_label: str = ""
    latency_ms: float | None = None
    """Median of the test's calls."""
    load_ms: float | None = None
    launch_ms: float | None = None
    """None where the browser or the session was warm."""
    recoveries: int = 0
    degraded: bool = False
    placement: Mapping[str, int] | None = None
    """Nodes per execution provider."""
    console: tuple[str, ...] = ()
    """What the test's pages wrote to their console, ``level: text``, in order."""
    page_errors: tuple[str, ...] = ()
    screenshot: str | None = None
    """PNG, base64; for failures."""


def attach(report: Any, details: TestDetails) -> None:
    """Put ``details`` on pytest's ``report`` as builtins, long consoles cut to their end."""
    plain = details.to_plain()
    plain["console"] = _tail(details.console)
    plain["page_errors"] = _tail(details.page_errors)
    setattr(report, ATTRIBUTE, plain)


def _tail(lines: tuple[str, ...]) -> list[str]:
    kept = [line if len(line) <= MAX_LINE else line[:MAX_LINE] + " …" for line in lines[-MAX_CONSOLE_LINES:]]
    left_out = len(lines) - len(kept)
    return [f"({left_out} earlier lines left out)", *kept] if left_out else kept


def details_of(report: Any) -> TestDetails | None:
    """What ``attach`` put on ``report``, on either side of xdist; None for a test that used no browser."""
    plain = getattr(report, ATTRIBUTE, None)
    return TestDetails.from_plain(plain) if isinstance(plain, Mapping) else None
