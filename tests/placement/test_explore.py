"""Trying another browser: what an option is worth, when it is taken, and what the engine makes of what it saw."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from placement_support import collect, engine, finish, node, runs, wanting

from pytest_browserpool.placement.beliefs import VAR_SESSION, Belief
from pytest_browserpool.placement.cost import CostModel
from pytest_browserpool.placement.events import LoadObserved, RunObserved
from pytest_browserpool.placement.explore import Stake, exchange, learned, probe, worth
from pytest_browserpool.placement.history import History, Sample
from pytest_browserpool.placement.revising import revise

EQUAL = Belief(0.0, 0.6, 0.2)


@pytest.mark.parametrize(("offered", "deviation"), [(1.0, 0.7), (2.0, 0.7), (0.5, 0.3), (8.0, 1.0)])
def test_the_worth_of_an_exchange_is_what_chance_gives(offered: float, deviation: float) -> None:
    rng = random.Random(1)
    # the other's time is lognormal with mean ``offered``, what is kept takes 1
    drawn = [offered * math.exp(rng.gauss(-(deviation**2) / 2, deviation)) for _ in range(40_000)]
    expected = statistics.fmean(max(0.0, 1.0 - x) for x in drawn)
    assert exchange(1.0, offered, deviation) == pytest.approx(expected, rel=0.08, abs=1e-3)


def test_certainty_leaves_the_difference() -> None:
    assert exchange(3.0, 1.0, 0.0) == 2.0
    assert exchange(1.0, 3.0, 0.0) == 0.0


def test_more_measurements_teach_more_and_never_more_than_is_open() -> None:
    values = [learned(EQUAL, n) for n in (1, 2, 4, 8, 1000)]
    assert values == sorted(values)
    assert values[-1] < EQUAL.variance


def test_a_trial_is_worth_it_for_much_work_and_a_small_setup() -> None:
    def apart(kept: float, tried: float) -> float:
        return sum(EQUAL.variance - learned(EQUAL, n) if n else EQUAL.variance for n in (kept, tried))

    def gain(waiting: float, setup: float, running: int = 0, move: float = 0.0) -> float:
        return worth(EQUAL, EQUAL, Stake(waiting, running, setup, move), apart)

    assert gain(100, 3.0) > 0
    assert gain(5, 3.0) < 0
    assert gain(100, 200.0) < 0
    assert gain(100, 3.0, move=100.0) < gain(100, 3.0)
    assert gain(100, 3.0, running=5) < gain(100, 3.0)
    assert worth(EQUAL, Belief(math.log(20), 0.05, 0.2), Stake(100, 0, 0.1, 0.0), apart) < 0, "surely slower"


def test_launches_tell_a_nodes_speed_before_a_test_has_ended() -> None:
    costs = CostModel(None)
    costs.observe_launch("a", "chromium", 0.6)
    costs.observe_launch("b", "chromium", 1.8)
    assert costs.speed("a") / costs.speed("b") > 1.5


def test_a_browser_that_had_only_heavy_models_is_not_slow() -> None:
    costs = CostModel(None)
    for model, seconds in (("big", 20.0), ("bigger", 30.0)):
        costs.observe_run("n", ("chromium", "wasm", model), "", 1.0, seconds)
    for model, seconds in (("small", 0.02), ("smaller", 0.03)):
        costs.observe_run("n", ("firefox", "wasm", model), "", 1.0, seconds)
    costs.fit({})
    ratio = costs.run(("firefox", "wasm", "big"), "") / costs.run(("chromium", "wasm", "big"), "")
    assert 1 / 10 < ratio < 1.5, "and not a thousandth, as the browsers by themselves suggest"


def test_noise_is_measured_and_says_how_little_one_test_tells() -> None:
    sure, unsure = CostModel(None), CostModel(None)
    rng = random.Random(0)
    for _ in range(60):
        sure.observe_run("n", ("chromium", "wasm", "m"), "", 1.0, 1.0)
        unsure.observe_run("n", ("chromium", "wasm", "m"), "", 1.0, math.exp(rng.gauss(0, 1.2)))
    assert sure.runs.noise.value < 0.05
    assert unsure.runs.noise.value == pytest.approx(1.44, rel=0.4)
    new = ("firefox", "wasm", "x")
    for costs in (sure, unsure):
        costs.observe_run("n", new, "", 1.0, 10.0)
    assert sure.runs.belief(new, "").variance < unsure.runs.belief(new, "").variance


def test_what_is_not_known_of_a_model_does_not_tell_its_browsers_apart() -> None:
    costs, chromium, firefox = CostModel(None), ("chromium", "wasm", "m"), ("firefox", "wasm", "m")
    runs = costs.runs
    blind = runs.apart(chromium, firefox)
    assert blind == pytest.approx(2 * VAR_SESSION), "both may differ; the model is the same"
    costs.observe_run("n", chromium, "", 1.0, 1.0)
    once = runs.apart(chromium, firefox)
    assert VAR_SESSION < once < blind
    beliefs = [runs.belief(session, "") for session in (chromium, firefox)]
    assert once < sum(b.variance for b in beliefs)
    foreseen = runs.apart(chromium, firefox, 0.0, 1.0)
    costs.observe_run("n", firefox, "", 1.0, 1.0)
    assert foreseen == pytest.approx(runs.apart(chromium, firefox))
    assert foreseen < once
    assert runs.apart(chromium, firefox, 1e9, 1e9) == pytest.approx(0.0, abs=1e-6)


def test_nothing_is_tried_before_there_is_something_to_compare_with_nor_twice_on_two_nodes() -> None:
    made = engine(node("n1", "chromium", "firefox"), node("n2", "chromium", "firefox"))
    commands = collect(made, *(wanting(f"t{i}", "m") for i in range(60)))
    first = runs(commands)
    assert {run.browser for run in first} == {"chromium"}, "both nodes take what is expected to be best"
    n1, n2 = made.book.nodes["n1"], made.book.nodes["n2"]
    batch = next(iter(n1.batches.values()))
    assert probe(made.book, n1, batch) is None, "nothing was measured"
    place = {"node": "n1", "browser": "chromium", "backend": first[0].backend or "", "model": "m"}
    made.handle(LoadObserved(at=made.now, seconds=0.3, **place))
    made.handle(RunObserved(at=made.now + 1, seconds=1.0, test=first[0].test, **place))
    tried = probe(made.book, n1, batch)
    assert tried is not None
    assert tried[0] == "firefox"
    n2.warm_up("firefox", tried)
    assert probe(made.book, n1, batch) is None, "the other node has it"


def test_waiting_work_goes_to_the_faster_browser_when_that_is_known() -> None:
    history = History(
        runs={("chromium", "wasm", "m"): Sample(1.0, 9), ("firefox", "wasm", "m"): Sample(1.1, 9)},
        loads={("chromium", "wasm", "m"): Sample(0.1, 9), ("firefox", "wasm", "m"): Sample(0.1, 9)},
        launches={"chromium": Sample(0.1, 9), "firefox": Sample(0.1, 9)},
    )
    made = engine(node("n1", "chromium", "firefox"), history=history)
    collect(made, *(wanting(f"t{i}", "m") for i in range(40)))
    (plan,) = made.book.nodes.values()
    assert {b.session[0] for b in plan.batches.values()} == {"chromium"}
    assert not revise(plan), "nothing moved"
    made.book.estimates.unit["firefox", "wasm", "m"] = 0.5
    assert revise(plan)
    assert {b.session[0] for b in plan.batches.values()} == {"firefox"}


def test_an_unknown_browser_is_tried_once_where_much_waits() -> None:
    made = engine(node("n1", "chromium", "firefox"))
    commands, used = collect(made, *(wanting(f"t{i}", "m") for i in range(60))), []
    seconds = {"chromium": 1.0, "firefox": 0.2}
    while runs(commands):
        (run,) = runs(commands)
        assert run.browser is not None
        used.append(run.browser)
        place = {"node": "n1", "browser": run.browser, "backend": run.backend or "", "model": "m"}
        took = seconds[run.browser]
        made.handle(LoadObserved(at=made.now, seconds=0.3, **place))
        made.handle(RunObserved(at=made.now + took, seconds=took, test=run.test, **place))
        commands = finish(made, run, made.now, took)
    assert used.index("firefox") <= 3
    assert used[-40:] == ["firefox"] * 40
