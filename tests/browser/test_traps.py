"""What breaks onnxruntime-web in pages that live long, each trap sprung for real, and what the pool does about it."""

from __future__ import annotations

import time

import numpy as np
import onnx_models as make
import pytest
from onnx import TensorProto as T
from waiting import until

from pytest_browserpool.browsers import pool as pool_module
from pytest_browserpool.errors import DeviceLost, Fault, PageHung, RunFailed, SessionRefused
from pytest_browserpool.node.lease import leased

X = {"x": np.zeros((4, 4), np.float32)}


def sound(bench, kind, backend="wasm"):
    """The browser answers right after all that."""
    model = bench.load(make.affine(7.0), kind, backend)
    assert model({"x": np.ones((4, 4), np.float32)})["y"].item(0) == 8
    return model


def test_the_second_test_of_a_model_neither_launches_nor_loads(bench, kind):
    bench.load(make.affine(), kind)(X)
    pool = bench.node.pool
    launches, loads = pool.launches, pool.loads
    bench.node.end_test()
    bench.node.begin_test("second")
    model = bench.load(make.affine(), kind)
    model(X)
    assert model.warm
    assert model.load_time_ms == 0
    assert (pool.launches, pool.loads) == (launches, loads)


@pytest.mark.parametrize("kind", ["chromium"])  # a call that is not the first, in all: test_warm_calls.py
def test_an_endless_loop_fails_its_own_test_in_time_and_the_next_runs(bench, kind):
    model = bench.load(make.endless(), kind, timeout=3.0)
    started = time.monotonic()
    with pytest.raises(PageHung, match=r"within 3 s"):
        model({"x": np.ones(1, np.float32)})
    assert time.monotonic() - started < 3 + 12  # the page's end, its browser asked, perhaps replaced
    sound(bench, kind)


def test_two_calls_never_overlap_in_a_page(bench, kind):
    """Two threads run WebGPU sessions of one page at once: overlapping, onnxruntime-web fails for good."""
    import threading

    first = bench.load(make.affine(2.0), kind, "webgpu")
    second = bench.load(make.affine(3.0), kind, "webgpu")
    assert bench.page_of(first) is bench.page_of(second)
    wrong: list[object] = []

    def hammer(model, scale):
        for i in range(20):
            y = model({"x": np.full((4, 4), i, np.float32)})["y"]
            if not np.allclose(y, scale * i + 1):
                wrong.append((scale, i, y))

    threads = [threading.Thread(target=hammer, args=a) for a in ((first, 2.0), (second, 3.0), (first, 2.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(t.is_alive() for t in threads)
    assert not wrong


def test_a_poisoned_page_is_replaced(bench, tmp_path):
    """In the native WebGPU build a create that throws early leaves "another … session is being created" for ever."""
    native = {"session_options": {"bundle": "native"}}
    model = bench.load(make.affine(), "chromium", "webgpu", **native)
    assert model(X)["y"].item(0) == 1
    assert model.placement == {"webgpu": 2}
    page = bench.page_of(model)
    content = list(make.with_external_data(tmp_path).read_bytes())
    said = bench.evaluate(
        model,
        f"""window.browserpool.models.ort.InferenceSession.create(new Uint8Array({content}), {{executionProviders: ["webgpu"],
            externalData: [{{path: "external.bin", data: "/no/such/file"}}]}}).then(() => "made", String)""",
    )
    assert "failed to load external data" in said
    with pytest.raises(SessionRefused, match="another WebGPU EP"):
        page_create(bench, page)
    after = bench.load(make.affine(12.0), "chromium", "webgpu", **native)
    assert after({"x": np.ones((4, 4), np.float32)})["y"].item(0) == 13
    assert bench.page_of(after) is not page


def page_create(bench, page):
    """Another create in that very page, past the pool."""
    from pytest_browserpool.browsers.page import ANCHOR, SessionKey

    return bench.node.call(
        lambda: page.create(SessionKey("f" * 64, "webgpu"), ANCHOR, (), label="second", timeout=20), 30
    )


@pytest.mark.parametrize("kind", ["chromium", "headless-shell"])
def test_a_lost_device_is_never_retried_in_its_page(bench, kind):
    model = bench.load(make.affine(), kind, "webgpu")
    model(X)
    page = bench.page_of(model)
    bench.evaluate(model, "window.browserpool.models.watched.destroy()")
    time.sleep(0.3)
    assert isinstance(page.lost, DeviceLost)
    assert model({"x": np.ones((4, 4), np.float32)})["y"].item(0) == 3
    assert bench.page_of(model) is not page
    assert model.recoveries == 1
    fault = faults(bench)[-1]
    assert (fault["kind"], fault["outcome"]) == ("device_lost", "recovered")


def faults(bench):
    bench.node.report.flush()
    return [m["row"] for m in bench.told if m["kind"] == "record" and m["table"] == "faults"]


def kill(bench, model, role):
    """SIGKILLs the browser's processes of that role ("" for all of them)."""
    processes = model._resident.loaded.instance.process.process_tree()
    victims = [p for p in processes if role in " ".join(p.cmdline())]
    assert victims
    for process in victims:
        process.kill()


def test_a_killed_gpu_process_is_a_lost_device(bench):
    model = bench.load(make.affine(), "chromium", "webgpu")
    model(X)
    kill(bench, model, "--type=gpu-process")
    time.sleep(0.5)
    assert model(X)["y"].item(0) == 1
    assert faults(bench)[-1]["kind"] == "device_lost"
    assert model.recoveries == 1


def test_without_recovery_the_fault_is_the_test_s(bench):
    model = bench.load(make.affine(), "chromium", recovery="none")
    kill(bench, model, "")
    with pytest.raises(Fault):
        model(X)
    assert model.recoveries == 0
    sound(bench, "chromium")


def test_a_page_whose_connection_is_cut_dials_again_and_is_still_warm(bench, kind):
    model = bench.load(make.affine(), kind)
    model(X)
    before, loads, known = bench.page_of(model), bench.node.pool.loads, len(faults(bench))
    for _ in range(3):
        first = before.channel._socket
        bench.cut(model)
        until(lambda was=first: before.channel._socket is not was, "the page did not dial again")
        assert model(X)["y"].item(0) == 1
    assert bench.page_of(model) is before
    assert bench.node.pool.loads == loads
    assert len(faults(bench)) == known, "nothing was under way, so nothing failed"


def test_an_anchor_keeps_compiled_pipelines_alive(fresh_bench):
    """Without a session kept open, releasing the last one would throw the compiled shaders away."""
    bench = fresh_bench()
    model = bench.load(make.affine(), "chromium", "webgpu")
    model(X)
    page = bench.page_of(model)
    first = model.timings[0]
    names = bench.evaluate(model, "[...window.browserpool.models.sessions.keys()].join()")
    assert "anchor" in names
    bench.node.call(lambda: bench.node.pool.release(model._resident.loaded), 20)
    again = bench.load(make.affine(), "chromium", "webgpu")
    again(X)
    assert bench.page_of(again) is page
    assert not again.warm
    print(f"first run {first:.0f} ms, first run of the session made again {again.timings[0]:.0f} ms")


def test_a_released_session_is_gone_from_the_page(bench):
    model = bench.load(make.affine(13.0), "chromium")
    name = model._resident.loaded.session.name
    assert bench.evaluate(model, f"window.browserpool.models.sessions.has({name!r})")
    bench.node.call(lambda: bench.node.pool.release(model._resident.loaded), 20)
    assert not bench.evaluate(model, f"window.browserpool.models.sessions.has({name!r})")


def test_a_page_is_recycled_by_count(fresh_bench):
    bench = fresh_bench(page_max_loads=3)
    pages = set()
    for salt in range(8):
        bench.node.begin_test(f"load {salt}")
        model = bench.load(make.affine(salt=float(salt)), "chromium")
        assert model(X)["y"].item(0) == salt
        pages.add(id(bench.page_of(model).channel))
        bench.node.end_test()
        bench.node.call(bench.node.pool.settle, 20)
    assert bench.node.pool.launches == 1
    assert len(pages) == 3  # 3 + 3 + 2 loads


@pytest.mark.parametrize(("kind", "launches"), [("firefox", 2), ("chromium", 1)])
def test_a_firefox_is_recycled_by_windows(fresh_bench, kind, launches):
    bench = fresh_bench(firefox_max_windows=4)
    for number in range(5):  # one more is the model's own page, in Firefox
        bench.node.begin_test(f"lease {number}")
        model = bench.load(make.affine(salt=7.0), kind)
        with leased(bench.node, browsers=[f"={kind}"]) as page:
            page.set_content(f"<p>{number}</p>")
            assert page.text_content("p") == str(number)
            assert model(X)["y"].item(0) == 7.0, "the browser stays while a page of it is leased"
        bench.node.end_test()
        bench.node.call(bench.node.pool.settle, 20)
    assert bench.node.pool.launches == launches
    reasons = [row["close_reason"] for row in bench.rows("browsers") if row["close_reason"]]
    assert reasons == ["opened 4 windows"] * (launches - 1)


def test_a_browser_is_recycled_by_memory(fresh_bench):
    bench = fresh_bench(page_max_memory_gib=0.001)
    bench.load(make.affine(), "chromium")(X)
    bench.node.end_test()
    bench.node.call(bench.node.pool.settle, 20)
    assert bench.node.pool.evictions == 1
    assert not bench.node.pool.instances
    bench.node.begin_test("after")
    sound(bench, "chromium")


def test_a_browser_that_took_too_much_while_a_test_had_it_is_the_last_for_that_test(fresh_bench):
    bench = fresh_bench(page_max_memory_gib=0.001)
    model = bench.load(make.affine(salt=3.0), "chromium")
    (first,) = bench.node.pool.instances
    for _ in range(2):
        bench.node.call(bench.node.pool.settle, 20)
        assert bench.node.pool.evictions == 1, "counted once, when it was seen"
    assert model(X)["y"].item(0) == 3
    assert bench.node.pool.launches == 1
    bench.node.end_test()
    bench.node.begin_test("the next")
    sound(bench, "chromium")
    assert bench.node.pool.launches == 2
    assert len(bench.node.pool.instances) == 1
    assert not first.process.connected


def test_the_least_recently_used_browser_makes_room(fresh_bench):
    bench = fresh_bench(max_browsers=1)
    bench.load(make.affine(), "chromium")(X)
    bench.node.end_test()
    bench.node.begin_test("other")
    bench.load(make.affine(), "headless-shell")(X)
    assert [i.name for i in bench.node.pool.instances] == ["headless-shell"]
    closed = [
        m["row"]
        for m in bench.told
        if m["kind"] == "record" and m["table"] == "browsers" and m["row"]["closed_at"]
    ]
    bench.node.report.flush()
    closed = [
        m["row"]
        for m in bench.told
        if m["kind"] == "record" and m["table"] == "browsers" and m["row"]["closed_at"]
    ]
    assert [(r["name"], r["close_reason"]) for r in closed] == [("chromium", "least recently used")]


def test_the_sessions_of_a_page_are_bounded(fresh_bench, monkeypatch):
    monkeypatch.setattr(pool_module, "SESSIONS_PER_PAGE", 2)
    bench = fresh_bench()
    for salt in range(4):
        bench.node.begin_test(f"load {salt}")
        bench.load(make.affine(salt=float(salt)), "chromium")(X)
        bench.node.end_test()
    instance = bench.node.pool.instances[0]
    assert len(instance.sessions()) == 2
    assert {s.key.backend for s in instance.sessions()} == {"wasm"}


def test_the_bytes_of_a_page_are_bounded_and_what_a_test_holds_stays(fresh_bench, monkeypatch):
    """WebAssembly addresses four GiB; what other tests left there must not cost a sound one its memory."""
    bench = fresh_bench()
    models = [make.affine(salt=float(salt)) for salt in range(6)]
    monkeypatch.setattr(pool_module, "PAGE_BYTES", 4 * len(models[0]))
    for data in models[:4]:
        bench.node.begin_test("earlier")
        bench.load(data, "chromium")(X)
        bench.node.end_test()
    instance = bench.node.pool.instances[0]
    assert (len(instance.sessions()), bench.node.pool.evictions) == (3, 1)
    bench.node.begin_test("holds")
    kept = [bench.load(data, "chromium") for data in models]
    loads = bench.node.pool.loads
    assert [model(X)["y"].item(0) for model in kept] == [float(salt) for salt in range(6)]
    assert bench.node.pool.loads == loads, "a model that this test holds was taken away"


def test_the_memory_of_the_node_is_kept_by_letting_the_oldest_browser_go(fresh_bench):
    bench = fresh_bench()
    for kind in ("headless-shell", "chromium"):
        bench.load(make.affine(), kind)(X)
    bench.node.end_test()
    bench.node.pool._memory_limit = 1  # bytes: as if the machine were full
    bench.node.call(bench.node.pool.settle, 30)
    assert [i.name for i in bench.node.pool.instances] == ["chromium"]


def test_a_browser_that_a_test_holds_is_not_taken_away(fresh_bench):
    from pytest_browserpool.errors import CapabilityError

    bench = fresh_bench(max_browsers=1)
    held = bench.load(make.affine(), "chromium")
    with pytest.raises(CapabilityError, match="--browserpool-max-browsers=2"):
        bench.load(make.affine(), "headless-shell", recovery="none")
    assert held(X)["y"].item(0) == 1


@pytest.mark.parametrize("kind", ["headless-shell"])
def test_pages_that_were_shown_leave_nothing_open(bench, kind):
    """The headless shell's GPU process kept a shared memory segment of each page that ANGLE's SwiftShader had drawn."""

    def shown(number):
        with leased(bench.node, browsers=[kind]) as page:
            page.set_content(f"<p>{number}</p>")
            assert page.text_content("p") == str(number)

    for number in range(5):  # what the first pages leave behind stays for all
        shown(number)
    before = handles(bench, kind)
    for number in range(30):
        shown(number)
    deadline = time.monotonic() + 5  # closing goes on after the page is gone
    while handles(bench, kind) > before + 10 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert handles(bench, kind) <= before + 10


def handles(bench, kind):
    """Open files of all processes of that browser."""
    instance = next(i for i in bench.node.pool.instances if i.name == kind)
    return sum(p.num_fds() for p in instance.process.process_tree() if p.is_running())


def test_what_the_gpu_refuses_is_no_answer(bench, kind):
    """Without shader-f16 a float16 shader does not compile; its output stays zero, and onnxruntime calls that an answer."""
    ones = np.ones((4, 4), np.float32)
    good = bench.load(make.affine(3.0), kind, "webgpu")
    assert good({"x": ones})["y"].item(0) == 4.0
    features = "navigator.gpu.requestAdapter().then((a) => a.features.has('shader-f16'))"
    half = bench.load(make.doubled(T.FLOAT16), kind, "webgpu")
    fives = {"x": np.full(4, 5, np.float16)}
    if bench.evaluate(good, features):
        assert half(fives)["y"].tolist() == [10] * 4
        return
    for _ in range(2):  # not only when the shader is compiled
        with pytest.raises(RunFailed, match="uncaptured GPUValidationError") as caught:
            half(fives)
        assert "shader-f16" in (caught.value.remedy or "")
    with pytest.raises(RunFailed, match="uncaptured GPUValidationError"):
        half.benchmark(fives, 2)
    assert good({"x": ones})["y"].item(0) == 4.0, "another model in that page is none the worse"
    assert bench.page_of(good).lost is None
