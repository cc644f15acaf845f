"""Health of one browser instance: a score from 0 to 100, pure; times and sizes are passed in.

    score = 100 - errors - streak - latency - drops - memory - ping, at least 0; 0 for a crashed or silent
    browser

=========  ==============================================================================  ======
penalty    how it grows                                                                    at most
=========  ==============================================================================  ======
errors     40 × faults ÷ operations over the last 50 (at least 5 are assumed)                40
streak     12 for each fault in a row                                                        60
latency    from 0 at 1.5 × the browser's own usual time, linear, to 20 at 4 ×                20
drops      10 for each lost connection among the last 50 operations                          20
memory     from 0 at 80 % of the limit, linear, 30 at 100 %, on to 60 at 120 %               60
ping       from 0 at a tenth of the ping's deadline, linear, to 30 at the deadline           30
=========  ==============================================================================  ======

Below 50 a browser is unhealthy: it is replaced as soon as nothing holds it. Four faults in a row (three
in a browser that has done nothing else yet), memory far over its limit, or smaller troubles together get it
there; one slow call or one fault does not. The weights are a starting point, to be set anew from the history
once it tells which browsers failed next.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

UNHEALTHY_BELOW = 50.0
WINDOW = 50
"""Operations looked back on: a few minutes of a busy browser, so that old trouble is forgiven."""
FEWEST = 5
"""Operations assumed at least: the first call of a browser failing is one fault, not a rate of 100 %."""
RECENT = 9
"""Operations whose median is the present latency: odd, and one slow outlier in nine changes nothing."""
MOST_DEVICE_LOSSES = 2
"""Chromium refuses WebGPU to new pages after its third GPU process crash: replace the browser before."""


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """What the score is made of."""

    operations: int = 0
    """In the window."""
    faults: int = 0
    """In the window."""
    streak: int = 0
    """Faults in a row until now."""
    latency_ratio: float = 1.0
    """Present latency ÷ the usual one of the same models in this browser."""
    drops: int = 0
    """Lost connections in the window."""
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    """0: no limit."""
    ping_ms: float | None = 0.0
    """The last ping's round trip; None: it was not answered in time."""
    ping_limit_ms: float = 5000.0
    device_losses: int = 0
    """Since its launch."""
    crashed: bool = False


def penalties(v: Vitals) -> dict[str, float]:
    """The penalties of the table by name, each at least 0."""
    memory = v.memory_bytes / v.memory_limit_bytes if v.memory_limit_bytes > 0 else 0.0
    ping = 1.0 if v.ping_ms is None else v.ping_ms / v.ping_limit_ms
    return {
        "errors": 40.0 * min(1.0, v.faults / max(v.operations, FEWEST)),
        "streak": min(60.0, 12.0 * v.streak),
        "latency": _ramp(v.latency_ratio, 1.5, 4.0) * 20.0,
        "drops": min(20.0, 10.0 * v.drops),
        "memory": _ramp(memory, 0.8, 1.2) * 60.0,
        "ping": _ramp(ping, 0.1, 1.0) * 30.0,
    }


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high`` on, linear between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def score(v: Vitals) -> float:
    """Health from 0 (dead) to 100 (nothing wrong)."""
    if v.crashed or v.ping_ms is None:
        return 0.0
    return max(0.0, 100.0 - sum(penalties(v).values()))


def healthy(v: Vitals) -> bool:
    """Whether the browser may be leased."""
    return score(v) >= UNHEALTHY_BELOW and why_retire(v) is None


def why_retire(v: Vitals) -> str | None:
    """Why the instance must be replaced whatever its score, or None."""
    if v.crashed:
        return "crashed"
    if v.ping_ms is None:
        return "does not answer"
    if v.device_losses >= MOST_DEVICE_LOSSES:
        return f"lost its GPU device {v.device_losses} times"
    return None


def explain(v: Vitals) -> str:
    """The score with what took it down, for the record: ``62 (streak 24, errors 14)``."""
    reason = why_retire(v)
    parts = sorted(((p, name) for name, p in penalties(v).items() if p >= 0.5), reverse=True)
    words = ", ".join(f"{name} {p:.0f}" for p, name in parts)
    detail = "; ".join(x for x in (reason, words) if x)
    return f"{score(v):.0f}" + (f" ({detail})" if detail else "")


@dataclass
class Health:
    """Keeps the vitals of one browser instance up to date. One event loop owns it; others may read."""

    memory_limit_bytes: int = 0
    ping_limit_ms: float = 5000.0
    _outcomes: deque[str] = field(default_factory=lambda: deque(maxlen=WINDOW))
    """``ok``, ``fault`` or ``drop``, newest last."""
    _usual: dict[str, list[float]] = field(default_factory=dict)
    """The first latencies of each model in this browser, ``RECENT`` at most."""
    _recent: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Model and latency of the last runs. Compared only when the score is asked for: each warm call appends here."""
    _streak: int = 0
    _memory_bytes: int = 0
    _ping_ms: float | None = 0.0
    _device_losses: int = 0
    _crashed: bool = False

    def succeeded(self, model: str = "", latency_ms: float | None = None) -> None:
        """An operation went well. Give ``latency_ms`` of warm runs only; ``model`` with its backend and
        shapes."""
        self._outcomes.append("ok")
        self._streak = 0
        if latency_ms is None or latency_ms <= 0:
            return
        usual = self._usual.get(model)
        if usual is None:
            usual = self._usual[model] = []
        if len(usual) < RECENT:
            usual.append(latency_ms)
        self._recent.append((model, latency_ms))

    def faulted(self, kind: str) -> None:
        """An operation met a fault of ``kind`` (``errors.Fault.kind``)."""
        self._outcomes.append("drop" if kind == "connection_lost" else "fault")
        self._streak += 1
        self._device_losses += kind == "device_lost"
        self._crashed = self._crashed or kind in ("browser_crashed", "launch_failed")

    def pinged(self, milliseconds: float | None) -> None:
        """A ping came back after ``milliseconds``, or (None) did not in time."""
        self._ping_ms = milliseconds

    def measured(self, memory_bytes: int) -> None:
        """The browser's process tree takes ``memory_bytes``."""
        self._memory_bytes = memory_bytes

    @property
    def vitals(self) -> Vitals:
        """As of now. Another thread may ask: the windows are copied at once."""
        outcomes, recent = list(self._outcomes), list(self._recent)
        ratios = [latency / statistics.median(self._usual[model]) for model, latency in recent]
        return Vitals(
            operations=len(outcomes),
            faults=sum(outcome != "ok" for outcome in outcomes),
            streak=self._streak,
            latency_ratio=statistics.median(ratios) if ratios else 1.0,
            drops=sum(outcome == "drop" for outcome in outcomes),
            memory_bytes=self._memory_bytes,
            memory_limit_bytes=self.memory_limit_bytes,
            ping_ms=self._ping_ms,
            ping_limit_ms=self.ping_limit_ms,
            device_losses=self._device_losses,
            crashed=self._crashed,
        )

    @property
    def score(self) -> float:
        """Health from 0 to 100."""
        return score(self.vitals)

    @property
    def complaint(self) -> str | None:
        """Why the browser should be replaced, with its score, for the record; None while it is healthy."""
        vitals = self.vitals
        return None if healthy(vitals) else f"unhealthy: {explain(vitals)}"
