"""What a node tells about one test: ``report.browserpool``, a dict of builtins that xdist carries with
pytest's report.

The worker sets it in ``pytest_runtest_makereport`` on the reports of each phase that has something to
tell; the
controller reads it with ``details_of``. Keys that a newer or older node adds or lacks are no error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_browserpool.values import Plain

ATTRIBUTE = "browserpool"

MAX_CONSOLE_LINES = 200
"""Console lines shown for one test: the newest. A page that logs in a loop must not fill the report."""

MAX_LINE = 2000
"""Characters shown of one console line."""


REPEATED = ("keywords", ATTRIBUTE)
"""Of a report: dicts that are mostly those of the phase before, a third of what a report takes."""

MAX_WORD = 200
"""Characters of a string that may occur again: an id, a path, a name. Output and tracebacks are longer."""

PICTURES = 500_000
"""Characters of screenshots (PNG in base64) that one run keeps: a dozen or two. Of a suite that fails as a whole they
show the same, and the page of a thousand tests must stay below 3 MB."""


@dataclass(frozen=True, kw_only=True)
class TestDetails(Plain):
    """What ran one test. Times in milliseconds; what does not apply is left at its default."""

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
    """None or 0 where the browser or the session was warm."""
    recoveries: int = 0
    degraded: bool = False
    placement: Mapping[str, int] | None = None
    """Nodes per execution provider."""
    console: tuple[str, ...] = ()
    """What the test's pages wrote to their console, in order."""
    page_errors: tuple[str, ...] = ()
    screenshot: str | None = None
    """PNG, base64; for failures."""


class Pictures:
    """The screenshots of one run, as long as there is room for them."""

    def __init__(self) -> None:
        self._left = PICTURES

    def fits(self, content: str | None) -> bool:
        """Whether the run may keep ``content``; it is counted then. The first may be of any size."""
        if not content or (self._left < PICTURES and len(content) > self._left):
            return False
        self._left -= len(content)
        return True


class Words:
    """The words of a run's reports, each kept once: pytest keeps every report until the end, three for each test, and what
    comes over a channel is a new string each time. Keys, names and outcomes are the same in thousands of them."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._before: dict[str, dict[str, Any]] = {}
        """Test → what of its last report its next one may repeat."""

    def of_report(self, data: dict[str, Any]) -> None:
        """Shares the words of ``data`` in place, and what the same test's report of the phase before had too."""
        words = self.shared(data)
        before = self._before.pop(data.get("nodeid", ""), {})
        words |= {name: kept for name, kept in before.items() if words.get(name) == kept}
        if data.get("when") in ("setup", "call"):
            self._before[words["nodeid"]] = {name: words[name] for name in REPEATED if name in words}
        data.clear()
        data.update(words)

    def shared(self, value: Any) -> Any:
        """``value``, of builtins as a report has them, with its short strings replaced by the first of their kind."""
        kind = type(value)
        if kind is str:
            return self._known.setdefault(value, value) if len(value) <= MAX_WORD else value
        if kind is dict:
            return {self.shared(key): self.shared(item) for key, item in value.items()}
        if kind is list or kind is tuple:
            return kind(map(self.shared, value))
        return value


def details_of(report: Any) -> TestDetails | None:
    """What the node put on ``report``, on either side of xdist; None for a test that used no browser."""
    plain = getattr(report, ATTRIBUTE, None)
    return TestDetails.from_plain(plain) if isinstance(plain, Mapping) else None


def tail(lines: tuple[str, ...]) -> list[str]:
    """The newest of ``lines``, long ones cut, with a first line that says how many are left out."""
    kept = [line if len(line) <= MAX_LINE else line[:MAX_LINE] + " …" for line in lines[-MAX_CONSOLE_LINES:]]
    left_out = len(lines) - len(kept)
    return [f"({left_out} earlier lines left out)", *kept] if left_out else kept
