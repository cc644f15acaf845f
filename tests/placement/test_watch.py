"""Forecasts and their score, thresholds, pool sizes, the factors of the score."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from placement_support import collect, engine, finish, node, runs, wanting

from pytest_browserpool.placement import scoring, thresholds
from pytest_browserpool.placement.engine import PlacementEngine
from pytest_browserpool.placement.history import History, Sample
from pytest_browserpool.placement.poolsize import PoolAdvice
from pytest_browserpool.placement.thresholds import Thresholds
from pytest_browserpool.simulation import zoo
from pytest_browserpool.simulation.ours import OurRun


def test_forecasts_are_scored_and_beat_the_last_minute() -> None:
    """Over long runs with a known queue: the error of the forecast is below that of "as the last minute"."""
    errors, naive, count = 0.0, 0.0, 0
    for name, seed in itertools.product(("setup_heavy", "nested", "small_models", "bursts"), (0, 1)):
        run = OurRun(zoo.workload(name, seed), seed)
        run.run()
        score = run.engine.forecast_score
        errors += score.error * score.count
        naive += score.naive_error * score.count
        count += score.count
    assert count >= 10
    assert errors < 0.7 * naive, f"{errors / count:.3f} beside {naive / count:.3f}"


def test_rates_of_the_window() -> None:
    made = engine(node("n1"))
    (run,) = runs(collect(made, *(wanting(f"t{i}", "m", type="audio") for i in range(50))))
    for i in range(1, 41):
        (run,) = runs(finish(made, run, i * 2.0, 2.0))
    rates = made.watch.predictor.rates(80.0)["chromium", "audio"]
    assert rates.service_s == pytest.approx(2.0)
    assert rates.completions == pytest.approx(0.5)
    assert rates.arrivals == pytest.approx(0.5, rel=0.05)
    assert made.watch.predictor.used("chromium", 20.0, 60.0) == pytest.approx(40.0)
    forecast = made.forecasts["chromium"]
    assert 0.0 <= forecast.utilization <= 1.0
    assert forecast.active_models == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 120)), max_size=60))
def test_thresholds_keep_their_bounds(steps: list[tuple[float, float, float]]) -> None:
    limits, now = Thresholds(), 0.0
    assert (limits.high, limits.low) == (0.85, 0.20)
    for a, b, seconds in steps:
        now += seconds
        limits.update({"a": a, "b": b}, now)
        assert 0.60 <= limits.high <= 0.95
        assert 0.10 <= limits.low <= 0.40
        assert limits.high - limits.low >= thresholds.LEAST_GAP - 1e-9


def test_thresholds_follow_and_hold() -> None:
    rising = Thresholds()
    for i in range(6):
        rising.update({"a": 0.1 + 0.12 * i}, i * 15.0)
    steady = Thresholds()
    for i in range(6):
        steady.update({"a": 0.7}, i * 15.0)
    assert rising.high < steady.high, "where load grows, act earlier"
    limits = Thresholds()
    limits.update({"a": 0.97}, 0.0)
    assert limits.those("overloaded") == ["a"]
    limits.update({"a": 0.88}, 10_000.0)
    assert limits.high > 0.88
    assert limits.those("overloaded") == ["a"], "hysteresis"
    limits.update({"a": 0.5}, 20_000.0)
    assert limits.those("overloaded") == []


def test_overloaded_browser_is_relieved() -> None:
    """Everything is planned in Firefox; Chromium turns out to be as good, and takes a part."""
    session = ("chromium", "wasm", "a")
    history = History(
        runs={("firefox", "wasm", "a"): Sample(6.0, 1000), session: Sample(1.0, 1000)},
        loads={("firefox", "wasm", "a"): Sample(0.1, 1000), session: Sample(0.1, 1000)},
        launches={"firefox": Sample(0.1, 1000), "chromium": Sample(0.1, 1000)},
    )
    made = engine(
        node("n1", "chromium", "firefox"),
        node("n2", "chromium", "firefox"),
        history=history,
        first_iterations=0,
    )
    first = runs(collect(made, *(wanting(f"t{i}", "a") for i in range(60))))
    kind = made.book.kinds[0]
    for plan in made.book.nodes.values():
        for batch in list(plan.batches.values()):
            tests = list(batch.tests)
            plan.take(batch, tests)
            plan.put(kind, ("firefox", "wasm", "a"), tests)
    assert all(b.session[0] == "firefox" for p in made.plan.values() for b in p)
    after = runs(finish(made, first[0], 1.0))
    assert after[0].browser == "chromium"


def advised(made: PlacementEngine, name: str) -> PoolAdvice:
    advice = made.pool_advice(name)
    assert advice is not None
    return advice


def test_pool_grows_at_once_and_shrinks_late() -> None:
    made = engine(node("n1", "chromium", "firefox", memory=8.0))
    (run,) = runs(
        collect(made, wanting("c", "a", browsers=("chromium",)), wanting("f", "b", browsers=("firefox",)))
    )
    assert advised(made, "n1") == PoolAdvice(size=2, most=3, soon=frozenset({"chromium", "firefox"}))
    (run,) = runs(finish(made, run, 1.0))
    assert advised(made, "n1") == PoolAdvice(size=2, most=3, soon=frozenset({run.browser})), "cool-down"
    made.now = made.config.pool_cool_down_s + 2.0
    assert advised(made, "n1").size == 1
    assert made.pool_advice("nobody") is None


def test_pool_is_capped_by_memory() -> None:
    made = engine(node("n1", "chromium", "firefox", memory=1.5))
    collect(made, wanting("c", "a", browsers=("chromium",)), wanting("f", "b", browsers=("firefox",)))
    assert advised(made, "n1").size == advised(made, "n1").most == 1, (
        "80 % of 1.5 GiB holds one browser of 0.8"
    )


def test_factors() -> None:
    assert scoring.capacity(0.3) == pytest.approx(0.7)
    assert scoring.capacity(1.0) == 0.1
    assert scoring.overload(0.7) == 1.0
    assert scoring.overload(0.85) == pytest.approx(0.55)
    assert scoring.overload(1.0) == pytest.approx(0.1)
    assert scoring.success(0, 5) == 1.0, "five tests are too few"
    assert scoring.success(3, 6) == pytest.approx(0.6)
    assert scoring.success(0, 100) == pytest.approx(0.2)
    assert scoring.latency(10.0, 1.0) == 1.5
    assert scoring.latency(1.0, 10.0) == 0.5
    assert scoring.latency(1.2, 1.0) == pytest.approx(1.2)
    assert scoring.memory(None, 4.0) == scoring.memory(1.0, 4.0) == 1.0
    assert scoring.memory(4.0, 4.0) == 0.5
    assert scoring.affinity("audio", "firefox", webnn=False, preferred_here=True) == 1.2
    assert scoring.affinity("audio", "chrome", webnn=True, preferred_here=True) == 1.0
    assert scoring.affinity("audio", "chrome", webnn=True, preferred_here=False) == 1.1
    assert scoring.affinity("", "chrome", webnn=True, preferred_here=False) == 1.0
