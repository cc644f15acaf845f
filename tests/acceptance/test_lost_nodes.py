"""Nodes that die, stop or keep dying: nothing lost, nothing twice, and the reason told."""

from __future__ import annotations

import pytest
from acceptance_support import Runner

pytestmark = pytest.mark.chaos


def test_killed_nodes_tests_are_tried_on_another_at_most_once_and_each_is_reported_once(run: Runner) -> None:
    """One that kills the first node that runs it, one that kills each, one that dies when it has passed, and others."""
    run.suite(
        test_kill="""
        import os, pathlib, pytest, signal, time

        HERE = pathlib.Path(__file__).parent

        def kill_once(name):
            flag = HERE / name
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        @pytest.fixture
        def deadly():
            yield
            kill_once("in a teardown")

        @pytest.mark.parametrize("i", range(8))
        def test_fine(i): time.sleep(0.05)

        def test_kills_its_first_node(): kill_once("in a call")

        def test_kills():
            time.sleep(0.5)  # what a node has to tell goes every tenth of a second
            os.kill(os.getpid(), signal.SIGKILL)

        def test_passes(deadly): pass
    """
    )
    done = run("-n", "2")
    assert done.terminal == {"passed": 10, "failed": 1}
    assert done.once() == {"passed": 10, "failure": 1}
    assert done.junit["test_kills"] == ["failure"]
    assert "was lost while it ran test_kill.py::test_kills_its_first_node" in done.output
    assert done.output.count("was lost while it ran test_kill.py::test_kills:") == 2
    done.result.stdout.fnmatch_lines(["*lost with 2 nodes, and not tried again:*", "*gw?: *setup passed*"])
    assert done.result.ret == 1


def test_a_stopped_node_is_ended_and_its_test_runs_elsewhere(run: Runner) -> None:
    run.pytester.makeini("[pytest]\nbrowserpool_heartbeat_timeout = 4\n")
    run.suite(
        test_stop="""
        import os, pathlib, pytest, signal, time
        HERE = pathlib.Path(__file__).parent

        @pytest.mark.parametrize("i", range(6))
        def test_fine(i): time.sleep(0.05)

        def test_stops_its_first_node():
            flag = HERE / "stopped"
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGSTOP)
    """
    )
    done = run("-n", "2")
    assert done.terminal == {"passed": 7}
    assert done.once() == {"passed": 7}
    assert "silent for 4 s" in done.output
    assert done.result.ret == 0


def test_at_the_restart_limit_what_is_left_is_reported(run: Runner) -> None:
    run.suite(
        test_kill="""
        import os, pytest, signal

        @pytest.mark.parametrize("i", range(12))
        def test_kills(i): os.kill(os.getpid(), signal.SIGKILL)
    """
    )
    done = run("-n", "1", "--max-worker-restart", "2")
    assert done.terminal == {"failed": 12}
    assert done.once() == {"failure": 12}
    assert "maximum crashed workers reached: 2" in done.output
    assert done.result.ret == 1


def test_no_restarts_at_all(run: Runner) -> None:
    run.suite(
        test_kill="""
        import os, pytest, signal

        def test_kills(): os.kill(os.getpid(), signal.SIGKILL)

        @pytest.mark.parametrize("i", range(3))
        def test_fine(i): pass
    """
    )
    done = run("-n", "1", "--max-worker-restart", "0")
    assert sum(done.terminal.values()) == 4
    assert sum(done.once().values()) == 4
    assert done.terminal["failed"] >= 1


def test_rerunfailures_may_ask_for_more(run: Runner) -> None:
    run.suite(
        test_kill="""
        import os, pathlib, signal
        HERE = pathlib.Path(__file__).parent

        def test_kills_three_nodes():
            count = len(list(HERE.glob("killed-*")))
            if count < 3:
                (HERE / f"killed-{count}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
    """
    )
    done = run("-n", "2", "--reruns", "4")
    assert done.terminal["passed"] == 1
    assert "failed" not in done.terminal
    assert done.once() == {"passed": 1}


def test_under_xdists_own_scheduler_a_crash_is_in_the_html_report(run: Runner) -> None:
    run.suite(
        test_kill="""
        import os, signal
        def test_kills(): os.kill(os.getpid(), signal.SIGKILL)
        def test_fine(): pass
    """
    )
    done = run("-n", "2", "--browserpool-scheduler", "off")
    assert done.terminal == {"passed": 1, "failed": 1}
    assert {name: len(kinds) for name, kinds in done.html.items()} == {"test_kills": 1, "test_fine": 1}
