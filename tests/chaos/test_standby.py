"""Failover to a browser that holds the model already, and the fallback to the CPU."""

from __future__ import annotations

import json
import signal
import threading
import time

import numpy as np
import pytest
from bench_support import Bench
from chaos_support import PATIENCE, busy, layers, nothing_astray, send, spin, turns

from pytest_browserpool.errors import ConfigurationError
from pytest_browserpool.fixtures import Model
from pytest_browserpool.values import ModelNeeds

full = pytest.mark.full


def standby_of(bench: Bench, model: Model):
    """The model's standby, once it is loaded."""
    standby = model._resident.standby
    assert bench.node.call(lambda: standby.ready(PATIENCE), PATIENCE), standby.reason
    return standby


def actions(row: dict) -> list[str]:
    return [a["action"] for a in json.loads(row["attempts"])]


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("firefox", "chromium"),
        pytest.param("chromium", "firefox", marks=full),
        pytest.param("headless-shell", "firefox", marks=full),
    ],
)
def test_the_standby_is_another_browser_and_takes_over_without_a_load(fresh_bench, kind, other, ledger):
    bench = fresh_bench(redundancy=2, recovery="immediate")
    needs = ModelNeeds(browsers=(f"={kind}", f"={other}"), backends=("wasm",))
    model = Model(bench.node, bench.node.load(needs, spin(), None))
    undisturbed = model(turns(5))["y"]
    first = model.browser.name
    assert first == kind
    standby = standby_of(bench, model)
    assert standby.loaded.instance.name != first
    session, loaded_ms = standby.loaded.session, model.load_time_ms
    killed = time.monotonic()
    assert send(bench, first, "", signal.SIGKILL)
    time.sleep(0.3)
    started = time.monotonic()
    answer = model(turns(5))["y"]
    ended = time.monotonic()
    assert answer.tobytes() == undisturbed.tobytes()
    assert model._resident.loaded.session is session
    assert model.load_time_ms == loaded_ms
    assert model.browser.name != first
    (fault,) = bench.rows("faults")
    assert (fault["kind"], fault["outcome"], fault["strategy"]) == (
        "browser_crashed",
        "recovered",
        "immediate",
    )
    assert actions(fault) == ["begin", "use_standby"]
    assert killed < started
    ledger.add("browser SIGKILL, hot standby elsewhere", first, fault["outcome"], ended - started)
    # the next one is made beside the test, and serves as well
    again = standby_of(bench, model)
    assert again.loaded.session is not session
    assert send(bench, model.browser.name, "", signal.SIGKILL)
    assert model(turns(5))["y"].tobytes() == undisturbed.tobytes()
    assert [actions(row) for row in bench.rows("faults")] == [["begin", "use_standby"]] * 2
    bench.node.end_test()
    assert [i.leases for i in bench.node.pool.instances] == [0] * len(bench.node.pool.instances)
    nothing_astray(bench)


@pytest.mark.parametrize(
    "kind", ["chromium", *(pytest.param(b, marks=full) for b in ("firefox", "headless-shell"))]
)
def test_where_one_browser_is_allowed_the_standby_is_a_second_of_it(fresh_bench, kind, ledger):
    bench = fresh_bench(redundancy=2, recovery="immediate")
    model = bench.load(spin(), kind)
    undisturbed = model(turns(5))["y"]
    standby = standby_of(bench, model)
    assert standby.loaded.instance is not model._resident.loaded.instance
    main = model._resident.loaded.instance
    started = time.monotonic()
    for process in main.process.process_tree():
        process.kill()
    answer = model(turns(5))["y"]
    ended = time.monotonic()
    assert answer.tobytes() == undisturbed.tobytes()
    (fault,) = bench.rows("faults")
    assert actions(fault) == ["begin", "use_standby"]
    ledger.add("browser SIGKILL, hot standby of the same name", kind, fault["outcome"], ended - started)


def test_a_standby_that_died_is_passed_over(fresh_bench):
    bench = fresh_bench(redundancy=2, recovery="immediate")
    needs = ModelNeeds(browsers=("=headless-shell", "=chromium"), backends=("wasm",))
    model = Model(bench.node, bench.node.load(needs, spin(), None))
    undisturbed = model(turns(5))["y"]
    standby_of(bench, model)
    for kind in ("chromium", "headless-shell"):
        assert send(bench, kind, "", signal.SIGKILL)
    assert model(turns(5))["y"].tobytes() == undisturbed.tobytes()
    (fault,) = bench.rows("faults")
    assert fault["outcome"] == "recovered"
    nothing_astray(bench)


def test_a_standby_that_has_no_room_is_refused_before_anything_starts(fresh_bench):
    with pytest.raises(ConfigurationError, match=r"max_browsers is 1[\s\S]*--browserpool-max-browsers=2"):
        fresh_bench(redundancy=2, max_browsers=1)


@pytest.mark.parametrize("kind", ["chromium", pytest.param("headless-shell", marks=full)])
def test_the_cpu_is_the_last_resort_and_leaves_its_mark(fresh_bench, kind, ledger):
    """The GPU process is killed whenever a page uses it: WebGPU cannot be had there any more."""
    import onnxruntime

    bench = fresh_bench()
    source = layers(120)
    x = {"x": np.random.default_rng(5).standard_normal((256, 256)).astype(np.float32)}
    model = bench.load(source, kind, "webgpu", fallback="cpu")
    assert not model.degraded
    stop = threading.Event()

    def murder() -> None:
        while not stop.wait(0.01):
            held = [s for i in list(bench.node.pool.instances) for s in i.sessions()]
            if busy(bench) and any(s.key.backend == "webgpu" and s.label == model.label for s in held):
                send(bench, kind, "gpu", signal.SIGKILL)
                stop.wait(1)

    murderer = threading.Thread(target=murder)
    murderer.start()
    started = time.monotonic()
    try:
        answer = model(x)["y"]
        ended = time.monotonic()
    finally:
        stop.set()
        murderer.join()
    native = onnxruntime.InferenceSession(source).run(None, x)[0]
    np.testing.assert_allclose(answer, native, rtol=1e-4, atol=1e-4)
    assert (model.degraded, model.backend) == (True, "wasm")
    (fault,) = bench.rows("faults")
    assert fault["outcome"] == "degraded"
    assert actions(fault)[-1] == "run_on_cpu"
    runs = [r for r in bench.rows("operations_log") if r["kind"] == "run"]
    assert [(r["backend"], r["degraded"]) for r in runs] == [("wasm", True)]
    assert bench.node.end_test().degraded
    assert not bench.events("RunObserved") + bench.events("LoadObserved"), (
        "the scheduler learns nothing from it"
    )
    ledger.add("GPU process SIGKILL for good, fallback to the CPU", kind, "degraded", ended - started)
