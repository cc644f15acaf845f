"""A browser that crashes at five operations in a row is left alone while another one may be used, then tried by one model."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_models as make
import pytest
from bench_support import Bench
from chaos_support import send
from sharding_graphs import two_in_three_out
from waiting import until

from pytest_browserpool.errors import BrowserCrashed
from pytest_browserpool.fixtures import Model, ShardedModel, _model
from pytest_browserpool.values import ModelNeeds

X = {"x": np.ones((4, 4), np.float32)}


def load(bench: Bench, *browsers: str, recovery: str = "none") -> Model:
    needs = ModelNeeds(browsers=tuple(f"={b}" for b in browsers), backends=("wasm",), recovery=recovery)
    return Model(bench.node, bench.node.load(needs, make.affine(5.0), None))


def crashes(bench: Bench, model: Model) -> None:
    """A call whose browser is killed before it; ``recovery="none"`` lets the fault through."""
    assert send(bench, model.browser.name, "", signal.SIGKILL)
    with pytest.raises(BrowserCrashed):
        model(X)


def test_five_crashes_open_the_breaker_and_the_next_test_gets_the_other_browser(
    fresh_bench: Callable[..., Bench],
) -> None:
    bench = fresh_bench(max_browsers=2)
    for count in range(5):
        model = load(bench, "headless-shell", "chromium")
        assert model.browser.name == "headless-shell", f"after {count} crashes"
        crashes(bench, model)
        bench.node.end_test()
        bench.node.begin_test(f"after-{count}")
    after = load(bench, "headless-shell", "chromium")
    assert after.browser.name == "chromium"
    assert after(X)["y"].item(0) == 6
    alone = load(bench, "headless-shell")  # the last candidate is never blocked
    assert (alone.browser.name, alone(X)["y"].item(0)) == ("headless-shell", 6)
    changes = [c for m in bench.told if m["kind"] == "journal" for c in m["entry"]["changes"]]
    assert [(key, row["status"]) for table, key, row in changes if table == "circuits"] == [
        ("headless-shell", "open")
    ]


def half_open(bench: Bench, browser: str) -> None:
    """Its breaker, as it is thirty seconds after five faults."""
    breaker, now = bench.node.recovery.breakers.of(browser), time.monotonic()
    for _ in range(breaker.settings.failures_to_open):
        breaker.met(now, now, ok=False)
    breaker.opened_at -= breaker.settings.open_seconds
    assert bench.node.recovery.circuits()[browser] == "half_open"


def test_a_half_open_browser_is_tried_by_one_model_at_a_time(fresh_bench: Callable[..., Bench]) -> None:
    bench = fresh_bench(max_browsers=2)
    both = ("headless-shell", "chromium")
    half_open(bench, "headless-shell")
    first, second = load(bench, *both), load(bench, *both)
    assert [first.browser.name, second.browser.name] == ["headless-shell", "chromium"]
    assert [first(X)["y"].item(0), second(X)["y"].item(0)] == [6, 6]
    first.reload()
    assert first.browser.name == "headless-shell", "its own trial does not send it away"
    bench.node.end_test()
    bench.node.begin_test("the next")
    third = load(bench, *both)
    assert third.browser.name == "headless-shell", "it left with its test, and one success is not three"
    crashes(bench, third)
    assert bench.node.recovery.circuits()["headless-shell"] == "open"
    bench.node.end_test()
    bench.node.begin_test("while it is open again")
    assert load(bench, *both).browser.name == "chromium"
    bench.node.end_test()
    bench.node.begin_test("thirty seconds later")
    half_open(bench, "headless-shell")
    fourth = load(bench, "headless-shell")
    assert [fourth(X)["y"].item(0) for _ in range(3)] == [6, 6, 6]
    # a warm call does not wait until the breaker has heard of it
    until(
        lambda: bench.node.recovery.circuits()["headless-shell"] == "closed",
        "three successes did not close it",
    )
    assert load(bench, *both).browser.name == "headless-shell", "closed, it is anybody's"


def sharded(bench: Bench) -> ShardedModel:
    shapes = {"a": (3, 16), "b": (3, 16)}
    needs = ModelNeeds(shards=2, backends=("wasm",), input_shapes=shapes)
    model = _model(bench.node, needs, two_in_three_out(), Path(__file__))
    assert isinstance(model, ShardedModel)
    return model


def test_shards_leave_a_browser_that_crashes_and_the_next_model_does_without_it(
    fresh_bench: Callable[..., Bench],
) -> None:
    bench = fresh_bench(max_browsers=3)
    breakers, now = bench.node.recovery.breakers, time.monotonic()
    inputs = {name: np.ones((3, 16), np.float32) for name in ("a", "b")}
    model = sharded(bench)
    hit, sound = (shard.browser.name for shard in model.shards)
    for name in (hit, sound):
        for _ in range(4):
            breakers.of(name).met(now, now, ok=False)
    undisturbed = model(inputs)
    assert not breakers.of(hit).failures, "a request that went well is a success of all its browsers"
    for _ in range(4):
        breakers.of(hit).met(now, now, ok=False)
    struck = next(iter(model._resident.lanes[0].sessions.values())).instance
    health = struck.health.score
    assert send(bench, hit, "", signal.SIGKILL)
    again = model(inputs)
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in undisturbed.items()
    }
    moved = model.shards[0].browser.name
    assert moved not in (hit, sound)
    assert bench.node.recovery.circuits() == {hit: "open", sound: "closed"}
    assert (health, struck.health.score) == (100.0, 0.0)
    (fault,) = bench.rows("faults")
    assert [(a["action"], a["browser"]) for a in json.loads(fault["attempts"])] == [("move shard", moved)]
    bench.node.end_test()
    bench.node.begin_test("the next")
    after = sharded(bench)
    assert {shard.browser.name for shard in after.shards} == {sound, moved}
    for _ in range(2):
        for name, array in after(inputs).items():
            np.testing.assert_allclose(array, undisturbed[name], rtol=1e-5, atol=1e-6)
    assert all(loaded.instance.health.vitals.operations for loaded in after._resident.everywhere)
