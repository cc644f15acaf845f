"""Learned costs: shrunk when samples are few, right when they are many, unmoved by outliers."""

from __future__ import annotations

import math
import random

import pytest

from pytest_browserpool.placement.beliefs import WINDOW, Stat
from pytest_browserpool.placement.cost import CostModel
from pytest_browserpool.placement.history import History, Sample
from pytest_browserpool.placement.policy import LOAD_PRIOR_S, RUN_PRIOR_S

A = ("chromium", "webgpu", "a")


def test_prior_then_measurement() -> None:
    costs = CostModel(None)
    assert costs.run(A, "vision") == pytest.approx(RUN_PRIOR_S["webgpu"])
    assert costs.load(A, "vision") == pytest.approx(LOAD_PRIOR_S["webgpu"])
    costs.observe_run("n", A, "vision", 1.0, 0.05)
    costs.fit({})
    once = costs.run(A, "vision")
    assert 0.05 < once < 0.2, "one measurement tells nearly all, not all"
    for _ in range(20):
        costs.observe_run("n", A, "vision", 1.0, 0.05)
    costs.fit({})
    assert costs.run(A, "vision") == pytest.approx(0.05, rel=0.05)


def test_from_the_specific_to_the_general() -> None:
    costs = CostModel(None)
    for model in "bcdefg":
        costs.observe_load("n", ("chromium", "webgpu", model), "vision", 0.5)
    costs.fit({})
    new = costs.load(("chromium", "webgpu", "never-seen"), "vision")
    assert 0.4 < new < 1.0, "what other models of this browser took, not the prior of six seconds"
    other = costs.load(("firefox", "webgpu", "never-seen"), "audio")
    assert other < LOAD_PRIOR_S["webgpu"]


def test_a_heavy_model_is_heavy_in_every_browser() -> None:
    costs = CostModel(None)
    for model in "bcd":
        costs.observe_run("n", ("chromium", "wasm", model), "vision", 1.0, 0.1)
        costs.observe_run("n", ("firefox", "wasm", model), "vision", 1.0, 0.1)
    for _ in range(3):
        costs.observe_run("n", ("chromium", "wasm", "heavy"), "vision", 1.0, 10.0)
    costs.fit({})
    assert costs.run(("firefox", "wasm", "heavy"), "vision") > 10 * costs.run(
        ("firefox", "wasm", "b"), "vision"
    )


def test_outliers_hardly_move_it() -> None:
    stat = Stat()
    for value in [1.0] * 12 + [8.0, 9.0, -7.0]:
        stat.add(value)
    assert stat.middle == pytest.approx(1.0)


def test_window_forgets() -> None:
    stat = Stat()
    for value in [0.0] * 100 + [2.0] * WINDOW:
        stat.add(value)
    assert stat.middle == 2.0
    assert stat.n == WINDOW


def test_node_speed_is_told_from_light_models() -> None:
    rng = random.Random(0)
    costs = CostModel(None)
    for _ in range(40):
        model = rng.choice("abcd")
        seconds = {"a": 0.2, "b": 1.0, "c": 3.0, "d": 0.5}[model]
        name, speed = rng.choice([("fast", 2.0), ("slow", 0.5)])
        costs.observe_run(name, ("chromium", "wasm", model), "", 1.0, seconds / speed)
    assert costs.speed("fast") / costs.speed("slow") == pytest.approx(4.0, rel=0.35)


def test_history_then_live() -> None:
    history = History(runs={A: Sample(2.0, 50)}, speeds={"n": Sample(2.0, 50)}, scales={"t": Sample(3.0)})
    costs = CostModel(history)
    costs.fit({})
    assert costs.run(A, "") == pytest.approx(2.0, rel=0.01)
    assert costs.speed("n") == pytest.approx(2.0)
    assert costs.scale("t") == 3.0
    assert costs.scale("new") is None
    for _ in range(60):
        costs.observe_run("n", A, "", 1.0, 0.5)
    assert costs.run(A, "") / costs.speed("n") == pytest.approx(0.5, rel=0.25), (
        "live measurements win in the end"
    )


@pytest.mark.parametrize("seconds", [0.0, 1e-12, 1e6])
def test_odd_times_do_no_harm(seconds: float) -> None:
    costs = CostModel(None)
    costs.observe_run("n", A, "", 1.0, seconds)
    costs.observe_load("n", A, "", seconds)
    costs.observe_launch("n", "chromium", seconds)
    for value in (costs.run(A, ""), costs.load(A, ""), costs.launch("chromium", "n"), costs.speed("n")):
        assert math.isfinite(value)
        assert value > 0


def test_history_from_rows() -> None:
    rows = [("h1", "chromium", "wasm", "m", "t1", 1.0), ("h2", "chromium", "wasm", "m", "t1", 2.0)]
    rows += [("h1", "chromium", "wasm", "m", "t2", 4.0), ("h2", "chromium", "wasm", "m", "t2", 8.0)]
    rows += [("h1", "chromium", "wasm", "m", "t2", math.nan), ("h1", "chromium", "wasm", "m", "t2", -1.0)]
    history = History.from_rows(
        launches=[("h1", "chromium", 0.7), ("h1", "chromium", 0.9), ("h1", "chromium", 50.0)],
        loads=[("h1", "chromium", "wasm", "m", 3.0)],
        runs=rows,
        successes=[("chromium", "wasm", "m", 3, 4)],
    )
    assert history.successes == {("chromium", "wasm", "m"): (3, 4)}
    assert history.launches["chromium"] == Sample(0.9, 3)
    assert history.loads["chromium", "wasm", "m"] == Sample(3.0, 1)
    assert history.runs["chromium", "wasm", "m"] == Sample(3.0, 4)
    assert history.scales["t2"].value / history.scales["t1"].value == pytest.approx(4.0)
    assert history.speeds["h1"].value / history.speeds["h2"].value == pytest.approx(2.0)
