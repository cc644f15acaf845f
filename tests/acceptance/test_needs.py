"""Needs and capabilities over real nodes: nodes of one machine that are each given some of its browsers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from acceptance_support import Runner

from pytest_browserpool.browsers import catalogue
from pytest_browserpool.config import Settings

INSTALLED = sorted(
    browser.name for browser in catalogue.discover(Settings(rootdir="/", db="/nowhere")).installed
)

ADD = """
    import os
    import numpy as np
    import pytest
    from onnx import TensorProto as T
    from onnx import helper as h

    WORKER = os.environ.get("PYTEST_XDIST_WORKER")

    def add():
        value = lambda name: h.make_tensor_value_info(name, T.FLOAT, [2])
        node = h.make_node("Add", ["a", "b"], ["c"])
        graph = h.make_graph([node], "g", [value("a"), value("b")], [value("c")])
        return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)

    ONES = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
"""


two_browsers = pytest.mark.skipif(
    not {"chromium", "firefox"} <= set(INSTALLED), reason=f"wants chromium and firefox, here are {INSTALLED}"
)


@pytest.mark.browser
@two_browsers
def test_a_test_runs_only_where_its_browser_is(run: Runner) -> None:
    run.suite(
        test_x=ADD
        + """
    @pytest.mark.parametrize("i", range(3))
    @pytest.mark.model(add, backends=["wasm"], browsers=["firefox"])
    def test_fox(model, i):
        assert model(ONES)["c"].tolist() == [2, 2]
        assert (model.browser.family, model.backend, WORKER) == ("firefox", "wasm", "gw1")

    @pytest.mark.parametrize("i", range(3))
    @pytest.mark.model(add, backends=["wasm"], browsers=["chrome"])
    def test_chrome(model, i):
        assert model(ONES)["c"].tolist() == [2, 2]
        assert (model.browser.family, WORKER) == ("chrome", "gw0")

    @pytest.mark.model(add, backends=["wasm"], on="each", browsers=["chromium", "firefox", "edge"])
    def test_each(model): assert model(ONES)["c"].tolist() == [2, 2]

    @pytest.mark.model(add, browsers=["edge"])
    def test_edge(model): pass

    @pytest.mark.model(add, backend=["wasm"])
    def test_typo(model): pass
    """
    )
    done = run("--tx", "popen//browsers=chromium", "--tx", "popen//browsers=firefox")
    assert done.terminal == {"passed": 8, "skipped": 1, "failed": 1, "errors": 1}
    assert sum(done.once().values()) == 11
    assert done.junit["test_each[edge]"] == ["skipped"]
    assert done.junit["test_edge"] == ["failure"]
    for words in ("gw0: no edge (has chromium)", "gw1: no edge (has firefox)", "did you mean 'backends'"):
        assert words in done.output


@pytest.mark.browser
def test_missing_may_be_skipped(run: Runner) -> None:
    run.suite(
        test_x=ADD + "\n    @pytest.mark.model(add, browsers=['webkit'])\n    def test_webkit(model): pass"
    )
    for nodes in ((), ("-n", "1")):
        done = run(*nodes, "--browserpool-missing", "skip", "-rs")
        assert done.terminal == {"skipped": 1}
        assert "no node can run this test" in done.output


@pytest.mark.skipif("webkit" in INSTALLED, reason="webkit is here")
def test_a_run_that_names_its_browser_fails_where_that_is_not_there(run: Runner) -> None:
    run.suite(
        test_x=ADD
        + """
    @pytest.mark.model(add, browsers=["webkit"])
    def test_webkit(model): pass
    @pytest.mark.model(add, browsers=["edge"])
    def test_edge(model): pass
    """
    )
    for nodes in ((), ("-n", "1")):
        done = run(*nodes, "--browserpool-missing=skip", "--browserpool-browsers=webkit")
        assert done.terminal == {"failed": 1, "skipped": 1}


@pytest.mark.skipif("webkit" in INSTALLED, reason="webkit is here")
def test_no_browser_at_all_is_said_in_the_test(run: Runner) -> None:
    run.suite(
        test_x=ADD
        + "\n    @pytest.mark.model(source=add)\n    def test_one(model): pass\n\n    def test_two(): pass"
    )
    for nodes in ((), ("-n", "1")):
        done = run(*nodes, "--browserpool-browsers", "webkit")
        assert done.terminal == {"failed": 1, "passed": 1}
        assert "webkit" in done.output


@pytest.mark.browser
@two_browsers
def test_a_load_in_a_test_fails_where_the_test_made_it(run: Runner) -> None:
    """What is wrong with a source is said at the test's own line, not at the end of our frames."""
    run.suite(
        test_x=ADD
        + """
    def test_missing(browser_pool): browser_pool.load("missing.onnx", browsers=["chromium"])
    def test_empty(browser_pool): browser_pool.load(b"", browsers=["chromium"])
    def test_input(browser_pool):
        browser_pool.load(add, browsers=["chromium"], backends=["wasm"])({"a": 1})
    def test_refused(browser_pool):
        unmade = h.make_graph([h.make_node("NoSuchOperator", ["a"], ["b"])], "g",
                              [h.make_tensor_value_info("a", T.FLOAT, ["n"])],
                              [h.make_tensor_value_info("b", T.FLOAT, ["n"])])
        unmade = h.make_model(unmade, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
        browser_pool.load(unmade, browsers=["headless-shell"], backends=["webnn"])({"a": np.ones(2, np.float32)})
    def test_typo(browser_pool): browser_pool.load(add, browser=["chromium"])
    """
    )
    reported = run()
    assert reported.terminal["failed"] == 5
    assert "input 'b' is missing" in reported.output
    assert "NoSuchOperator" in reported.output
    assert "the model 'missing.onnx' is not there" in reported.output
    assert "the file is empty" in reported.output
    assert "did you mean 'browsers'?" in reported.output
    assert not re.search(
        r"(sources|inspect|markers|fixtures|reporting|node|resident)\.py:\d", reported.output
    )


@pytest.mark.parametrize("nodes", [(), ("-n", "2")], ids=["alone", "nodes"])
def test_each_where_there_is_no_browser_at_all_fails_with_the_reason(
    run: Runner, nodes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setenv("BROWSERPOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "browsers"))
    if catalogue.discover(Settings(rootdir="/", db="/nowhere")).installed:
        pytest.skip("a browser of this machine stands where no variable hides it")
    run.suite(
        test_x=ADD
        + """
    @pytest.mark.parametrize("i", range(2))
    @pytest.mark.model(add, on="each")
    def test_each(model, i): pass
    """
    )
    reported = run(*nodes)
    assert reported.terminal == {"failed": 2}
    assert "no browser known to the controller (has none)" in reported.output
    assert "no browser is installed here" in reported.output
    assert "browserpool doctor" in reported.output
    assert run(*nodes, "--browserpool-missing=skip").terminal == {"skipped": 2}


@pytest.mark.browser
@pytest.mark.skipif("headless-shell" not in INSTALLED, reason="only the headless shell gives WebNN")
@pytest.mark.parametrize("how", [[], ["-n1"], ["-n2"]], ids=["alone", "one node", "two nodes"])
def test_the_first_backend_counts_wherever_it_is(run: Runner, how: list[str]) -> None:
    """Chromium gives the second one, and has a session of the model by then: cheaper, and not what was asked for."""
    run.suite(
        test_order=ADD
        + """
    @pytest.mark.model(add, backends=["wasm"], browsers=["chromium"])
    def test_before(model):
        assert model(ONES)["c"].tolist() == [2, 2]

    @pytest.mark.parametrize("i", range(4))
    @pytest.mark.model(add, backends=["webnn", "wasm"])
    def test_first(model, i):
        model(ONES)
        assert (model.browser.name, model.backend) == ("headless-shell", "webnn")
"""
    )
    assert run(*how).terminal == {"passed": 5}
