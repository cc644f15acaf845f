"""Series to compare between two groups of runs: for each run one value, freed of what hosts and input sizes do. Pure."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_browserpool.analysis.samples import Cell, Pace, Peak, Samples, Way

LATENCY, LOAD, THROUGHPUT, MEMORY, ERRORS = "latency", "load time", "throughput", "memory", "errors"
METRICS = (LATENCY, LOAD, THROUGHPUT, MEMORY, ERRORS)

EVERYTHING = "everything"
"""Subject of what all series of one metric did together: the machine, or something that they share."""

TOGETHER = 5
"""Series of one metric from which their common movement is told from their own: with fewer, one of them would pass
for the half of all."""


WITNESSES = 3
"""Runs that say what is usual in a place: what only one run had is its own measure, and would make the spread between
runs look like none."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What a series is about."""

    metric: str
    subject: str
    """A model, a browser, or ``EVERYTHING``."""
    way: Way | None = None


@dataclass(kw_only=True)
class Series:
    """One value per run: a log ratio to what is usual there."""

    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    usual: float = 0.0
    """Typical value before, in the metric's own unit (ms, s, bytes; tests/s for nothing: 0)."""

    @property
    def shift(self) -> float:
        """Log of after over before."""
        return statistics.fmean(self.after.values()) - statistics.fmean(self.before.values())

    @property
    def freedom(self) -> int:
        return len(self.before) + len(self.after) - 2

    @property
    def variance(self) -> float:
        """Between runs of one side; 0 where each side has one run."""
        groups = [list(self.before.values()), list(self.after.values())]
        squares = sum((v - statistics.fmean(g)) ** 2 for g in groups for v in g)
        return squares / self.freedom if self.freedom else 0.0


Points = Mapping[str, Mapping[tuple[str, int], float]]
"""Run → (host, size) → value in its own unit, above zero."""


def built(samples: Samples, before: frozenset[str], after: frozenset[str]) -> dict[Key, Series]:
    """Every series that has a value on both sides."""
    found: dict[Key, Series] = {}
    for key, points in _points(samples).items():
        series = reduced(points, before, after)
        if series is not None:
            found[key] = series
    return found


def reduced(points: Points, before: frozenset[str], after: frozenset[str]) -> Series | None:
    """The value of each run: the median, over the places measured on both sides, of the log ratio to what was usual
    there before. A place counts that ``WITNESSES`` runs before have, or all where they are fewer."""
    by_place: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    enough = max(1, min(WITNESSES, sum(run in before for run in points)))  # a way that is new has no before
    for run, places in points.items():
        for place, value in places.items():
            if value > 0 and (run in before or run in after):
                by_place[place][run] = value
    logs: dict[str, list[float]] = defaultdict(list)
    usual = []
    for runs in by_place.values():
        earlier = [value for run, value in runs.items() if run in before]
        if len(earlier) < enough or len(earlier) == len(runs):
            continue
        middle = statistics.median(earlier)
        usual.append(middle)
        for run, value in runs.items():
            logs[run].append(math.log(value / middle))
    if not logs:
        return None
    values = {run: statistics.median(ratios) for run, ratios in logs.items()}
    return Series(
        before={run: value for run, value in values.items() if run in before},
        after={run: value for run, value in values.items() if run in after},
        usual=statistics.median(usual),
    )


def _points(samples: Samples) -> dict[Key, dict[str, dict[tuple[str, int], float]]]:
    found: dict[Key, dict[str, dict[tuple[str, int], float]]] = defaultdict(lambda: defaultdict(dict))
    _cells(found, LATENCY, samples.calls)
    _cells(found, LOAD, samples.loads)
    _peaks(found, samples.memory)
    _paces(found, samples.pace)
    return found


def _cells(
    found: dict[Key, dict[str, dict[tuple[str, int], float]]], metric: str, cells: Iterable[Cell]
) -> None:
    for cell in cells:
        found[Key(metric, cell.model, cell.way)][cell.run][cell.host, cell.size] = cell.typical


def _peaks(found: dict[Key, dict[str, dict[tuple[str, int], float]]], peaks: Iterable[Peak]) -> None:
    grouped: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for peak in peaks:
        grouped[peak.browser, peak.run, peak.host].append(peak.bytes)
    for (browser, run, host), values in grouped.items():
        found[Key(MEMORY, browser)][run][host, 0] = statistics.median(values)


def _paces(found: dict[Key, dict[str, dict[tuple[str, int], float]]], paces: Iterable[Pace]) -> None:
    for pace in paces:
        if pace.usual_s > 0 and pace.took_s > 0:
            key = Key(THROUGHPUT, pace.browser or EVERYTHING)
            found[key][pace.run]["", 0] = pace.took_s / pace.usual_s


def without_common(found: Mapping[Key, Series]) -> tuple[dict[Key, Series], dict[Key, Series]]:
    """(each series less what the others of its metric did in that run, the common movements themselves).

    A machine that is busy during a run moves everything at once. Taken as so many findings that would be wrong, and
    taken into each series' spread it would hide what one of them does. So it is a series of its own. Metrics with
    fewer than ``TOGETHER`` series stay as they are.
    """
    own: dict[Key, Series] = {}
    common: dict[Key, Series] = {}
    for metric in METRICS:
        group = {key: series for key, series in found.items() if key.metric == metric}
        if len(group) < TOGETHER or metric == THROUGHPUT:  # its series are parts of one another
            own.update(group)
            continue
        before = _sorted([series.before for series in group.values()])
        after = _sorted([series.after for series in group.values()])
        common[Key(metric, EVERYTHING)] = Series(
            before={run: statistics.median(values) for run, values in before.items()},
            after={run: statistics.median(values) for run, values in after.items()},
        )
        for key, series in group.items():
            own[key] = Series(
                before={run: v - _median_of_others(before[run], v) for run, v in series.before.items()},
                after={run: v - _median_of_others(after[run], v) for run, v in series.after.items()},
                usual=series.usual,
            )
    return own, common


def _sorted(sides: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """Run → the values of all series, in order."""
    found: dict[str, list[float]] = defaultdict(list)
    for side in sides:
        for run, value in side.items():
            found[run].append(value)
    return {run: sorted(values) for run, values in found.items()}


def _median_of_others(ordered: Sequence[float], own: float) -> float:
    """The median of ``ordered`` without one ``own``; 0 where there is no other.

    A series that helped to make the median it is measured by would often be its own measure, and its spread too small.
    """
    n = len(ordered) - 1
    if n == 0:
        return 0.0
    mine = bisect_left(ordered, own)
    low, high = (i if i < mine else i + 1 for i in ((n - 1) // 2, n // 2))
    return (ordered[low] + ordered[high]) / 2
