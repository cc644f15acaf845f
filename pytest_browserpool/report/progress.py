"""What goes on in a run at one moment, in words, and when it will end. Pure: times are given."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pytest_browserpool.report.words import count, duration

LOOKS_BACK_S = 60.0
"""How far the forecast's own error looks back: long enough to have been tried, short enough to follow the run."""

TRIED_S = 5.0
"""A forecast younger than this says nothing yet about how good forecasts are."""


@dataclass(frozen=True, kw_only=True)
class NodeNow:
    """One node."""

    node: str
    test: str = ""
    """Empty: it waits."""
    where: str = ""
    """browser/backend."""
    seconds: float = 0.0
    """Since the test began."""
    doing: str = ""
    """A set-up or a recovery that goes on, such as ``loading ocr``."""
    browsers: tuple[str, ...] = ()
    """That run there."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run at one moment."""

    done: int
    tests: int
    nodes: tuple[NodeNow, ...]
    queue: tuple[tuple[int, int], ...] = ()
    """(priority, tests waiting)."""
    left_s: float | None = None
    """Until the run's end, as foreseen; None: nothing is known yet."""
    error_s: float | None = None
    """How far the forecasts of the last minute were off."""


class EndForecast:
    """Scores the forecasts of the end against the newest: what they were off by is what this one may be off by."""

    def __init__(self) -> None:
        self._made: deque[tuple[float, float]] = deque()

    def note(self, now: float, end: float) -> None:
        """At ``now`` the end is foreseen at ``end``; seconds of the same clock."""
        while self._made and self._made[0][0] < now - LOOKS_BACK_S:
            self._made.popleft()
        self._made.append((now, end))

    @property
    def error(self) -> float | None:
        """The most that a forecast of the last minute differs from the newest; None before one is old enough."""
        if not self._made:
            return None
        now, newest = self._made[-1]
        tried = [abs(end - newest) for at, end in self._made if at <= now - TRIED_S]
        return max(tried) if tried else None


def end_words(progress: Progress) -> str:
    """``end in 2 min 05 s ± 12 s``; empty where nothing is known."""
    if progress.left_s is None:
        return ""
    error = f" ± {duration(max(1.0, progress.error_s))}" if progress.error_s is not None else ""
    return f"end in {duration(max(0.0, progress.left_s))}{error}"


def totals(progress: Progress) -> str:
    """The run in one line."""
    waiting = ", ".join(f"P{priority} {number}" for priority, number in progress.queue if number)
    parts = [f"{progress.done} of {count(progress.tests, 'test')}"]
    parts += [f"waiting {waiting}"] if waiting else []
    parts += [end_words(progress)]
    return " · ".join(part for part in parts if part)


def plain_line(progress: Progress) -> str:
    """The run in one line for a log, with what its nodes do."""
    busy = sum(bool(node.test) for node in progress.nodes)
    doing = [f"{node.node} {node.doing}" for node in progress.nodes if node.doing]
    parts = [totals(progress), f"{busy} of {count(len(progress.nodes), 'node')} busy"]
    return " · ".join([*parts, *doing])
