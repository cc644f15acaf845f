"""The best way is told from runs that measured both, and only as far as they tell it."""

from __future__ import annotations

import math
import random

from pytest_browserpool.analysis import best
from pytest_browserpool.analysis.samples import Cell, Way

FIREFOX, CHROMIUM, SHELL = Way("firefox", "wasm"), Way("chromium", "wasm"), Way("headless-shell", "webnn")


def cell(run: str, way: Way, typical: float, **more: object) -> Cell:
    fields = {"host": "h", "model": "vad", "type": "audio", "count": 20, "size": 64}
    return Cell(run=run, way=way, typical=typical, **{**fields, **more})  # type: ignore[arg-type]


def runs(n: int, noise: float, seed: int = 0, machine: float = 0.5, **ways: float) -> list[Cell]:
    """``n`` runs of the ways (f, c, s → ms); ``machine``: how much whole runs differ."""
    chance = random.Random(seed)
    names = {"f": FIREFOX, "c": CHROMIUM, "s": SHELL}
    cells = []
    for number in range(n):
        mood = chance.lognormvariate(0, machine)
        cells += [
            cell(f"r{number:02d}", names[key], typical * mood * chance.lognormvariate(0, noise))
            for key, typical in ways.items()
        ]
    return cells


def test_the_quickest_is_found_through_noise_of_whole_runs() -> None:
    (found,) = best.of_models(runs(8, 0.05, f=10.0, c=14.0, s=30.0))
    assert (found.verdict, found.way, found.more_runs) == (best.BEST, FIREFOX, 0)
    ratio = found.rivals[0].ratio
    assert found.rivals[0].way == CHROMIUM
    assert ratio.low < math.log(1.4) < ratio.high


def test_a_wrong_way_is_called_best_in_five_percent_at_most() -> None:
    wrong = sum(
        found.verdict == best.BEST and found.way != FIREFOX
        for seed in range(200)
        for found in best.of_models(runs(6, 0.1, seed, f=10.0, c=10.1, s=10.1))
    )
    assert wrong <= 18  # the 99.9 % point of 200 draws at 5 %


def test_ways_that_never_ran_in_one_run_are_not_compared() -> None:
    cells = [cell("a", FIREFOX, 1.0), cell("a", FIREFOX, 1.0), cell("b", CHROMIUM, 100.0)]
    (found,) = best.of_models(cells)
    assert found.verdict == best.ALONE
    assert found.rivals == ()


def test_calls_of_other_sizes_are_not_compared() -> None:
    cells = [
        c
        for n in range(9)
        for c in (cell(f"r{n}", FIREFOX, 1.0, size=1), cell(f"r{n}", CHROMIUM, 9.0, size=2))
    ]
    (found,) = best.of_models(cells)
    assert found.verdict == best.ALONE


def test_a_software_adapter_is_another_way_than_a_hardware_one() -> None:
    soft, hard = Way("chromium", "webgpu", "software"), Way("chromium", "webgpu", "hardware")
    cells = [c for n in range(9) for c in (cell(f"r{n}", soft, 90.0 + n), cell(f"r{n}", hard, 3.0 + n / 100))]
    (found,) = best.of_models(cells)
    assert (found.way, found.verdict) == (hard, best.BEST)
    assert found.rivals[0].way == soft


def test_two_runs_are_not_enough_and_it_says_how_many_would_be() -> None:
    (found,) = best.of_models(runs(2, 0.1, f=10.0, c=14.0))
    assert found.verdict == best.OPEN
    assert found.more_runs is not None
    assert 1 <= found.more_runs <= 10


def test_equal_ways_are_a_tie_once_that_is_shown() -> None:
    (found,) = best.of_models(runs(30, 0.05, f=10.0, c=10.0))
    assert found.verdict == best.TIE
    assert set(found.as_good) == {FIREFOX, CHROMIUM}


def test_a_type_is_judged_over_its_models_and_one_model_is_no_type() -> None:
    cells = runs(8, 0.05, f=10.0, c=20.0)
    assert best.of_types(cells) == []
    others = [
        Cell(**{**{n: getattr(c, n) for n in Cell.__dataclass_fields__}, "model": "pitch"}) for c in cells
    ]
    (found,) = best.of_types([*cells, *others])
    assert (found.subject, found.way, found.verdict) == ("audio", FIREFOX, best.BEST)
