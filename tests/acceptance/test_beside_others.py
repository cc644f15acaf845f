"""Beside other plugins: no fight over names, loops, reports or time."""

from __future__ import annotations

import pytest
from acceptance_support import Runner


@pytest.fixture
def run(run: Runner, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """With every plugin that is installed."""
    monkeypatch.delenv("PYTEST_ADDOPTS")
    return run


@pytest.mark.parametrize("nodes", [(), ("-n", "2")], ids=["one process", "two nodes"])
def test_asyncio_timeout_and_reruns(run: Runner, nodes: tuple[str, ...]) -> None:
    run.suite(
        test_x="""
        import asyncio, pathlib, pytest, time
        HERE = pathlib.Path(__file__).parent

        @pytest.mark.asyncio
        async def test_loop():
            await asyncio.sleep(0)
            assert asyncio.get_running_loop()

        @pytest.mark.timeout(1)
        def test_too_slow(): time.sleep(30)

        @pytest.mark.flaky(reruns=2)
        def test_flaky():
            flag = HERE / "tried"
            tried = flag.exists()
            flag.touch()
            assert tried

        @pytest.fixture(scope="module")
        def module(): return []

        @pytest.mark.flaky(reruns=1)
        def test_always_fails(module): assert 0

        def test_after(module): pass
    """
    )
    done = run(*nodes, "-p", "timeout")
    assert done.terminal == {"passed": 3, "failed": 2, "rerun": 2}
    rerun = ("test_flaky", "test_always_fails")  # of which pytest-rerunfailures itself leaves two in the XML
    assert {name: kinds for name, kinds in done.junit.items() if len(kinds) != 1 and name not in rerun} == {}
    assert "Timeout" in done.output


def test_pytest_playwrights_names_stay_its_own(run: Runner) -> None:
    run.suite(
        test_x="""
        def test_names(request):
            manager = request.config.pluginmanager
            assert manager.hasplugin("playwright") and manager.hasplugin("browserpool-node")
            from pytest_browserpool import fixtures
            import pytest_playwright.pytest_playwright as theirs
            ours = {"model", "browser_pool"}
            for name in ("page", "browser", "context", "browser_type", "playwright"):
                assert name not in ours and hasattr(theirs, name)

        def test_its_fixtures_resolve(browser_name, browser_type_launch_args):
            assert browser_name == "chromium"
            assert "executable_path" not in browser_type_launch_args
    """
    )
    assert run("-n", "1", reports=False).terminal == {"passed": 2}


def test_reportlog_like_json_can_hold_our_reports(run: Runner) -> None:
    run.pytester.makeconftest(
        """
        import json, pytest

        @pytest.hookimpl(trylast=True)
        def pytest_runtest_logreport(report):
            json.dumps(getattr(report, "browserpool", None))
    """
    )
    run.suite(test_x="def test_one(): pass")
    assert run("-n", "1", reports=False).terminal == {"passed": 1}


def test_unittest_and_doctest_items_run(run: Runner) -> None:
    run.suite(
        test_x='''
        import unittest

        class TestOld(unittest.TestCase):
            @classmethod
            def setUpClass(cls): cls.ready = True
            def test_one(self): assert self.ready
            def test_two(self): assert self.ready

        def add(a, b):
            """
            >>> add(1, 2)
            3
            """
            return a + b
    '''
    )
    assert run("-n", "2", "--doctest-modules").terminal == {"passed": 3}


def test_collect_only_starts_nothing(run: Runner) -> None:
    run.suite(
        test_x="""
        import pytest
        @pytest.mark.model("m.onnx")
        def test_one(model): pass
    """
    )
    done = run("-n", "2", "--collect-only", "-q", reports=False)
    assert "test_x.py::test_one" in done.output
    assert done.result.duration < 60


def test_keyboard_interrupt_of_a_node_ends_the_run(run: Runner) -> None:
    run.suite(
        test_x="""
        import pytest
        def test_exit(): pytest.exit("enough")
        @pytest.mark.parametrize("i", range(5))
        def test_more(i): pass
    """
    )
    assert run("-n", "1", reports=False).result.ret == 2
