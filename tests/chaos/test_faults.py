"""One fault, one operation: the answer is that of an undisturbed run, counted once, and nothing is left of what failed."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from bench_support import Bench
from chaos_support import (
    Ledger,
    X,
    answered_once,
    busy,
    dense,
    driver,
    layers,
    nothing_astray,
    send,
    spin,
    the_fault,
    turns,
    when,
)
from onnx_models import weights

from pytest_browserpool.fixtures import Model

ALL = ("chromium", "firefox", "headless-shell")
CHROMIUMS = ("chromium", "headless-shell")
ROUNDS = 100_000
"""Of ``spin``: two to five seconds, so that a fault comes in the middle on any machine."""

LAYERS = layers(60)
"""Long enough on a software GPU to be hit while it computes."""
TALL = {"x": np.random.default_rng(4).standard_normal((256, 256)).astype(np.float32)}

Inject = Callable[[Bench, Model, str], Any]


@dataclass(frozen=True)
class Injury:
    """A fault, how it is made, and what it must be called."""

    name: str
    inject: Inject
    kinds: tuple[str, ...]
    browsers: tuple[str, ...] = ALL
    short: tuple[str, ...] = ()
    """The browsers on which the short form has it, idle."""
    short_running: tuple[str, ...] = ()
    webgpu: bool = False
    needs: dict[str, Any] = field(default_factory=dict)
    idle: bool = True
    running: bool = False


def kill(role: str) -> Inject:
    def inject(bench: Bench, model: Model, kind: str) -> None:
        assert send(bench, kind, role, signal.SIGKILL)

    return inject


def stop(role: str) -> Inject:
    def inject(bench: Bench, model: Model, kind: str) -> None:
        assert send(bench, kind, role, signal.SIGSTOP)

    return inject


def script(text: str) -> Inject:
    def inject(bench: Bench, model: Model, kind: str) -> None:
        bench.evaluate(model, text)

    return inject


def kill_driver(bench: Bench, model: Model, kind: str) -> None:
    drivers = driver(bench)
    assert drivers
    for process in drivers:
        process.kill()


SOON = "void setTimeout(() => {{ {} }}, 50)"
HANGS = {"recovery": "progressive", "timeout": 10.0}
"""A hang is seen when the attempt's time is over; a test that wants more than that says so. Where a busy machine needs longer
for a load, that is one more fault of the same operation, and recovered from too."""

INJURIES = (
    Injury(
        "browser SIGKILL",
        kill(""),
        ("browser_crashed",),
        short=("headless-shell",),
        short_running=("chromium", "firefox"),
        running=True,
    ),
    Injury(
        "renderer or content process SIGKILL",
        kill("page"),
        ("page_crashed",),
        short=("chromium", "firefox"),
        short_running=("firefox",),
        running=True,
    ),
    Injury(
        "GPU process SIGKILL",
        kill("gpu"),
        ("device_lost",),
        CHROMIUMS,
        short=("headless-shell",),
        webgpu=True,
        running=True,
    ),
    Injury(
        "GPU process SIGSTOP", stop("gpu"), ("page_hung", "device_lost"), CHROMIUMS, webgpu=True, needs=HANGS
    ),
    Injury(
        "GPUDevice.destroy()",
        script(
            SOON.format("window.browserpool.models.watched.destroy()")
        ),  # not at once: the script's own session ends with the page
        ("device_lost",),
        ALL,
        short=("firefox",),
        webgpu=True,
        running=True,
    ),
    Injury(
        "endless loop in the page",
        script(SOON.format("for (;;) {}")),
        ("page_hung",),
        short=("chromium",),
        needs={**HANGS, "timeout": 6.0},
    ),
    Injury(
        "browser SIGSTOP",
        stop(""),
        ("page_hung", "browser_crashed"),
        short=("firefox",),
        needs=HANGS,
        running=True,
    ),
    Injury(
        "browser's main process SIGSTOP",
        stop("main"),
        ("page_hung", "browser_crashed", "connection_lost"),
        ("firefox",),  # Chromium's pages compute on; a new page is what it cannot open: a test of its own
        needs=HANGS,
    ),
    Injury(
        "Playwright driver SIGKILL",
        kill_driver,
        ("browser_crashed",),
        short=("firefox",),
        short_running=("chromium",),
        running=True,
    ),
)


def cases(moment: str) -> list[Any]:
    found = []
    for injury in INJURIES:
        for browser in injury.browsers:
            if getattr(injury, moment):
                short = injury.short if moment == "idle" else injury.short_running
                marks = [] if browser in short else [pytest.mark.full]
                found.append(pytest.param(injury, browser, id=f"{injury.name}-{browser}", marks=marks))
    return found


def same(answer: Any, undisturbed: Any, *, webgpu: bool) -> None:
    """Bit for bit on wasm; another GPU process of the same adapter may round otherwise."""
    if webgpu:
        np.testing.assert_allclose(answer, undisturbed, rtol=1e-5, atol=1e-6)
    else:
        assert answer.tobytes() == undisturbed.tobytes()


def check(bench: Bench, model: Model, injury: Injury, nodeid: str, calls: int) -> dict[str, Any]:
    fault = the_fault(bench, nodeid)
    assert fault["kind"] in injury.kinds
    assert fault["outcome"] == "recovered"
    assert fault["recovery_ms"] > 0
    assert '"begin"' in fault["attempts"]
    assert model.recoveries == 1
    answered_once(bench, model, nodeid, calls)
    nothing_astray(bench)
    return fault


@pytest.mark.parametrize(("injury", "kind"), cases("idle"))
def test_while_idle(
    bench: Bench, injury: Injury, kind: str, ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    """The fault hits a browser that waits; the next call finds it."""
    source, inputs = (dense(), {"x": X}) if injury.webgpu else (spin(), turns(5))
    model = bench.load(source, kind, "webgpu" if injury.webgpu else "wasm", **injury.needs)
    undisturbed = model(inputs)["y"]
    before, page = model._resident.loaded.instance, bench.page_of(model)
    started = time.monotonic()
    injury.inject(bench, model, kind)
    time.sleep(0.2)  # what is set for soon has happened by then; what is seen late is seen by the call
    answer = model(inputs)["y"]
    seconds = time.monotonic() - started
    same(answer, undisturbed, webgpu=injury.webgpu)
    if injury.name == "browser SIGKILL":
        assert model._resident.loaded.instance is not before
    if injury.kinds == ("page_crashed",):
        assert bench.page_of(model) is not page
        assert kind != "chromium" or seconds < 10, (
            "it is noticed at once, and not when the call's time is over"
        )
    fault = check(bench, model, injury, request.node.nodeid, 2)
    ledger.add(f"{injury.name}, idle", kind, fault["outcome"], seconds)


@pytest.mark.parametrize(("injury", "kind"), cases("running"))
def test_while_running(
    bench: Bench, injury: Injury, kind: str, ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    """The fault hits in the middle of an inference."""
    source, inputs, after = (LAYERS, TALL, 0.02) if injury.webgpu else (spin(), turns(ROUNDS), 0.5)
    model = bench.load(source, kind, "webgpu" if injury.webgpu else "wasm", **injury.needs)
    undisturbed = model(inputs)["y"]
    with when(lambda: busy(bench), lambda: injury.inject(bench, model, kind), after=after) as done:
        answer = model(inputs)["y"]
        ended = time.monotonic()
    assert done, "the run was over before the fault"
    same(answer, undisturbed, webgpu=injury.webgpu)
    fault = check(bench, model, injury, request.node.nodeid, 2)
    ledger.add(f"{injury.name}, running", kind, fault["outcome"], ended - done[0])


@pytest.mark.parametrize("kind", ["firefox", *(pytest.param(b, marks=pytest.mark.full) for b in CHROMIUMS)])
def test_while_loading(bench: Bench, kind: str, ledger: Ledger, request: pytest.FixtureRequest) -> None:
    """The browser is killed while it fetches a model and makes its session."""
    bench.load(spin(), kind)(turns(5))  # so that the page is there, and what is seen next is the load
    source = weights(64, salt=int(time.time()))
    x = {"x": np.random.default_rng(3).standard_normal((1, 256)).astype(np.float32)}
    with when(lambda: busy(bench), lambda: send(bench, kind, "", signal.SIGKILL)) as done:
        model = bench.load(source, kind)
        ended = time.monotonic()
    assert done
    fault = the_fault(bench, request.node.nodeid)
    assert (fault["kind"], fault["outcome"]) == ("browser_crashed", "recovered")
    loads = [r for r in bench.rows("operations_log") if r["kind"] == "load" and r["model"] == model.sha256]
    assert [r["ok"] for r in loads] == [True]
    answer = model(x)["y"]
    again = bench.load(source, kind)(x)["y"]
    assert answer.tobytes() == again.tobytes()
    import onnxruntime

    native = onnxruntime.InferenceSession(source).run(None, x)[0]
    np.testing.assert_allclose(answer, native, rtol=1e-4, atol=1e-4)
    nothing_astray(bench)
    ledger.add("browser SIGKILL, loading", kind, fault["outcome"], ended - done[0])


@pytest.mark.full
@pytest.mark.parametrize("kind", CHROMIUMS)
def test_a_stopped_main_process_of_chromium(
    bench: Bench, kind: str, ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    """Its pages compute on undisturbed; only what needs a new page meets the fault."""
    model = bench.load(spin(), kind)
    undisturbed = model(turns(5))["y"]
    assert send(bench, kind, "main", signal.SIGSTOP)
    assert model(turns(5))["y"].tobytes() == undisturbed.tobytes()
    assert model.recoveries == 0
    assert not bench.rows("faults")
    started = time.monotonic()
    native = bench.load(dense(), kind, "webgpu", recovery="progressive", session_options={"bundle": "native"})
    answer = native({"x": X})["y"]
    seconds = time.monotonic() - started
    fault = the_fault(bench, request.node.nodeid)
    assert fault["outcome"] == "recovered"
    import onnxruntime

    np.testing.assert_allclose(
        answer, onnxruntime.InferenceSession(dense()).run(None, {"x": X})[0], rtol=1e-3, atol=1e-4
    )
    nothing_astray(bench)
    ledger.add("browser's main process SIGSTOP, at a new page", kind, fault["outcome"], seconds)


@pytest.mark.parametrize("kind", ["firefox", *(pytest.param(b, marks=pytest.mark.full) for b in CHROMIUMS)])
def test_a_connection_that_is_cut_while_the_gpu_computes(
    bench: Bench, kind: str, ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    """The page's thread is free, so it dials again at once: the call is made again in the same warm session."""
    model = bench.load(LAYERS, kind, "webgpu")
    undisturbed = model(TALL)["y"]
    page = bench.page_of(model)
    with when(lambda: busy(bench), lambda: bench.cut(model), after=0.02) as done:
        answer = model(TALL)["y"]
        ended = time.monotonic()
    assert done, "the run was over before the fault"
    np.testing.assert_allclose(answer, undisturbed, rtol=1e-5, atol=1e-6)
    fault = the_fault(bench, request.node.nodeid)
    assert (fault["kind"], fault["outcome"]) == ("connection_lost", "recovered")
    assert [a["action"] for a in json.loads(fault["attempts"])] == ["begin", "retry"]
    assert bench.page_of(model) is page
    answered_once(bench, model, request.node.nodeid, 2)
    ledger.add("WebSocket cut, WebGPU running", kind, fault["outcome"], ended - done[0])


@pytest.mark.full
@pytest.mark.parametrize("kind", ALL)
def test_a_connection_that_is_cut_while_wasm_computes(
    bench: Bench, kind: str, ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    """The page's thread is busy for seconds: it is not waited for, and a new page answers."""
    model = bench.load(spin(), kind)
    undisturbed = model(turns(ROUNDS))["y"]
    with when(lambda: busy(bench), lambda: bench.cut(model), after=0.3) as done:
        answer = model(turns(ROUNDS))["y"]
        ended = time.monotonic()
    assert done, "the run was over before the fault"
    assert answer.tobytes() == undisturbed.tobytes()
    fault = the_fault(bench, request.node.nodeid)
    assert (fault["kind"], fault["outcome"]) == ("connection_lost", "recovered")
    ledger.add("WebSocket cut, wasm running", kind, fault["outcome"], ended - done[0])


@pytest.mark.full
@pytest.mark.parametrize("kind", ALL)
def test_two_faults_on_one_operation(
    bench: Bench, kind: str, ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    """The connection is cut and the page's process killed in the same moment: one fault, one recovery, one answer."""
    model = bench.load(spin(), kind)
    undisturbed = model(turns(ROUNDS))["y"]

    def both() -> None:
        bench.cut(model)
        assert send(bench, kind, "page", signal.SIGKILL)

    with when(lambda: busy(bench), both, after=0.3) as done:
        answer = model(turns(ROUNDS))["y"]
        ended = time.monotonic()
    assert done, "the run was over before the faults"
    assert answer.tobytes() == undisturbed.tobytes()
    fault = the_fault(bench, request.node.nodeid)
    assert (fault["kind"], fault["outcome"]) == ("page_crashed", "recovered"), "the death explains the cut"
    answered_once(bench, model, request.node.nodeid, 2)
    ledger.add("WebSocket cut and page SIGKILLed at once", kind, fault["outcome"], ended - done[0])
