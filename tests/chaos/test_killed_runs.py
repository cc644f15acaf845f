"""Workers and pytest itself killed or stopped while a browser computes: each test once, each answer right, nothing left.

That browsers and profiles go with a killed run is in tests/browser/test_nothing_left.py, what the scheduler does with a lost
node in tests/acceptance/test_lost_nodes.py; here the models run for real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from acceptance_support import Runner
from chaos_support import PATIENCE, spin
from leftovers import assert_nothing_left, short_directory

from pytest_browserpool.recovery.state import State

SUITE = """
    import hashlib, os, pathlib, signal, threading
    import numpy as np
    import pytest

    HERE = pathlib.Path(__file__).parent
    X = np.random.default_rng(9).standard_normal((16, 64)).astype(np.float32)

    def answer(browser_pool):
        model = browser_pool.load("spin.onnx", backends=["wasm"])
        y = model({{"x": X, "rounds": np.array(20_000, np.int64)}})["y"]
        with (HERE / "answers").open("a") as file:
            file.write(hashlib.sha256(y.tobytes()).hexdigest() + "\\n")

    @pytest.mark.parametrize("i", range(4))
    def test_computes(browser_pool, i):
        answer(browser_pool)

    def test_is_hit(browser_pool):
        flag = HERE / "hit"
        if not flag.exists():
            def hit():
                flag.touch()
                os.kill(os.getpid(), signal.{signal})
            threading.Timer(0.7, hit).start()
            browser_pool.load("spin.onnx", backends=["wasm"])(
                {{"x": X, "rounds": np.array(2_000_000_000, np.int64)}})
        answer(browser_pool)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(pytester, monkeypatch)


@pytest.fixture
def tmpdir_of_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with short_directory() as directory:
        monkeypatch.setenv("TMPDIR", str(directory))
        yield directory


@pytest.mark.parametrize("how", ["SIGKILL", pytest.param("SIGSTOP", marks=pytest.mark.full)])
def test_a_worker_in_the_middle_of_an_inference(run: Runner, tmpdir_of_run: Path, how: str, ledger) -> None:
    directory = run.pytester.path
    (directory / "spin.onnx").write_bytes(spin())
    run.pytester.makeini(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nbrowserpool_heartbeat_timeout = 6\n"
    )
    run.suite(test_hit=SUITE.format(signal=how))
    started = time.monotonic()
    done = run("-n", "2")
    seconds = time.monotonic() - started
    assert done.terminal == {"passed": 5}, done.output
    assert done.once() == {"passed": 5}
    answers = (directory / "answers").read_text().split()
    assert len(answers) == 5
    assert len(set(answers)) == 1
    assert_nothing_left(tmpdir_of_run, PATIENCE)
    with duckdb.connect(str(directory / ".browserpool" / "history.duckdb"), read_only=True) as history:
        faults = history.sql("select kind, detail from faults").fetchall()
        tests = history.sql("select count(*), count(distinct nodeid) from tests").fetchall()[0]
        nodes = journalled(history)
        unended = history.sql("select instance from browsers where closed_at is null").fetchall()
    assert not unended, "the browser of the killed worker went with it"
    (left_behind,) = [detail for kind, detail in faults if kind == "node_lost"]
    assert "it had " in left_behind, "the journal tells which browser went with the worker"
    assert left_behind.rstrip().endswith("running")
    assert sum(state.totals.done for state in nodes.values()) >= 5
    assert tests == (5, 5)
    ledger.add(f"worker {how} while running (whole run of 5 tests)", "any", "passed", seconds)


def journalled(history: duckdb.DuckDBPyConnection) -> dict[str, State]:
    """Each node's state, made anew from its transactions in the history; one that is missing is refused."""
    states: dict[str, State] = {}
    rows = history.sql('select node, number, "at", changes from journal order by node, number').fetchall()
    for node, number, at, changes in rows:
        entry = {"number": number, "at": at, "changes": json.loads(changes)}
        states.setdefault(node, State()).apply(entry)
    return states


def committed(history: Path) -> int:
    """Operations in the history as anybody may read it; 0 while the writer holds it or it is not there yet."""
    try:
        with duckdb.connect(str(history), read_only=True) as connection:
            return int(connection.sql("select count(*) from operations where kind = 'run'").fetchall()[0][0])
    except duckdb.Error:
        return 0


def test_pytest_itself_killed_keeps_what_was_committed(tmp_path: Path, tmpdir_of_run: Path, ledger) -> None:
    (tmp_path / "spin.onnx").write_bytes(spin())
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nbrowserpool_state_sync_interval = 0.5\n"
    )
    suite = textwrap.dedent(SUITE.format(signal="SIGKILL"))
    (tmp_path / "test_long.py").write_text(suite.replace("range(4)", "range(400)"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--browserpool",
        "-n1",
        "-p",
        "no:cacheprovider",
        "-k",
        "computes",
    ]
    run = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmpdir_of_run)},
        stdout=(tmp_path / "out").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    answers = tmp_path / "answers"
    deadline = time.monotonic() + PATIENCE
    while not answers.exists() or len(answers.read_text().split()) < 4:
        assert time.monotonic() < deadline, (tmp_path / "out").read_text()
        assert run.poll() is None, (tmp_path / "out").read_text()
        time.sleep(0.1)
    history = tmp_path / ".browserpool" / "history.duckdb"
    while (before := committed(history)) < 4:  # seen by another process: that is what committed means
        assert time.monotonic() < deadline, f"{before} operations committed\n{(tmp_path / 'out').read_text()}"
        time.sleep(0.3)
    run.send_signal(signal.SIGKILL)
    run.wait(30)
    assert_nothing_left(tmpdir_of_run, PATIENCE)
    assert committed(history) >= before
    with duckdb.connect(str(history), read_only=True) as connection:
        (state,) = journalled(connection).values()
    assert [b.status for b in state.browsers.values()] == ["ready"], "what ran when it was killed"
    ledger.add("pytest SIGKILL: its rows, its journal and no process left", "any", "kept", None)
    verified = subprocess.run(
        [sys.executable, "-m", "pytest_browserpool.cli", "verify", "--db", ".browserpool/history.duckdb"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
