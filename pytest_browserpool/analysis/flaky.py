"""Browsers that fail under tests: how often, with what, and whether more than the others. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_browserpool.analysis.intervals import ALPHA, holm, wilson
from pytest_browserpool.analysis.samples import Faulty

LEAST_TESTS = 20
"""Tests on a browser below which its share of faults says nothing: none of 20 still allows for 16 %."""


@dataclass(frozen=True, kw_only=True)
class Flaky:
    """One browser's faults."""

    browser: str
    tests: int
    faulty: int
    low: float
    high: float
    """Confidence limits of the share of tests that meet a fault (Wilson)."""
    runs: int
    """Runs with a fault there."""
    kinds: tuple[str, ...]
    models: tuple[str, ...]
    """Models whose tests met a fault there in some runs and none in others."""
    worse: bool
    """Shown to fail more than the other browsers together."""

    @property
    def enough(self) -> bool:
        return self.tests >= LEAST_TESTS


def browsers(rows: Iterable[Faulty], alpha: float = ALPHA) -> list[Flaky]:
    """One entry for each browser, the most faults first."""
    grouped: dict[str, list[Faulty]] = defaultdict(list)
    for row in rows:
        grouped[row.browser].append(row)
    sums = {name: (sum(r.faulty for r in g), sum(r.tests for r in g)) for name, g in grouped.items()}
    worse = _worse(sums, alpha)
    found = []
    for name, group in grouped.items():
        faulty, tests = sums[name]
        low, high = wilson(faulty, tests, alpha)
        found.append(
            Flaky(
                browser=name,
                tests=tests,
                faulty=faulty,
                low=low,
                high=high,
                runs=len({r.run for r in group if r.faulty}),
                kinds=tuple(sorted({kind for r in group for kind in r.kinds})),
                models=_unsteady(group),
                worse=name in worse,
            )
        )
    return sorted(found, key=lambda f: (-f.low, -f.faulty, f.browser))


def _worse(sums: dict[str, tuple[int, int]], alpha: float) -> set[str]:
    """Fisher's exact test of each browser against the others together, corrected for their number."""
    total, everything = (sum(pair[i] for pair in sums.values()) for i in (0, 1))
    chances = {}
    for name, (faulty, tests) in sums.items():
        others, rest = total - faulty, everything - tests
        if faulty and rest:
            from scipy import stats  # a second to import: only where there are faults

            table = [[faulty, tests - faulty], [others, rest - others]]
            chances[name] = float(stats.fisher_exact(table, alternative="greater").pvalue)
    return {name for name, chance in holm(chances).items() if chance < alpha}


def _unsteady(group: Iterable[Faulty]) -> tuple[str, ...]:
    by_model: dict[str, list[Faulty]] = defaultdict(list)
    for row in group:
        by_model[row.model].append(row)
    return tuple(
        sorted(
            m
            for m, rows in by_model.items()
            if any(r.faulty for r in rows) and not all(r.faulty for r in rows)
        )
    )
