"""What an applied recommendation brought, from the runs since. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_browserpool.analysis.intervals import LEAST_BLOCKS, Interval, paired
from pytest_browserpool.analysis.samples import Share
from pytest_browserpool.preferences import AppliedChange

FEW = 30
"""Runs before the change that it is compared with: the last ones, which are most like those after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestTime:
    """One passed test of one run."""

    __test__ = False

    run: str
    test: str
    browser: str
    backend: str
    seconds: float
    """Without launches."""


@dataclass(frozen=True, kw_only=True)
class Came:
    """One applied change and what came of it."""

    change: AppliedChange
    runs: int
    """Runs since that used it."""
    saved: Interval | None
    """Seconds saved in a run (not a logarithm); without limits while there are fewer than three runs. None: nothing
    that ran since can be compared with before."""
    tests: int = 0
    """Tests that it moved."""

    @property
    def verdict(self) -> str:
        if self.saved is None:
            return "no run has used it yet" if not self.runs else "nothing comparable ran since"
        if not self.saved.known:
            return "too early to say"
        if self.saved.beyond():
            return "came true"
        return "made it worse" if self.saved.high < 0 else "made no difference that shows"


def of_preference(change: AppliedChange, times: Iterable[TestTime], since: Sequence[str]) -> Came:
    """Of a preferred way: the tests that now run that way and did not before, each against its own median before."""
    assert change.prefer is not None
    way = (change.prefer.browser, change.prefer.backend)
    after = set(since)
    before: dict[str, list[float]] = defaultdict(list)
    later: dict[str, dict[str, float]] = defaultdict(dict)
    for row in times:
        here = (row.browser, row.backend)
        if row.run in after:
            if here == way:
                later[row.run][row.test] = row.seconds
        elif here != way:
            before[row.test].append(row.seconds)
    saved = []
    moved: set[str] = set()
    for tests in later.values():
        common = tests.keys() & before.keys()
        if common:
            moved |= common
            saved.append(sum(statistics.median(before[test][-FEW:]) - tests[test] for test in common))
    return _came(change, len(since), saved, len(moved))


def of_setup(change: AppliedChange, shares: Iterable[Share], since: Sequence[str]) -> Came:
    """Of a pool's size or of nodes per browser: the seconds that launches and loads take in a run, over its nodes."""
    after = set(since)
    totals: dict[str, float] = defaultdict(float)
    seen: Mapping[str, set[str]] = defaultdict(set)
    for share in shares:
        if not change.nodes or share.browser in change.nodes:
            totals[share.run] += share.launch_s + share.load_s
        seen[share.run].add(share.node)
    # a pool's gain is that of all nodes together, as it was promised; one of fewer nodes is spread over them
    parts = {run: total / (len(seen[run]) if change.nodes else 1) for run, total in totals.items()}
    before = [seconds for run, seconds in parts.items() if run not in after][-FEW:]
    if not before:
        return _came(change, len(since), [], 0)
    usual = statistics.median(before)
    return _came(change, len(since), [usual - seconds for run, seconds in parts.items() if run in after], 0)


def _came(change: AppliedChange, runs: int, saved: Sequence[float], tests: int) -> Came:
    found = paired(saved) if saved else None
    assert found is None or found.known == (len(saved) >= LEAST_BLOCKS)
    return Came(change=change, runs=runs, saved=found, tests=tests)
