"""What became slower, larger or less sure between two groups of runs, by a test that noise does not fool. Pure.

The unit is the run: what a series did in one run is one value (series.py). Two groups of runs are compared by a t test
whose spread between runs is learned over all series together (moderate.py). Where both sides are one run, nothing tells
a change from the machine's mood: single calls are then compared by Mann and Whitney's test, and what is found is called
a notice, whatever its size, until more runs are there. Faults are counted tests, compared by Fisher's exact test.
All comparisons of one analysis are corrected together by Holm's procedure, and only changes of 10 % or more are told.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

from pytest_browserpool.analysis.intervals import ALPHA, EFFECT, Interval, holm
from pytest_browserpool.analysis.moderate import alone, moderated
from pytest_browserpool.analysis.samples import Cell, Samples, Way
from pytest_browserpool.analysis.series import (
    ERRORS,
    TOGETHER,
    Key,
    Series,
    built,
    without_common,
)

SEVERITIES = ("notice", "minor", "moderate", "major", "critical")
STEPS = (1.25, 1.5, 2.0)
"""Ratios at which a change of 10 % or more is moderate, major and critical: a quarter, half, twice."""
POINTS = (0.05, 0.2, 0.5)
"""The same for the share of tests that meet a fault: by how much it rose."""
LEAST_POINTS, LEAST_FAULTY = 0.01, 2
"""A rise below one test in a hundred, or a single test, is no finding about a browser."""
LEAST_FREEDOM = 2.0
"""Degrees of freedom of a spread that is relied on: 4 runs of one series, or 3 where other series help."""
LEAST_CALLS = 5
"""Single calls on each side for a test between two runs."""
RAW = 64
"""Single calls per run and series that the comparison of one run with one looks at: more would only make the chance
effects of that run, which are the same in all of its calls, look surer."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that is not as it was."""

    metric: str
    subject: str
    """A model, a browser, or everything."""
    way: Way | None
    severity: str
    """One of ``SEVERITIES``; empty for an improvement."""
    ratio: Interval
    """Log of the cost (time, bytes, share of faulty tests) after over before. Throughput counts as time per test."""
    before: float
    """Typical value before: ms, s, bytes, or the share of tests. 0 where only ratios make sense."""
    chance: float
    """p value, corrected for all comparisons of the analysis."""
    runs_before: int
    runs_after: int
    provisional: bool
    """One run against one: run it again before believing it."""

    @property
    def worse(self) -> bool:
        return self.ratio.middle > 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came of comparing two groups of runs."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    compared: int = 0
    """Series that could be compared."""
    regressions: tuple[Change, ...] = ()
    """The gravest first."""
    improvements: tuple[Change, ...] = ()
    more_runs: int = 0
    """Runs that are missing before changes can be told from the machine's; 0: enough."""


@dataclass(frozen=True, slots=True)
class _Test:
    shift: float
    error: float
    freedom: float
    chance: float
    provisional: bool = False


def compare(
    samples: Samples, before: Sequence[str], after: Sequence[str], alpha: float = ALPHA
) -> Comparison:
    """Changes from the runs ``before`` to the runs ``after`` (ids; no run in both)."""
    if not before or not after:
        return Comparison(before=tuple(before), after=tuple(after), more_runs=2 - bool(before) - bool(after))
    series = built(samples, frozenset(before), frozenset(after))
    own, common = without_common(series)
    tests = {**_by_runs(own, helped=True), **_by_runs(common, helped=False)}
    lone = {key: own[key] for key in own if key not in tests}
    shared = {key.metric: everything.shift for key, everything in common.items()}
    cells = [cell for cell in (*samples.calls, *samples.loads) if cell.raw]
    tests.update(_by_calls(lone, shared, cells, frozenset(before), frozenset(after)))
    faults = _faults(samples, frozenset(before), frozenset(after))
    chances = {key: test.chance for key, test in tests.items()} | {k: f.chance for k, f in faults.items()}
    corrected = holm(chances)
    series = own | common
    changes = [
        _change(key, test, series[key], corrected[key])
        for key, test in tests.items()
        if corrected[key] < alpha and abs(test.shift) >= EFFECT
    ]
    changes += [
        _risen(key, fault, corrected[key], len(before), len(after))
        for key, fault in faults.items()
        if corrected[key] < alpha and fault.found
    ]
    changes.sort(key=lambda c: (-SEVERITIES.index(c.severity) if c.severity else 0, -abs(c.ratio.middle)))
    return Comparison(
        before=tuple(before),
        after=tuple(after),
        compared=len(chances),
        regressions=tuple(c for c in changes if c.worse),
        improvements=tuple(c for c in changes if not c.worse),
        more_runs=max(0, 4 - len(before) - len(after)),
    )


def _by_runs(found: Mapping[Key, Series], *, helped: bool) -> dict[Key, _Test]:
    """The t test between runs, for the series whose spread is known well enough. ``helped``: by one another."""
    spreads: dict[str, dict[Key, tuple[float, int]]] = defaultdict(dict)
    for key, series in found.items():
        if series.freedom >= 1:
            spreads[key.metric][key] = (series.variance, series.freedom)
    tests: dict[Key, _Test] = {}
    for group in spreads.values():
        # with few series what they did together is still in them: they are no witnesses for one another
        together = helped and len(group) >= TOGETHER
        known = moderated(group) if together else alone(group)
        for key, (variance, freedom) in known.items():
            series = found[key]
            error = math.sqrt(variance * (1 / len(series.before) + 1 / len(series.after)))
            if freedom < LEAST_FREEDOM:
                continue
            chance = 2 * float(special.stdtr(freedom, -abs(series.shift) / error))
            tests[key] = _Test(series.shift, error, freedom, chance)
    return tests


def _by_calls(
    lone: Mapping[Key, Series],
    shared: Mapping[str, float],
    cells: Sequence[Cell],
    before: frozenset[str],
    after: frozenset[str],
) -> dict[Key, _Test]:
    """Mann and Whitney's test between single calls, where runs are too few. ``shared``: what everything did, by
    metric, which is taken off."""
    of_key: dict[Key, list[Cell]] = defaultdict(list)
    for cell in cells:
        of_key[Key(cell.metric, cell.model, cell.way)].append(cell)
    tests: dict[Key, _Test] = {}
    for key, series in lone.items():
        earlier, later = _ratios(of_key[key], before, after)
        if len(earlier) >= LEAST_CALLS and len(later) >= LEAST_CALLS:
            moved = [value - shared.get(key.metric, 0.0) for value in later]
            tests[key] = _mann_whitney(earlier, moved, series.shift)
    return tests


def _ratios(
    cells: Sequence[Cell], before: frozenset[str], after: frozenset[str]
) -> tuple[list[float], list[float]]:
    """Logs of single calls over what is typical of their host and size before, for places measured on both sides."""
    places: dict[tuple[str, int], list[Cell]] = defaultdict(list)
    for cell in cells:
        places[cell.host, cell.size].append(cell)
    earlier: list[float] = []
    later: list[float] = []
    for group in places.values():
        old = [v for c in group if c.run in before for v in c.raw]
        new = [v for c in group if c.run in after for v in c.raw]
        if old and new:
            usual = sorted(old)[len(old) // 2]
            earlier += [math.log(v / usual) for v in old]
            later += [math.log(v / usual) for v in new]
    return earlier, later


def _mann_whitney(earlier: list[float], later: list[float], shift: float) -> _Test:
    from scipy import stats  # a second to import: only where it is wanted

    chance = float(stats.mannwhitneyu(later, earlier, alternative="two-sided").pvalue)
    variance = sum(
        float(stats.median_abs_deviation(side, scale="normal")) ** 2 / len(side) for side in (earlier, later)
    )
    return _Test(shift, math.sqrt(variance), len(earlier) + len(later) - 2, chance, provisional=True)


def severity(ratio: float) -> str:
    """minor from 1.1, moderate from 1.25, major from 1.5, critical from 2."""
    return SEVERITIES[1 + sum(ratio >= step for step in STEPS)]


def _change(key: Key, test: _Test, series: Series, chance: float) -> Change:
    half = float(special.stdtrit(test.freedom, 1 - ALPHA / 2)) * test.error
    interval = Interval(
        test.shift,
        test.shift - half,
        test.shift + half,
        len(series.before) + len(series.after),
        "mann-whitney" if test.provisional else "moderated t",
    )
    word = severity(math.exp(test.shift)) if test.shift > 0 else ""
    return Change(
        metric=key.metric,
        subject=key.subject,
        way=key.way,
        severity="notice" if test.provisional and word else word,
        ratio=interval,
        before=series.usual,
        chance=chance,
        runs_before=len(series.before),
        runs_after=len(series.after),
        provisional=test.provisional,
    )


# -- faults --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fault:
    before: tuple[int, int]
    """(tests that met a fault, tests)"""
    after: tuple[int, int]
    chance: float

    @property
    def shares(self) -> tuple[float, float]:
        return self.before[0] / self.before[1], self.after[0] / self.after[1]

    @property
    def found(self) -> bool:
        """Whether the rise is one that anybody would act on."""
        old, new = self.shares
        return self.after[0] >= LEAST_FAULTY and new - old >= LEAST_POINTS and new >= old * math.exp(EFFECT)


def _faults(samples: Samples, before: frozenset[str], after: frozenset[str]) -> dict[Key, _Fault]:
    counts: dict[Key, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = defaultdict(lambda: ([], []))
    for row in samples.faulty:
        if row.tests and (row.run in before or row.run in after):
            key = Key(ERRORS, row.model, Way(row.browser, ""))
            counts[key][row.run in after].append((row.faulty, row.tests))
    found = {}
    for key, (earlier, later) in counts.items():
        old, n = (sum(column) for column in zip(*earlier, strict=True)) if earlier else (0, 0)
        new, m = (sum(column) for column in zip(*later, strict=True)) if later else (0, 0)
        if n and m and (old or new):
            found[key] = _Fault((old, n), (new, m), _fisher(old, n, new, m, clustered(earlier, later)))
    return found


def clustered(*sides: Sequence[tuple[int, int]]) -> float:
    """How many faulty tests come together: the variance of their number between runs of one side over that of
    independent ones, 1 at least. ``sides``: (tests that met a fault, tests) of each run."""
    squares, freedom = 0.0, 0
    for runs in sides:
        faulty, tests = sum(f for f, _ in runs), sum(t for _, t in runs)
        share = faulty / tests if tests else 0.0
        if 0 < share < 1 and len(runs) > 1:
            squares += sum((f - t * share) ** 2 / (t * share * (1 - share)) for f, t in runs)
            freedom += len(runs) - 1
    return max(1.0, squares / freedom) if freedom else 1.0


def _fisher(old: int, n: int, new: int, m: int, together: float) -> float:
    """Fisher's exact test for a larger share after than before. Faults that come together count as one (Rao and Scott,
    "A simple method for the analysis of clustered binary data", Biometrics 48, 1992): both counts are divided."""
    from scipy import stats  # a second to import: only where there are faults

    table = [[round(count / together) for count in row] for row in ((new, m - new), (old, n - old))]
    return float(stats.fisher_exact(table, alternative="greater").pvalue)


def _risen(key: Key, fault: _Fault, chance: float, runs_before: int, runs_after: int) -> Change:
    old, new = fault.shares
    ratio = math.log(new / max(old, 0.5 / fault.before[1]))
    lone = runs_before == runs_after == 1
    word = SEVERITIES[1 + sum(new - old >= step for step in POINTS)]
    return Change(
        metric=ERRORS,
        subject=key.subject,
        way=key.way,
        severity="notice" if lone else word,
        ratio=Interval(ratio, -math.inf, math.inf, runs_before + runs_after, "fisher"),
        before=old,
        chance=chance,
        runs_before=runs_before,
        runs_after=runs_after,
        provisional=lone,
    )
