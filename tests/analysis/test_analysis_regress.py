"""Planted changes are found, and noise is not: over many seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from pytest_browserpool.analysis import regress
from pytest_browserpool.analysis.samples import Cell, Faulty, Pace, Peak, Samples, Way
from pytest_browserpool.analysis.series import built

WAY = Way("firefox", "wasm")
Planted = Callable[[np.random.Generator, float], tuple[Samples, list[str], list[str]]]


def planted(
    before: int,
    after: int,
    series: int,
    *,
    calls: int,
    spread: float = 0.0,
    machine: float = 0.0,
    raw: bool = False,
) -> Planted:
    """Histories with 10 % noise per call; ``spread`` between runs of one series, ``machine`` between whole runs. The
    factor is planted into the first series of the runs after."""

    def make(chance: np.random.Generator, factor: float) -> tuple[Samples, list[str], list[str]]:
        runs = [f"r{n:02d}" for n in range(before + after)]
        cells = []
        for number, run in enumerate(runs):
            mood = chance.normal(0, machine)
            for k in range(series):
                shift = (
                    mood + chance.normal(0, spread) + (np.log(factor) if number >= before and not k else 0.0)
                )
                values = 5.0 * np.exp(shift + chance.normal(0, 0.1, calls))
                cells.append(
                    Cell(
                        run=run, host="h", model=f"m{k}", type="", way=WAY, count=calls, size=64,
                        typical=float(np.median(values)), raw=tuple(values) if raw else (),
                    )
                )  # fmt: skip
        return Samples(calls=cells), runs[:before], runs[before:]

    return make


CASES = {
    "20 calls of one run against 20 of one": (planted(1, 1, 1, calls=20, raw=True), 150),
    "20 runs against 20, one series": (planted(20, 20, 1, calls=1), 150),
    "the last of 21 runs, 8 series": (planted(20, 1, 8, calls=20), 100),
    "6 runs, 6 series, a moody machine": (planted(5, 1, 6, calls=9, spread=0.02, machine=0.2), 150),
}


@pytest.mark.parametrize("case", CASES)
def test_noise_gives_a_false_alarm_in_five_percent_of_runs_at_most(case: str) -> None:
    make, seeds = CASES[case]
    alarms = 0
    for seed in range(seeds):
        found = regress.compare(*make(np.random.default_rng(seed), 1.0))
        assert found.compared
        alarms += bool(found.regressions or found.improvements)
    assert alarms <= stats.binom.ppf(0.9999, seeds, 0.05)


@pytest.mark.parametrize("case", list(CASES)[:3])
def test_twenty_percent_are_found_in_nine_of_ten(case: str) -> None:
    make, seeds = CASES[case]
    found = sum(
        any(c.subject == "m0" for c in regress.compare(*make(np.random.default_rng(seed), 1.2)).regressions)
        for seed in range(seeds)
    )
    assert found >= 0.9 * seeds


def test_one_run_against_one_is_only_ever_a_notice() -> None:
    make, _ = CASES["20 calls of one run against 20 of one"]
    (change,) = regress.compare(*make(np.random.default_rng(1), 3.0)).regressions
    assert (change.severity, change.provisional) == ("notice", True)


@pytest.mark.parametrize(
    ("factor", "severity"), [(1.17, "minor"), (1.37, "moderate"), (1.7, "major"), (2.6, "critical")]
)
def test_the_size_makes_the_severity(factor: float, severity: str) -> None:
    (change,) = regress.compare(*planted(20, 20, 1, calls=20)(np.random.default_rng(2), factor)).regressions
    assert change.severity == severity
    assert change.ratio.low < np.log(factor) < change.ratio.high


def test_a_change_below_ten_percent_is_not_told_however_sure() -> None:
    found = regress.compare(*planted(20, 20, 1, calls=400)(np.random.default_rng(3), 1.05))
    assert found.regressions == ()


def test_a_slow_machine_is_one_finding_not_forty() -> None:
    samples, before, after = planted(12, 3, 40, calls=9, spread=0.02)(np.random.default_rng(4), 1.0)
    slowed = [
        cell if cell.run in before else Cell(**{**_fields(cell), "typical": 1.6 * cell.typical})
        for cell in samples.calls
    ]
    (change,) = regress.compare(Samples(calls=slowed), before, after).regressions
    assert (change.metric, change.subject, change.severity) == ("latency", "everything", "major")


def _fields(cell: Cell) -> dict[str, object]:
    return {name: getattr(cell, name) for name in Cell.__dataclass_fields__}


def test_memory_load_throughput_and_errors_are_compared_too() -> None:
    chance = np.random.default_rng(6)
    runs = [f"r{n:02d}" for n in range(20)]
    before, after = runs[:10], runs[10:]

    def value(run: str) -> float:
        return float(np.exp(chance.normal(0, 0.05))) * (1.4 if run in after else 1.0)

    loads = [
        Cell(run=r, host="h", model="m", type="", way=WAY, count=1, typical=value(r), metric="load time")
        for r in runs
    ]
    samples = Samples(
        loads=loads,
        memory=[Peak(run=r, host="h", browser="firefox", bytes=1e9 * value(r)) for r in runs],
        pace=[Pace(run=r, browser="", tests=9, usual_s=10.0, took_s=10 * value(r)) for r in runs],
        faulty=[
            Faulty(run=r, model="m", browser="firefox", tests=20, faulty=6 if r in after else 0) for r in runs
        ],
    )
    found = {change.metric: change for change in regress.compare(samples, before, after).regressions}
    assert set(found) == {"load time", "memory", "throughput", "errors"}
    assert {found[metric].severity for metric in ("load time", "memory", "throughput")} == {"moderate"}
    assert found["errors"].severity == "major"  # from none to 30 % of the tests


def test_faults_that_come_together_are_not_so_many_witnesses() -> None:
    """Every fourth run has a storm of five faults among 20 tests, before and after alike."""
    runs = [f"r{n:02d}" for n in range(24)]
    alarms = 0
    for seed in range(150):
        chance = np.random.default_rng(seed)
        rows = [
            Faulty(run=run, model="m", browser="b", tests=20, faulty=5 * int(chance.random() < 0.25))
            for run in runs
        ]
        alarms += bool(regress.compare(Samples(faulty=rows), runs[:16], runs[16:]).regressions)
    assert alarms <= stats.binom.ppf(0.9999, 150, 0.05)
    steady = [Faulty(run=r, model="m", browser="b", tests=20, faulty=4 if r in runs[16:] else n % 2)
              for n, r in enumerate(runs)]  # fmt: skip
    (found,) = regress.compare(Samples(faulty=steady), runs[:16], runs[16:]).regressions
    assert found.severity == "moderate"


def test_errors_of_one_run_against_one_are_a_notice() -> None:
    rows = [Faulty(run=f"r{n}", model="m", browser="b", tests=40, faulty=30 * n) for n in range(2)]
    (found,) = regress.compare(Samples(faulty=rows), ["r0"], ["r1"]).regressions
    assert (found.severity, found.provisional) == ("notice", True)


def test_a_single_fault_is_no_finding() -> None:
    rows = [Faulty(run=f"r{n}", model="m", browser="b", tests=3, faulty=int(n == 3)) for n in range(4)]
    assert regress.compare(Samples(faulty=rows), ["r0", "r1", "r2"], ["r3"]).regressions == ()


def test_without_a_run_to_compare_with_it_says_how_many_are_missing() -> None:
    assert regress.compare(Samples(), [], ["a"]).more_runs == 1


def test_what_one_run_alone_had_is_not_its_own_measure() -> None:
    """Inputs of another size in each run: no run says how much runs differ, so nothing can be told."""
    chance = np.random.default_rng(8)
    runs = [f"r{n:02d}" for n in range(9)]

    def cell(run: str, size: int) -> Cell:
        typical = float(np.exp(chance.normal(0, 0.2)))
        return Cell(run=run, host="h", model="m", type="", way=WAY, count=1, typical=typical, size=size)

    cells = [cell(run, n) for n, run in enumerate(runs[:8])] + [cell("r08", n) for n in range(8)]
    found = regress.compare(Samples(calls=cells), runs[:8], runs[8:])
    assert (found.compared, found.regressions, found.improvements) == (0, (), ())


def test_a_model_that_only_the_new_runs_have_is_compared_with_nothing() -> None:
    samples, before, after = planted(5, 1, 2, calls=9)(np.random.default_rng(3), 1.0)
    new = [cell for cell in samples.calls if cell.model == "m0" or cell.run in after]
    found = built(Samples(calls=new), frozenset(before), frozenset(after))
    assert {key.subject for key in found if key.metric == "latency"} == {"m0"}
    assert not regress.compare(Samples(calls=new), before, after).regressions
