"""Faults that come twice, come back, or cannot be mended: what can be answered is, the rest fails once, with its history."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import onnx_models as make
import pytest
from bench_support import Bench
from chaos_support import PATIENCE, answered_once, busy, nothing_astray, send, spin, the_fault, turns, when

from pytest_browserpool.browsers.catalogue import discover
from pytest_browserpool.config import CustomBrowser, Settings
from pytest_browserpool.errors import Fault, LaunchFailed, OutOfMemory
from pytest_browserpool.fixtures import Model
from pytest_browserpool.values import ModelNeeds

ROUNDS = 100_000
full = pytest.mark.full


def actions(row: dict) -> list[tuple[str, str]]:
    return [(a["action"], a["outcome"]) for a in json.loads(row["attempts"])]


def sound(bench: Bench, kind: str) -> None:
    """The browser answers right after all that."""
    model = bench.load(make.affine(11.0), kind)
    assert model({"x": np.ones((4, 4), np.float32)})["y"].item(0) == 12


@pytest.mark.parametrize(
    "kind", ["chromium", *(pytest.param(b, marks=full) for b in ("firefox", "headless-shell"))]
)
def test_a_page_that_refuses_sessions_is_replaced(bench, kind, ledger, request):
    """In the native WebGPU build a create that throws early leaves "another … session is being created" for ever."""
    native = {"session_options": {"bundle": "native"}}
    model = bench.load(make.affine(), kind, "webgpu", **native)
    model({"x": np.zeros((4, 4), np.float32)})
    content = list(make.affine(3.0))
    said = bench.evaluate(
        model,
        f"""window.browserpool.models.ort.InferenceSession.create(new Uint8Array({content}), {{executionProviders: ["webgpu"],
            externalData: [{{path: "external.bin", data: "/no/such/file"}}]}}).then(() => "made", String)""",
    )
    assert "failed to load external data" in said
    started = time.monotonic()
    after = bench.load(make.affine(12.0, salt=float(time.time())), kind, "webgpu", **native)
    seconds = time.monotonic() - started
    assert after.recoveries == 1
    fault = the_fault(bench, request.node.nodeid)
    assert (fault["kind"], fault["outcome"]) == ("session_refused", "recovered")
    assert model({"x": np.zeros((4, 4), np.float32)})["y"].item(0) == 1
    ledger.add("session creation refused", kind, fault["outcome"], seconds)


@pytest.mark.parametrize(
    "kind", ["chromium", *(pytest.param(b, marks=full) for b in ("firefox", "headless-shell"))]
)
def test_a_model_that_needs_more_memory_than_a_page_has_fails_with_its_history(bench, kind, ledger, request):
    # with what the page has in it already the first is more than 4 GiB: no attempt fills what it cannot use
    sizes = {"first": np.array([(1 << 30) - (1 << 22)], np.int64), "second": np.array([1 << 26], np.int64)}
    model = bench.load(make.huge(), kind)
    started = time.monotonic()
    with pytest.raises(OutOfMemory, match="tried, until"):
        model(sizes)
    ledger.add("out of memory in the page, for good", kind, "failed", time.monotonic() - started)
    fault = the_fault(bench, request.node.nodeid)
    assert (fault["kind"], fault["outcome"]) == ("out_of_memory", "failed")
    small = np.array([3], np.int64)
    answer = model({"first": small, "second": small})
    assert [answer["y_first"].shape, answer["y_second"].shape] == [(3,), (3,)]
    sound(bench, kind)
    nothing_astray(bench)


FULL_OF_BUFFERS = """window.kept = [];
    for (let size = 2 ** 30; size >= 2 ** 24; size /= 2)
        try { while (kept.length < 4096) kept.push(new ArrayBuffer(size)); } catch (error) { window.refused = String(error); }
    window.refused"""
"""Until the page gets no 16 MiB any more; what nobody writes to takes no memory of the machine."""


@full
@pytest.mark.parametrize("kind", ["chromium", "headless-shell"])
def test_a_page_that_is_full_gives_way_to_one_with_room(bench, kind, ledger, request):
    """The answer has no room in a page whose buffers are all taken: a new page has it."""
    sizes = {"first": np.array([1 << 24], np.int64), "second": np.array([1], np.int64)}  # 64 MiB of float32
    model = bench.load(make.huge(), kind)
    undisturbed = model(sizes)["y_first"]
    page = bench.page_of(model)
    assert "allocation failed" in bench.evaluate(model, FULL_OF_BUFFERS)
    started = time.monotonic()
    answer = model(sizes)["y_first"]
    seconds = time.monotonic() - started
    assert answer.tobytes() == undisturbed.tobytes()
    assert bench.page_of(model) is not page
    fault = the_fault(bench, request.node.nodeid)
    assert (fault["kind"], fault["outcome"]) == ("out_of_memory", "recovered")
    answered_once(bench, model, request.node.nodeid, 2)
    ledger.add("out of memory in a page that is full", kind, fault["outcome"], seconds)


@pytest.mark.parametrize(
    "kinds", [("chromium", "firefox"), pytest.param(("firefox", "headless-shell"), marks=full)]
)
def test_two_browsers_killed_at_once(bench, kinds, ledger, request):
    """Two tests' worth of models in two browsers, one moment: each gets its own answer."""
    models = {kind: bench.load(spin(), kind) for kind in kinds}
    undisturbed = {kind: models[kind](turns(ROUNDS))["y"].tobytes() for kind in kinds}
    assert len(set(undisturbed.values())) == 1, "wasm gives the same bits in all browsers"
    answers: dict[str, bytes] = {}

    def call(kind: str) -> None:
        answers[kind] = models[kind](turns(ROUNDS))["y"].tobytes()

    threads = [threading.Thread(target=call, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    killed = time.monotonic()
    for kind in kinds:
        send(bench, kind, "main", signal.SIGKILL)
    for thread in threads:
        thread.join(PATIENCE)
    seconds = time.monotonic() - killed
    assert answers == undisturbed
    faults = [r for r in bench.rows("faults") if r["nodeid"] == request.node.nodeid]
    assert sorted((f["browser"], f["kind"], f["outcome"]) for f in faults) == [
        (kind, "browser_crashed", "recovered") for kind in kinds
    ]
    nothing_astray(bench)
    for kind in kinds:
        ledger.add("two browsers SIGKILLed at once", kind, "recovered", seconds)


@pytest.mark.parametrize(
    "kind", ["chromium", pytest.param("firefox", marks=full), pytest.param("headless-shell", marks=full)]
)
def test_the_successor_is_killed_too(bench, kind, ledger, request):
    """A fault during recovery: the browser that was launched instead dies before it has answered."""
    model = bench.load(spin(), kind)
    undisturbed = model(turns(ROUNDS))["y"]
    first = model._resident.loaded.instance

    def successor() -> bool:
        return any(i.name == kind and i is not first and i.pages for i in list(bench.node.pool.instances))

    def kill() -> None:
        send(bench, kind, "main", signal.SIGKILL)

    with when(lambda: busy(bench), kill, after=0.3) as done, when(successor, kill) as again:
        answer = model(turns(ROUNDS))["y"]
        ended = time.monotonic()
    assert done
    assert again
    assert answer.tobytes() == undisturbed.tobytes()
    fault = the_fault(bench, request.node.nodeid)
    assert (fault["kind"], fault["outcome"]) == ("browser_crashed", "recovered")
    assert actions(fault)[:2] == [("begin", "browser_crashed"), ("restart_browser", "browser_crashed")]
    assert model.recoveries == 1
    answered_once(bench, model, request.node.nodeid, 2)
    nothing_astray(bench)
    ledger.add("browser SIGKILL, and its successor's", kind, fault["outcome"], ended - done[0])


def test_a_model_that_kills_every_browser_fails_once_and_leaves_them_usable(bench, browsers, ledger, request):
    """Whatever browser runs it is killed: no seat helps, and the next model finds all of them sound."""
    needs = ModelNeeds(browsers=tuple(f"={b}" for b in browsers), backends=("wasm",))
    model = Model(bench.node, bench.node.load(needs, spin(), None))
    stop = threading.Event()

    def murder() -> None:
        while not stop.wait(0.05):
            for instance in list(bench.node.pool.instances):
                held = any(s.key.sha256 == model.sha256 for s in instance.sessions())
                if held and any(p._queue.locked() or p._ahead for p in list(instance.pages.values())):
                    with contextlib.suppress(ProcessLookupError):
                        send(bench, instance.name, "main", signal.SIGKILL)

    murderer = threading.Thread(target=murder)
    murderer.start()
    started = time.monotonic()
    try:
        with pytest.raises(Fault, match="tried, until") as raised:
            model(turns(5_000_000))
    finally:
        stop.set()
        murderer.join()
    for kind in browsers:
        ledger.add("a model that crashes every browser", kind, "failed", time.monotonic() - started)
    fault = the_fault(bench, request.node.nodeid)
    assert (fault["kind"], fault["outcome"]) == ("browser_crashed", "failed")
    assert {a["browser"] for a in json.loads(fault["attempts"])} == set(browsers)
    assert all(name in str(raised.value) for name in browsers)
    runs = [
        r for r in bench.rows("operations_log") if r["nodeid"] == request.node.nodeid and r["kind"] == "run"
    ]
    assert [r["ok"] for r in runs] == [False]
    for kind in browsers:
        sound(bench, kind)
    nothing_astray(bench)


@pytest.mark.parametrize(
    "kind", ["chromium", *(pytest.param(b, marks=full) for b in ("firefox", "headless-shell"))]
)
def test_a_browser_that_never_starts_again_is_left_for_another(fresh_bench, kind, tmp_path, ledger):
    """A program that waits for ever instead of becoming a browser: the launch has a deadline, and nothing of it stays."""
    (known,) = (b for b in discover(Settings(rootdir=".", db="")).installed if b.name == kind)
    script, spoilt = tmp_path / "moody", tmp_path / "spoilt"
    script.write_text(f'#!/bin/sh\n[ -e {spoilt} ] && exec sleep 3600\nexec {known.executable} "$@"\n')
    script.chmod(0o755)
    moody = CustomBrowser(name="moody", family=known.family, executable=str(script))
    other = "chromium" if kind == "headless-shell" else "headless-shell"
    bench = fresh_bench(custom=(moody,), launch_timeout=12.0)
    needs = ModelNeeds(browsers=("=moody", f"={other}"), backends=("wasm",))
    model = Model(bench.node, bench.node.load(needs, spin(), None))
    assert model.browser.name == "moody"
    undisturbed = model(turns(5))["y"]
    spoilt.touch()
    started = time.monotonic()
    assert send(bench, "moody", "", signal.SIGKILL)
    time.sleep(0.3)
    assert model(turns(5))["y"].tobytes() == undisturbed.tobytes()
    seconds = time.monotonic() - started
    assert model.browser.name == other
    (fault,) = bench.rows("faults")
    assert ("restart_browser", "launch_failed") in actions(fault)
    assert actions(fault)[-1] == ("migrate", "ok")
    nothing_astray(bench)
    ledger.add("a browser that never starts (12 s allowed)", kind, fault["outcome"], seconds)


@pytest.mark.parametrize(
    "kind", ["headless-shell", *(pytest.param(b, marks=full) for b in ("chromium", "firefox"))]
)
def test_no_file_descriptors_left(fresh_bench, kind, ledger):
    """The test's process can open nothing any more: the fault is told in time, and all is well once there is room."""
    bench = fresh_bench()
    model = bench.load(spin(), kind)
    undisturbed = model(turns(5))["y"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(p.name) for p in Path("/proc/self/fd").iterdir())
    assert send(bench, kind, "", signal.SIGKILL)
    time.sleep(0.5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    holes = []
    try:
        with contextlib.suppress(OSError):
            while True:
                holes.append(open("/dev/null"))  # noqa: SIM115 - the descriptors below the limit that are free
        started = time.monotonic()
        with pytest.raises(Fault) as raised:
            model(turns(5))
        seconds = time.monotonic() - started
    finally:
        for hole in holes:
            hole.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(raised.value, LaunchFailed)
    ledger.add("file descriptors exhausted", kind, "failed", seconds)
    assert model(turns(5))["y"].tobytes() == undisturbed.tobytes()
    assert bench.rows("faults")[0]["outcome"] == "failed"
    sound(bench, kind)
    nothing_astray(bench)
