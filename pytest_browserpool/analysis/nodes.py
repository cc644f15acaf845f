"""How the work was spread: over nodes, over browsers, over the life of a run. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_browserpool.analysis.intervals import LEAST_BLOCKS, Interval, paired
from pytest_browserpool.analysis.samples import RunInfo, Share


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How evenly the nodes worked, over the last runs with the same number of nodes."""

    nodes: int
    runs: int
    idle: Interval
    """Share of all node time without a test, 0 … 1 (not a logarithm)."""
    busiest: Interval
    """The busiest node's time in tests over the mean, less 1: 0 is even (not a logarithm)."""
    longest: str
    """The test that took longest in the last run."""
    longest_share: float
    """Its share of the last run's time."""

    @property
    def enough(self) -> bool:
        return self.runs >= LEAST_BLOCKS


@dataclass(frozen=True, kw_only=True)
class Portion:
    """One browser's part in the runs. Medians over runs."""

    browser: str
    runs: int
    share: Interval
    """Of all time in tests, 0 … 1 (not a logarithm)."""
    nodes: float
    """On how many nodes it ran."""
    launches: float
    setup_s: float
    """Launches, session creation and first runs, in a run."""
    busy_s: float
    """Tests, set-up included, in a run."""


def spread(runs: Sequence[RunInfo], shares: Iterable[Share]) -> Spread | None:
    """The spread over nodes; None where the last run had one node."""
    if not runs or runs[-1].nodes < 2:
        return None
    last = runs[-1]
    alike = [run for run in runs if run.nodes == last.nodes and run.seconds > 0]
    busy: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for share in shares:
        busy[share.run][share.node] += share.busy_s
    idle, uneven = [], []
    for run in alike:
        here = list(busy[run.run].values())
        total = sum(here)
        if total <= 0:
            continue
        idle.append(max(0.0, 1 - total / (run.nodes * run.seconds)))
        uneven.append(max(here) / (total / run.nodes) - 1)
    if not idle:
        return None
    return Spread(
        nodes=last.nodes,
        runs=len(idle),
        idle=paired(idle),
        busiest=paired(uneven),
        longest=last.longest,
        longest_share=last.longest_s / last.seconds if last.seconds else 0.0,
    )


def mix(shares: Iterable[Share]) -> list[Portion]:
    """Each browser's part, the largest first."""
    by_run: dict[str, dict[str, list[Share]]] = defaultdict(lambda: defaultdict(list))
    for share in shares:
        by_run[share.run][share.browser].append(share)
    totals = {
        run: sum(s.busy_s for group in groups.values() for s in group) for run, groups in by_run.items()
    }
    found = []
    for browser in {browser for groups in by_run.values() for browser in groups if browser}:
        runs = {run: groups[browser] for run, groups in by_run.items() if browser in groups}
        found.append(
            Portion(
                browser=browser,
                runs=len(runs),
                share=paired([_busy(group) / totals[run] for run, group in runs.items() if totals[run]]),
                nodes=statistics.median(len({s.node for s in group}) for group in runs.values()),
                launches=statistics.median(sum(s.launches for s in group) for group in runs.values()),
                setup_s=statistics.median(_setup(group) for group in runs.values()),
                busy_s=statistics.median(_busy(group) for group in runs.values()),
            )
        )
    return sorted(found, key=lambda p: (-p.busy_s, p.browser))


def _busy(group: Iterable[Share]) -> float:
    return sum(share.busy_s for share in group)


def _setup(group: Iterable[Share]) -> float:
    return sum(share.launch_s + share.load_s for share in group)
