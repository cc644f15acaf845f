"""Latencies as distributions: the five numbers of a box and a sample of dots for each model, browser, backend. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_browserpool.report.lines import ModelLine

DOTS = 60
"""Single calls drawn for one row: enough to see two humps, few enough to stay apart."""

ROWS = 60
"""Rows drawn: a screen or two. The table below the chart has all."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Warm calls of one model in one browser on one backend, in ms."""

    model: str
    browser: str
    backend: str
    calls: int
    low: float
    """5th percentile."""
    first: float
    """Lower quartile."""
    median: float
    third: float
    """Upper quartile."""
    high: float
    """95th percentile."""
    dots: tuple[float, ...]
    """All calls, or evenly spaced ones of them by rank."""
    nodeids: tuple[str, ...]


def spreads(models: Sequence[ModelLine]) -> tuple[Spread, ...]:
    """One for each line that has warm calls, models together."""
    return tuple(_spread(line) for line in models if line.warm)


def _spread(line: ModelLine) -> Spread:
    values = sorted(line.warm)
    return Spread(
        model=line.model,
        browser=line.browser,
        backend=line.backend,
        calls=len(values),
        low=quantile(values, 0.05),
        first=quantile(values, 0.25),
        median=quantile(values, 0.5),
        third=quantile(values, 0.75),
        high=quantile(values, 0.95),
        dots=tuple(quantile(values, (i + 0.5) / DOTS) for i in range(DOTS))
        if len(values) > DOTS
        else tuple(values),
        nodeids=line.nodeids,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``ordered`` (not empty, ascending) lies; linear interpolation, as numpy's."""
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
