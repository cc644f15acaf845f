"""Fixtures of wider scope end between two tests, and all that pytest and its plugins do around a teardown holds there."""

from __future__ import annotations

import pytest
from acceptance_support import Runner

SLOW = """
    import time, pytest
    @pytest.fixture(scope="module")
    def server():
        yield
        time.sleep(30)
    def test_first(server): pass
"""


@pytest.mark.parametrize("then", ["another module", "the end"])
def test_a_time_out_bounds_them(run: Runner, then: str) -> None:
    run.suite(test_a=SLOW, **({"test_b": "def test_next(): pass"} if then == "another module" else {}))
    done = run("-n", "1", "--timeout=2", "--timeout-method=signal")
    assert done.result.ret == 1
    assert done.terminal == {"passed": 2 if then == "another module" else 1, "errors": 1}
    assert "Timeout (>2.0s) from pytest-timeout" in done.output
    assert "error" in done.junit["test_first"]


def test_a_time_out_that_ends_the_process_costs_the_node_and_no_test(run: Runner) -> None:
    run.suite(test_a=SLOW, test_b="def test_next(): pass")
    done = run("-n", "1", "--timeout=2", "--timeout-method=thread")
    assert done.terminal == {"passed": 2}
    assert "gw0 was lost while it ran test_b.py::test_next" in done.output


def test_what_they_log_print_and_warn_of_is_told(run: Runner) -> None:
    run.suite(
        test_a="""
        import logging, warnings, pytest
        @pytest.fixture(scope="module")
        def server():
            yield
            logging.getLogger("server").warning("the log's last line")
            warnings.warn("of the server's end")
            print("the last print")
            assert 0
        def test_first(server): logging.getLogger("test").warning("of the test")
    """,
        test_b="""
        import warnings, pytest
        @pytest.fixture(scope="module")
        def other():
            yield
            warnings.warn("of one that passes")
        def test_next(other, caplog): assert caplog.records == []
    """,
    )
    done = run("-n", "1")
    assert done.terminal == {"passed": 2, "errors": 1, "warnings": 2}
    for words in ("the log's last line", "of the server's end", "the last print", "of one that passes"):
        assert words in done.output
    assert "Captured log teardown" in done.output


def test_hooks_see_an_item_as_the_next_test(run: Runner) -> None:
    run.suite(
        conftest="""
        import pytest
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(item, nextitem):
            result = yield
            assert nextitem is None or nextitem.function.__module__
            return result
        @pytest.hookimpl(trylast=True)
        def pytest_runtest_teardown(item, nextitem):
            assert isinstance(nextitem, pytest.Item) and nextitem is not item
    """,
        test_a="""
        import pytest, unittest
        LOG = []
        @pytest.fixture(scope="class")
        def wide():
            LOG.append("begins")
            yield
            LOG.append("ends")
        class TestWide:
            @pytest.mark.parametrize("i", range(3))
            def test_it(self, wide, i): assert LOG == ["begins"]
        class TestCase(unittest.TestCase):
            def test_old(self): assert LOG == ["begins", "ends"]
    """,
    )
    assert run("-n", "1").terminal == {"passed": 4}


@pytest.mark.parametrize("status", [0, 7])
def test_an_exit_with_a_status_ends_the_run_with_it(run: Runner, status: int) -> None:
    run.suite(
        test_a=f"""
        import pytest, time
        @pytest.mark.parametrize("i", range(3))
        def test_before(i): pass
        def test_exit(): pytest.exit("it is enough", returncode={status})
        @pytest.mark.parametrize("i", range(200))
        def test_after(i): time.sleep(0.1)
    """
    )
    done = run("-n", "2")
    assert done.result.ret == status
    assert "it is enough" in done.output
    assert set(done.terminal) == {"passed"}, "nothing is made up for what was not run"
    assert done.terminal["passed"] < 100
