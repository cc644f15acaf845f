"""How sessions come to be: one for each model however many ask, a hanging load ends at the marker's timeout."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import onnx_models as make
import pytest
from waiting import until

from pytest_browserpool.browsers.launch import BrowserProcess
from pytest_browserpool.browsers.page import SessionKey
from pytest_browserpool.browsers.pool import ModelContent
from pytest_browserpool.errors import PageHung
from pytest_browserpool.values import ModelNeeds


def test_two_who_ask_for_one_model_at_once_share_its_session(fresh_bench):
    """A prewarm and the test that it is for: the model is loaded once, and counted once."""
    bench = fresh_bench()
    content, _ = bench.node.resolve(make.affine(), None)
    pool = bench.node.pool
    key = SessionKey(content.sha256, "wasm")

    async def both():
        model = ModelContent(content.sha256, content.path, content.label, content.size)
        await pool.browser("chromium")
        return await asyncio.gather(*(pool.load("chromium", key, model, 60) for _ in range(3)))

    loaded = bench.node.call(both, 90)
    assert len({id(one.session) for one in loaded}) == 1
    assert sorted(one.warm for one in loaded) == [False, True, True]
    assert pool.loads == 1


def test_a_prewarmed_model_is_warm_for_its_test(fresh_bench, tmp_path):
    from pytest_browserpool.markers import ModelRequest

    (tmp_path / "m.onnx").write_bytes(make.affine())
    bench = fresh_bench()
    needs = ModelNeeds(browsers=("=headless-shell",), backends=("wasm",), source="m.onnx")
    request = ModelRequest(needs=needs, source="m.onnx", test_file=tmp_path / "test_m.py")
    bench.node.prewarm("headless-shell", "wasm", request)
    launches = bench.node.pool.launches
    resident = bench.node.load(needs, "m.onnx", tmp_path / "test_m.py")
    assert resident.use.warm
    assert bench.node.pool.launches == launches == 1


def test_a_model_is_called_as_its_own_test_wrote_it(fresh_bench, tmp_path):
    """Two tests may write one content in two ways; that of the first stayed with the second."""
    (tmp_path / "m.onnx").write_bytes(make.affine())
    node = fresh_bench().node

    def written():
        return tmp_path / "m.onnx"

    for source, label in ((written, f"function:{__name__}"), ("m.onnx", "m.onnx"), (written, "function:")):
        content, _ = node.resolve(source, tmp_path / "test_m.py")
        assert content.label.startswith(label)


def test_a_load_that_hangs_ends_at_the_marker_s_timeout(bench):
    """The page's main thread is blocked, as a compiler in a loop would: the create never answers."""
    model = bench.load(make.affine(), "chromium")
    model({"x": np.zeros((4, 4), np.float32)})
    bench.evaluate(model, "void setTimeout(() => { for (;;); }, 0)")
    time.sleep(0.2)
    started = time.monotonic()
    with pytest.raises(PageHung, match=r"'create' within 2 s"):
        bench.load(make.affine(salt=99.0), "chromium", timeout=2.0)
    assert time.monotonic() - started < 2 + 15
    again = bench.load(make.affine(salt=99.0), "chromium")
    assert again({"x": np.zeros((4, 4), np.float32)})["y"].item(0) == 99


@pytest.mark.parametrize("stopped", ["--type=renderer", ""], ids=["renderer", "browser"])
def test_a_page_that_went_bad_between_tests_is_replaced_before_the_next(fresh_bench, stopped):
    """Stopped processes still hold their sockets: only asking finds out."""
    bench = fresh_bench(ping_timeout=1.5)
    model = bench.load(make.affine(), "chromium")
    model({"x": np.zeros((4, 4), np.float32)})
    bench.node.end_test()
    page = bench.page_of(model)
    until(
        lambda: not page.fresh, "the page counts as just asked for ever"
    )  # right after an answer it is not asked
    processes = model._resident.loaded.instance.process.process_tree()
    for process in processes:
        if stopped in " ".join(process.cmdline()):
            process.suspend()
    bench.node.begin_test("next")
    after = bench.load(make.affine(), "chromium")
    assert not after.warm
    assert after({"x": np.zeros((4, 4), np.float32)})["y"].item(0) == 1
    assert after.recoveries == 0


def test_a_mistake_in_the_code_is_raised_at_once_and_no_browser_is_blamed(bench, monkeypatch):
    """Another browser would not mend it: launching them one after the other would hide it."""
    bench.load(make.affine(), "headless-shell")
    launches = bench.node.pool.launches

    async def broken(self, *args):
        raise NameError("name 'page' is not defined")

    monkeypatch.setattr(BrowserProcess, "open_model_page", broken)
    with pytest.raises(NameError):
        bench.load(make.affine(), "headless-shell", session_options={"bundle": "native"})
    assert bench.node.pool.launches == launches
    monkeypatch.undo()
    x = np.zeros((4, 4), np.float32)
    assert bench.load(make.affine(), "headless-shell")({"x": x})["y"].item(0) == 1


def test_a_test_takes_the_session_of_the_one_before_only_while_its_page_is_known_to_live(fresh_bench):
    bench = fresh_bench()
    x = {"x": np.zeros((4, 4), np.float32)}
    model = bench.load(make.affine(), "chromium")
    assert not model._resident.use.warm
    model(x)
    turns = []
    loop, load = bench.node._loop, bench.node.pool.load

    async def counted(*given):
        turns.append(given)
        return await load(*given)

    bench.node.pool.load = counted  # the way through the loop, which asks the page first
    again = bench.load(make.affine(), "chromium")
    assert (again._resident.use.warm, turns) == (True, [])
    page = bench.page_of(again)
    until(lambda: not page.fresh, "the page counts as just asked for ever")
    assert bench.load(make.affine(), "chromium")._resident.use.warm
    assert len(turns) == 1
    assert again(x)["y"].shape == (4, 4)
    loop.call_soon_threadsafe(page.lose, PageHung("lost by the test"))
    until(lambda: page.lost is not None, "the page is not lost")
    new = bench.load(make.affine(), "chromium")
    assert not new._resident.use.warm
    assert bench.page_of(new) is not page
    assert new(x)["y"].shape == (4, 4)


@pytest.mark.parametrize(("browser", "fetches"), [("firefox", False), ("chromium", True)])
def test_a_browser_that_reads_along_gets_a_model_over_the_socket(
    bench, tmp_path, monkeypatch, browser, fetches
):
    """Whatever a page fetches Firefox's main process keeps, twice, under Playwright; see ``targets.AttachedPage``."""
    server, served = bench.node.pool._server, []
    one_of = server._one_of

    def spied(files, request, **more):
        served.append(request.match_info["name"])
        return one_of(files, request, **more)

    monkeypatch.setattr(server, "_one_of", spied)
    model = bench.load(str(make.with_external_data(tmp_path)), browser)
    assert model({"x": np.ones((1, 8), np.float32)})["y"].shape == (1, 8)
    files = [name for name in served if name.startswith(model._resident.content.sha256)]
    assert len(files) == (2 if fetches else 0), "the model and its external data"
