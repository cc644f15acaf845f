"""An independent check of a simulated trace: it recomputes everything from the workload's JSON and the
formula alone."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from typing import Any

import pytest

FAMILY = {"chromium": "chrome", "headless-shell": "chrome"}
ORDER = ("webgpu", "webnn", "webnn-gpu", "webnn-npu", "wasm")


def check(data: dict[str, Any], result: dict[str, Any], seed: int, *, capable: bool = True) -> None:
    """Raise unless ``result`` (one scheduler's) is an honest account of a run of the workload ``data``.

    ``capable``: the scheduler knows capabilities, so that only tests that were lost with their nodes may have
    failed.
    """
    nodes = {n["id"]: n for n in data["nodes"]}
    tests = {t["id"]: t for t in data["tests"]}
    trace = result["trace"]
    ran = [r["test"] for r in trace]
    assert len(ran) == len(set(ran)), "a test ran to its end twice"
    assert set(ran) | set(result["failed"]) == set(tests)
    assert not set(ran) & set(result["failed"])
    if capable and not data.get("events"):
        assert not result["failed"]
    noise = _noise(data, seed)
    by_node = defaultdict(list)
    for row in trace:
        by_node[row["node"]].append(row)
    launches = loads = 0
    for name, rows in by_node.items():
        rows.sort(key=lambda r: r["start"])
        for before, after in itertools.pairwise(rows):
            assert after["start"] >= before["end"] - 1e-9, "two tests at once on one node"
        a, b = _check_node(data, nodes[name], tests, rows, noise)
        launches, loads = launches + a, loads + b
    if not data.get("events"):
        assert (launches, loads) == (result["launches"], result["loads"])
    assert result["makespan"] == pytest.approx(max((r["end"] for r in trace), default=0.0))
    if set(ran) == set(tests):
        assert result["makespan"] >= result["lower_bound"] - 1e-6
    _check_shares(result, nodes, by_node)


def _noise(data: dict[str, Any], seed: int) -> dict[str, float]:
    rng = random.Random(seed)
    sigma = data.get("noise_sigma", 0.0)
    return {t["id"]: math.exp(sigma * rng.gauss(0, 1) - sigma**2 / 2) for t in data["tests"]}


def _check_node(
    data: dict[str, Any],
    node: dict[str, Any],
    tests: dict[str, Any],
    rows: list[dict[str, Any]],
    noise: dict[str, float],
) -> tuple[int, int]:
    events = sorted((e for e in data.get("events", ()) if e["node"] == node["id"]), key=lambda e: e["at"])
    warm: set[tuple[str, ...]] = set()
    up = not (events and next((e["kind"] for e in events if e["kind"] != "slow"), "lost") == "join")
    speed, launches, loads = node.get("speed", 1.0), 0, 0
    overlap = data.get("overlap", 0.0)
    for row in rows:
        while events and events[0]["at"] <= row["start"]:
            event = events.pop(0)
            if event["kind"] == "slow":
                speed *= event.get("factor", 0.5)
            else:
                up = event["kind"] == "join"
                warm.clear()
        assert up, f"{row['test']} began on {node['id']} while it was not there"
        assert not any(e["kind"] == "lost" and e["at"] < row["end"] - 1e-9 for e in events), (
            "ran on past the loss"
        )
        test = tests[row["test"]]
        model = data["models"][test["model"]]
        browser, backend = row["browser"], row["backend"]
        assert backend == _backend(test, model, node, browser)
        assert model.get("memory_gib", 0) <= node["memory_gib"]
        launch = node["browsers"][browser]["launch_s"] * ((browser,) not in warm)
        load = model["load_s"][f"{browser}/{backend}"] * ((browser, backend, test["model"]) not in warm)
        launches += (browser,) not in warm
        loads += (browser, backend, test["model"]) not in warm
        warm |= {(browser,), (browser, backend, test["model"])}
        full = (launch + load) / speed
        assert full * (1 - overlap) - 1e-9 <= row["setup"] <= full + 1e-9
        run = model["run_s"][f"{browser}/{backend}"] * test.get("run_scale", 1.0) * noise[test["id"]] / speed
        assert row["end"] - row["start"] == pytest.approx(row["setup"] + run, rel=1e-9, abs=1e-9)
    return launches, loads


def _backend(test: dict[str, Any], model: dict[str, Any], node: dict[str, Any], browser: str) -> str | None:
    assert browser in node["browsers"]
    wanted = test.get("browsers") or [browser]
    assert browser in wanted or FAMILY.get(browser, browser) in wanted
    for backend in test.get("backends") or ORDER:
        if backend in node["browsers"][browser]["backends"] and f"{browser}/{backend}" in model["run_s"]:
            return str(backend)
    return None


def _check_shares(
    result: dict[str, Any], nodes: dict[str, Any], by_node: dict[str, list[dict[str, Any]]]
) -> None:
    makespan = result["makespan"]
    busy = {name: sum(r["end"] - r["start"] for r in by_node.get(name, ())) for name in nodes}
    assert result["peak_load"] == pytest.approx(max(busy.values()))
    for name, share in result["utilization"]["node"].items():
        assert share == pytest.approx(busy[name] / makespan if makespan else 0.0)
        assert share <= 1 + 1e-9
    assert result["useful_migrations"] <= result["migrations"]
