"""Simulations are honest: traces hold up to an independent check, bounds are below what happens, seeds
repeat."""

from __future__ import annotations

import copy
import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation_support import check

from pytest_browserpool.simulation import bounds, zoo
from pytest_browserpool.simulation.bounds import lower_bound
from pytest_browserpool.simulation.figures import SCHEDULERS, simulate
from pytest_browserpool.simulation.workload import parse


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_zoo_traces_hold_up(name: str) -> None:
    data = zoo.data(name, 1)
    result = simulate(parse(data), seed=5, step_iterations=20)
    for scheduler in SCHEDULERS:
        check(data, result["schedulers"][scheduler], 5, capable=scheduler == "browserpool")


@pytest.mark.parametrize("history", ["warm", "cold"])
@pytest.mark.parametrize("overlap", [0.0, 0.7])
def test_with_noise_and_overlap(history: str, overlap: float) -> None:
    data = {**zoo.data("setup_heavy", 2), "history": history, "noise_sigma": 0.5, "overlap": overlap}
    result = simulate(parse(data), seed=2, step_iterations=40)["schedulers"]
    for scheduler in SCHEDULERS:
        check(data, result[scheduler], 2)


def test_prewarming_hides_setup() -> None:
    data = zoo.data("setup_heavy", 0)
    plain = simulate(parse(data), ["browserpool"])["schedulers"]["browserpool"]
    hidden = simulate(parse({**data, "overlap": 0.9}), ["browserpool"])["schedulers"]["browserpool"]
    assert sum(r["setup"] for r in hidden["trace"]) < 0.9 * sum(r["setup"] for r in plain["trace"])


def test_same_seed_same_trace() -> None:
    data = {**zoo.data("churn", 3), "noise_sigma": 0.3}
    runs = [simulate(parse(data), seed=9)["schedulers"] for _ in range(2)]
    for name in SCHEDULERS:
        assert runs[0][name]["trace"] == runs[1][name]["trace"]
    other = simulate(parse(data), seed=10)["schedulers"]
    assert other["browserpool"]["trace"] != runs[0]["browserpool"]["trace"]


def test_churn_loses_no_test_of_ours_and_xdist_loses_what_crashed() -> None:
    data = zoo.data("churn", 0)
    result = simulate(parse(data), seed=0)["schedulers"]
    assert result["browserpool"]["failed"] == []
    assert result["worksteal"]["failed"], "a crashed item is a failure under xdist"


def test_xdist_fails_what_its_node_cannot_run() -> None:
    data = zoo.data("nested", 0)
    result = simulate(parse(data), seed=0)["schedulers"]
    assert result["browserpool"]["failed"] == []
    assert len(result["load"]["failed"]) > 20
    spared = simulate(parse(data), seed=0, spare=True)["schedulers"]
    assert spared["load"]["failed"] == spared["worksteal"]["failed"] == []


@st.composite
def tiny(draw: st.DrawFn) -> dict[str, Any]:
    rng = random.Random(draw(st.integers(0, 10**6)))
    browsers = ["chromium", "firefox"][: draw(st.integers(1, 2))]
    models = {}
    for name in ("a", "b")[: draw(st.integers(1, 2))]:
        models[name] = {
            "memory_gib": 1,
            "load_s": {f"{b}/wasm": round(rng.uniform(0, 5), 2) for b in browsers},
            "run_s": {f"{b}/wasm": round(rng.uniform(0.1, 3), 2) for b in browsers},
        }
    nodes = [
        {
            "id": f"n{i}",
            "speed": rng.choice([0.5, 1, 2]),
            "memory_gib": 2,
            "browsers": {
                b: {"launch_s": round(rng.uniform(0, 2), 2), "backends": ["wasm"]} for b in browsers
            },
        }
        for i in range(draw(st.integers(1, 3)))
    ]
    tests = [
        {"id": f"t{i}", "model": rng.choice(sorted(models)), "run_scale": rng.choice([0.5, 1, 3])}
        for i in range(draw(st.integers(1, 5)))
    ]
    return {"nodes": nodes, "models": models, "tests": tests, "history": "warm"}


def optimum(data: dict[str, Any]) -> float:
    """Brute force over every assignment of tests to (node, browser)."""
    places = [(n, b) for n in data["nodes"] for b in n["browsers"]]
    best = float("inf")
    for choice in itertools.product(places, repeat=len(data["tests"])):
        time: dict[str, float] = {}
        warm = set()
        for test, (node, browser) in zip(data["tests"], choice, strict=True):
            model = data["models"][test["model"]]
            seconds = model["run_s"][f"{browser}/wasm"] * test["run_scale"]
            if (node["id"], browser) not in warm:
                seconds += node["browsers"][browser]["launch_s"]
            if (node["id"], browser, test["model"]) not in warm:
                seconds += model["load_s"][f"{browser}/wasm"]
            warm |= {(node["id"], browser), (node["id"], browser, test["model"])}
            time[node["id"]] = time.get(node["id"], 0.0) + seconds / node["speed"]
        best = min(best, max(time.values()))
    return best


@settings(max_examples=40, deadline=None, derandomize=True)
@given(tiny())
def test_bound_below_optimum_below_ours(data: dict[str, Any]) -> None:
    best = optimum(data)
    workload = parse(data)
    assert lower_bound(workload, 0) <= best + 1e-6
    ours = simulate(workload, ["browserpool"], step_iterations=200)["schedulers"]["browserpool"]
    check(data, ours, 0)
    assert ours["makespan"] >= best - 1e-6
    assert ours["makespan"] <= 1.6 * best + 1e-6, "far from the optimum of a tiny instance"


def test_the_check_itself_finds_lies() -> None:
    data = zoo.data("bursts", 0)
    honest = simulate(parse(data), ["browserpool"], seed=0, step_iterations=0)["schedulers"]["browserpool"]
    check(data, honest, 0)
    for lie in (
        lambda r: r["trace"].pop(),
        lambda r: r["trace"][3].update(setup=r["trace"][3]["setup"] + 1),
        lambda r: r["trace"][-1].update(start=r["trace"][-1]["start"] - 1, end=r["trace"][-1]["end"] - 1),
        lambda r: r.update(makespan=r["makespan"] - 1),
        lambda r: r.update(loads=r["loads"] - 1),
    ):
        told = copy.deepcopy(honest)
        lie(told)
        with pytest.raises(AssertionError):
            check(data, told, 0)


@pytest.mark.parametrize("name", ["nested", "small_models", "unrelated"])
def test_the_simple_bound_is_below_the_program(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = zoo.workload(name, 3)
    program = lower_bound(workload, 3)
    monkeypatch.setattr(bounds, "LARGEST_PROGRAM", 0)
    simple = lower_bound(workload, 3)
    assert 0.3 * program < simple <= program + 1e-6
