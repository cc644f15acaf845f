"""When a browser counts as overloaded or underused: thresholds that follow the load, and hysteresis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HIGH_START, LOW_START = 0.85, 0.20
HIGH_RANGE, LOW_RANGE = (0.60, 0.95), (0.10, 0.40)
LEAST_GAP = 0.30
"""Between both, so that a browser that gave work away does not at once count as one that wants some."""
BY_LOAD, BY_TREND = 0.3, 0.5
"""How far the thresholds go with the mean load (where all are busy, being busy is nothing special) and
against its trend per minute (where load grows, act before it is there)."""
STEP = 0.3
"""Share of the way that a threshold goes at each update: a single odd minute does not throw it over."""
HYSTERESIS = 0.05
"""A browser leaves a state only this far behind the threshold that put it there."""


@dataclass
class Thresholds:
    """``high`` and ``low`` in shares of use; ``state`` of each browser: "overloaded", "underused" or ""."""

    high: float = HIGH_START
    low: float = LOW_START
    state: dict[str, str] = field(default_factory=dict)
    _last: tuple[float, float] | None = None

    def update(self, utilization: Mapping[str, float], now: float) -> None:
        """Follow the mean of ``utilization`` (browser → share) and its trend since the last update."""
        if not utilization:
            return
        mean = sum(utilization.values()) / len(utilization)
        trend = 0.0
        if self._last is not None and now > self._last[0]:
            trend = (mean - self._last[1]) / (now - self._last[0]) * 60.0
        self._last = (now, mean)
        shift = BY_LOAD * (mean - 0.5) - BY_TREND * max(-0.5, min(0.5, trend))
        self.high = _clamp(self.high + STEP * (HIGH_START + shift - self.high), HIGH_RANGE)
        self.low = _clamp(self.low + STEP * (LOW_START + shift - self.low), LOW_RANGE)
        # the higher one is the one that steals: it keeps its place, and the lower one gives way
        self.low = min(self.low, self.high - LEAST_GAP)
        for browser, share in utilization.items():
            self.state[browser] = self._judge(self.state.get(browser, ""), share)

    def _judge(self, before: str, share: float) -> str:
        if share > self.high or (before == "overloaded" and share > self.high - HYSTERESIS):
            return "overloaded"
        if share < self.low or (before == "underused" and share < self.low + HYSTERESIS):
            return "underused"
        return ""

    def those(self, state: str) -> list[str]:
        """The browsers that are in ``state``."""
        return [browser for browser, its in self.state.items() if its == state]


def _clamp(value: float, bounds: tuple[float, float]) -> float:
    return min(bounds[1], max(bounds[0], value))
