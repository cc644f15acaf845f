"""What the controller writes to the history: one row for each test, node and loss, whatever happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from acceptance_support import Runner


def query(directory: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(directory / ".browserpool" / "history.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize("nodes", [(), ("-n", "2")], ids=["one process", "two nodes"])
def test_each_test_has_one_row(run: Runner, nodes: tuple[str, ...]) -> None:
    run.suite(
        test_x="""
        import pytest
        def test_pass(): pass
        def test_fail(): assert 0, "because"
        def test_skip(): pytest.skip("no")
        @pytest.mark.xfail
        def test_xfail(): assert 0
        @pytest.fixture
        def broken(): raise RuntimeError
        def test_error(broken): pass
    """
    )
    done = run(*nodes)
    rows = dict(query(done.directory, "SELECT nodeid, outcome FROM tests"))
    assert rows == {
        "test_x.py::test_pass": "passed",
        "test_x.py::test_fail": "failed",
        "test_x.py::test_skip": "skipped",
        "test_x.py::test_xfail": "xfailed",
        "test_x.py::test_error": "error",
    }
    ((message,),) = query(done.directory, "SELECT message FROM tests WHERE outcome = 'failed'")
    assert "because" in message
    ((arguments, status, scheduler, finished),) = query(
        done.directory, "SELECT arguments, exit_status, scheduler, finished_at FROM runs"
    )
    assert "--browserpool" in json.loads(arguments)
    assert (status, scheduler) == (1, "browserpool" if nodes else "none")
    assert finished is not None


@pytest.mark.parametrize("look", ["--collect-only", "--setup-plan", "--fixtures", "--fixtures-per-test"])
def test_looking_at_a_suite_is_no_run(run: Runner, look: str) -> None:
    run.suite(test_x="def test_one(): pass")
    done = run(look, "-n", "1", reports=False)
    assert done.result.ret == 0
    assert not (done.directory / ".browserpool" / "history.duckdb").exists()


def test_a_lost_node_and_its_test_are_on_the_record(run: Runner) -> None:
    run.suite(test_x="import os, signal\ndef test_kills(): os.kill(os.getpid(), signal.SIGKILL)")
    done = run("-n", "1")
    assert query(done.directory, "SELECT outcome FROM tests") == [("crashed",)]
    faults = query(done.directory, "SELECT kind, nodeid FROM faults")
    assert faults == [("node_lost", "test_x.py::test_kills")] * 2
    nodes = query(done.directory, "SELECT node, down_reason FROM nodes ORDER BY node")
    assert all(reason for _, reason in nodes)


def test_each_decision_is_on_the_record(run: Runner) -> None:
    run.suite(test_x="import pytest\n@pytest.mark.parametrize('i', range(5))\ndef test_x(i): pass")
    done = run("-n", "2")
    ((count, nodes),) = query(
        done.directory, "SELECT count(DISTINCT nodeid), count(DISTINCT node) FROM decisions"
    )
    assert count == 5
    assert 1 <= nodes <= 2


def test_two_runs_at_once_share_a_history(run: Runner) -> None:
    run.suite(
        test_x="""
        import subprocess, sys
        def test_inner(tmp_path):
            inner = tmp_path / "test_inner.py"
            inner.write_text("def test_one(): pass")
            command = [sys.executable, "-m", "pytest", "--browserpool", "-p", "no:cacheprovider", str(inner),
                       "--browserpool-db", __file__.replace("test_x.py", ".browserpool/history.duckdb")]
            assert subprocess.run(command, timeout=200).returncode == 0
    """
    )
    done = run("-n", "1")
    assert done.terminal["passed"] == 1
    assert query(done.directory, "SELECT count(*) FROM runs") == [(2,)]
    assert query(done.directory, "SELECT count(*) FROM tests") == [(2,)]
