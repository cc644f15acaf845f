"""The bandit: what it pulls, what it costs, and that wrong beliefs are overcome within the stated number of tests."""

from __future__ import annotations

import importlib.util
import math
import random
from pathlib import Path
from types import ModuleType

import pytest
from placement_support import collect, engine, finish, node, runs, wanting

from pytest_browserpool.placement.beliefs import Belief
from pytest_browserpool.placement.engine import PlacementEngine
from pytest_browserpool.placement.events import LoadObserved, Run, RunObserved
from pytest_browserpool.placement.history import History, Sample
from pytest_browserpool.placement.learning import Arm, optimism, price, pull

A, B = ("chromium", "wasm", "m"), ("firefox", "wasm", "m")


def believed(seconds: float, variance: float, noise: float = 0.1) -> Belief:
    return Belief(math.log(seconds), variance, noise)


def test_without_experience_the_prior_decides() -> None:
    arms = [Arm(A, believed(1.0, 0.5), 0.0), Arm(B, believed(1.2, 5.0), 0.0)]
    assert pull(arms, sent=0, waiting=100).session == A
    assert pull(arms, sent=1, waiting=100).session == B, "more may be hidden in the one that is less known"


@pytest.mark.parametrize("factor", [2.0, 3.0, 8.0])
def test_a_wrong_belief_is_put_to_the_test_when_it_is_said_to_be(factor: float) -> None:
    variance = 0.6
    arms = [Arm(A, believed(1.0, 1e-6), 0.0), Arm(B, believed(factor, variance), 0.0)]
    stated = math.exp(math.log(factor) ** 2 / (2 * variance)) - 1
    first = next(n for n in range(10_000) if pull(arms, sent=n, waiting=100).session == B)
    assert first == pytest.approx(stated, abs=1.5)


def test_a_setup_is_paid_only_where_it_can_come_back() -> None:
    tried = Arm(B, believed(1.0, 0.5), setup=60.0)
    arms = [Arm(A, believed(1.0, 1e-6), 0.0), tried]
    assert pull(arms, sent=3, waiting=500).session == B
    assert pull(arms, sent=3, waiting=1).session == A
    assert price(tried, 3, 1) > price(tried, 3, 500)


def test_what_is_under_way_is_not_tried_again() -> None:
    belief = believed(1.0, 1.0)
    assert optimism(belief, 10, under_way=4) < optimism(belief, 10) / 3


def test_regret_grows_with_the_logarithm() -> None:
    """Pulls of the slower arm in 2,000 tests stay below the stated bound, whatever is believed at first."""
    noise, gap = 0.1, math.log(1.5)
    for seed in range(5):
        rng = random.Random(seed)
        truth = {A: 0.0, B: gap}
        sums, counts = {A: 0.0, B: 0.0}, {A: 0, B: 0}
        for n in range(2000):
            arms = []
            for session in (A, B):
                weight, prior = counts[session] / noise, 1 / 0.6
                wrong = -gap if session == B else gap
                mean = (sums[session] / noise + prior * wrong) / (weight + prior)
                arms.append(Arm(session, Belief(mean, 1 / (weight + prior), noise), 0.0))
            chosen = pull(arms, sent=n, waiting=2000 - n).session
            sums[chosen] += truth[chosen] + rng.gauss(0, math.sqrt(noise))
            counts[chosen] += 1
        assert counts[B] <= 3 * (1 + 2 * noise * math.log(2000) / gap**2), seed


def play(made: PlacementEngine, tests: int, seconds: dict[tuple[str | None, str | None], float]) -> list[Run]:
    """Run ``tests`` tests of one model on the only node; warm seconds by (browser, backend)."""
    commands, done = collect(made, *(wanting(f"t{i:03}", "m") for i in range(tests))), []
    while runs(commands):
        (run,) = runs(commands)
        done.append(run)
        now, took = made.now, seconds[run.browser, run.backend]
        place = {"node": run.node, "browser": run.browser or "", "backend": run.backend or "", "model": "m"}
        made.handle(LoadObserved(at=now, seconds=0.5, **place))
        made.handle(RunObserved(at=now + took, seconds=took, test=run.test, **place))
        commands = finish(made, run, now + took, took)
    return done


def test_backends_are_arms_too_unless_the_marker_names_them() -> None:
    here = node("n1", "chromium", backends=("webgpu", "wasm"))
    done = play(engine(here, learn=True), 60, {("chromium", "webgpu"): 0.1, ("chromium", "wasm"): 0.5})
    assert {run.backend for run in done} == {"webgpu", "wasm"}
    assert [run.backend for run in done[-20:]].count("webgpu") >= 19
    assert any(run.decision is not None and "trial" in run.decision.factors for run in done)
    made = engine(here, learn=True)
    collect(made, *(wanting(f"t{i}", "m", backends=("webgpu",)) for i in range(30)))
    assert made.book.kinds[0].options[0] == (("chromium", "webgpu", "m"),)


def test_without_the_option_nothing_that_history_knows_is_tried() -> None:
    history = History(
        runs={A: Sample(1.0, 20), B: Sample(1.3, 20)}, loads={A: Sample(0.1, 20), B: Sample(0.1, 20)}
    )
    made = engine(node("n1", "chromium", "firefox"), history=history)
    done = play(made, 40, {("chromium", "wasm"): 1.0, ("firefox", "wasm"): 0.1})
    assert {run.browser for run in done} == {"chromium"}
    assert not any(run.decision is not None and "trial" in run.decision.factors for run in done)


def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "learning.py"
    spec = importlib.util.spec_from_file_location("learning_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("beginning", ["swapped", "one-sided", "none"])
def test_a_wrong_prior_is_overcome(beginning: str) -> None:
    """Vision is believed to run best in Chrome, and Firefox is eight times as fast: two nodes, 120 tests."""
    bench = benchmark()
    for seed in range(2):
        after, share, _ = bench.one(
            beginning, learn=True, seed=seed, tests=120, nodes=2, factor=8.0, noise=0.3
        )
        assert after is not None, seed
        assert after <= 20, seed
        assert share < 0.2, seed


def test_a_wrong_history_is_believed_without_the_option() -> None:
    bench = benchmark()
    after, share, _ = bench.one("swapped", learn=False, seed=0, tests=60, nodes=2, factor=8.0, noise=0.3)
    assert after is None
    assert share == 1.0


def test_a_right_history_costs_little() -> None:
    bench = benchmark()
    _, share, lost = bench.one("right", learn=True, seed=1, tests=120, nodes=2, factor=1.5, noise=0.3)
    assert share <= 0.1
    assert lost <= 12.0, "no more than the other browser's set-up on both nodes, and a few tests"
