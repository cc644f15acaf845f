"""What earlier runs measured, as the engine takes it: typical values with the number of measurements behind
them."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

K = TypeVar("K")

Session = tuple[str, str, str]
"""(browser, backend, model key): what is launched and loaded once per node. All empty for a test without
needs."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A typical value (a median) and how many measurements it rests on."""

    value: float
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class History:
    """Seconds are those of a node of speed 1. Anything may be missing."""

    launches: Mapping[str, Sample] = field(default_factory=dict)
    """Browser → seconds to launch."""
    node_launches: Mapping[tuple[str, str], Sample] = field(default_factory=dict)
    """(node id or host, browser) → seconds to launch it there at speed 1; goes before ``launches``."""
    loads: Mapping[Session, Sample] = field(default_factory=dict)
    """Session → seconds to load the model and run it first."""
    runs: Mapping[Session, Sample] = field(default_factory=dict)
    """Session → seconds of a warm test, without its set-up."""
    scales: Mapping[str, Sample] = field(default_factory=dict)
    """Test → its warm seconds divided by the typical ones of its session (1 if it is an average test)."""
    speeds: Mapping[str, Sample] = field(default_factory=dict)
    """Node id or host → its speed (2: half the time)."""
    successes: Mapping[tuple[str, str, str], tuple[int, int]] = field(default_factory=dict)
    """Session → (tests without an infrastructure fault, tests)."""

    @classmethod
    def from_rows(
        cls,
        *,
        launches: Iterable[tuple[str, str, float]] = (),
        loads: Iterable[tuple[str, str, str, str, float]] = (),
        runs: Iterable[tuple[str, str, str, str, str, float]] = (),
        successes: Iterable[tuple[str, str, str, int, int]] = (),
    ) -> History:
        """Medians, scales and speeds from single measurements, all in seconds.

        Args:
            launches: (host, browser, seconds).
            loads: (host, browser, backend, model key, seconds).
            runs: (host, browser, backend, model key, test, seconds without set-up); all of browser, backend
            and model
                empty for a test without needs.
            successes: (browser, backend, model key, tests without an infrastructure fault, tests).

        Rows with a time that is not finite and above zero are left out.
        """
        run_rows = [row for row in runs if _sound(row[-1])]
        sessions: dict[Session, list[float]] = defaultdict(list)
        for _, browser, backend, model, _, seconds in run_rows:
            sessions[browser, backend, model].append(seconds)
        typical = {key: statistics.median(values) for key, values in sessions.items()}
        ratios: dict[str, list[float]] = defaultdict(list)
        by_test_here: dict[tuple[str, Session], list[tuple[str, float]]] = defaultdict(list)
        for host, browser, backend, model, test, seconds in run_rows:
            session = (browser, backend, model)
            ratios[test].append(math.log(seconds / typical[session]))
            by_test_here[test, session].append((host, seconds))
        return cls(
            launches=_medians((browser, seconds) for _, browser, seconds in launches),
            loads=_medians(((b, e, m), seconds) for _, b, e, m, seconds in loads),
            runs={key: Sample(typical[key], len(values)) for key, values in sessions.items()},
            scales={test: Sample(math.exp(statistics.median(v)), len(v)) for test, v in ratios.items()},
            speeds=_speeds(by_test_here),
            successes={(b, e, m): (good, n) for b, e, m, good, n in successes},
        )


def _sound(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds > 0


def _medians(rows: Iterable[tuple[K, float]]) -> dict[K, Sample]:
    values: dict[K, list[float]] = defaultdict(list)
    for key, seconds in rows:
        if _sound(seconds):
            values[key].append(seconds)
    return {key: Sample(statistics.median(v), len(v)) for key, v in values.items()}


def _speeds(runs: Mapping[tuple[str, Session], list[tuple[str, float]]]) -> dict[str, Sample]:
    """Each host's speed from tests that ran on several hosts in one session: the median of their time
    ratios."""
    logs: dict[str, list[float]] = defaultdict(list)
    for rows in runs.values():
        if len({host for host, _ in rows}) < 2:
            continue
        middle = statistics.median(math.log(seconds) for _, seconds in rows)
        for host, seconds in rows:
            logs[host].append(middle - math.log(seconds))
    return {host: Sample(math.exp(statistics.median(values)), len(values)) for host, values in logs.items()}
