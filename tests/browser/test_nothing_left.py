"""No browser process and no temporary profile survives a run, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import onnx_models as make
import psutil
import pytest
from acceptance_support import Runner
from leftovers import assert_nothing_left, processes, short_directory
from waiting import until

from pytest_browserpool.node.node import CLOSED

SUITE = """
import os, time, pathlib
import numpy as np
import pytest

@pytest.mark.parametrize("browser", {browsers})
def test_runs(browser_pool, browser):
    model = browser_pool.load("affine.onnx", browsers=[browser], backends=["wasm"])
    model({{"x": np.zeros((4, 4), np.float32)}})

def test_waits(browser_pool):
    model = browser_pool.load("affine.onnx", backends=["wasm"])
    model({{"x": np.zeros((4, 4), np.float32)}})
    pathlib.Path("pids").open("a").write(f"{{os.getpid()}} ")
    pathlib.Path("ready").touch()
    time.sleep({seconds})

def slow():
    pathlib.Path("gone-on").touch()
    time.sleep(1.5)
    return pathlib.Path("affine.onnx").read_bytes()

@pytest.mark.skipif("not {on}")
def test_goes_on(browser_pool):
    try:
        browser_pool.load(slow, browsers=["chromium"], backends=["wasm"])
    except RuntimeError as error:
        pathlib.Path("refused").write_text(str(error))
"""


@pytest.fixture
def tmpdir_of_run(tmp_path: Path) -> Iterator[Path]:
    """A temporary directory of the run's own, so that what it leaves there is its own."""
    with short_directory() as directory:
        yield directory


def start(
    tmp_path: Path, tmpdir: Path, *arguments: str, seconds: float, browsers: list[str], on: bool = False
) -> subprocess.Popen[bytes]:
    (tmp_path / "affine.onnx").write_bytes(make.affine())
    (tmp_path / "test_it.py").write_text(SUITE.format(seconds=seconds, browsers=browsers, on=on))
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "--browserpool", "-p", "no:cacheprovider", *arguments, "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmpdir)},
        stdout=(tmp_path / "out").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_after_a_normal_end(tmp_path, tmpdir_of_run):
    run = start(tmp_path, tmpdir_of_run, "-n2", seconds=0, browsers=["chromium", "firefox", "headless-shell"])
    assert run.wait(120) == 0, (tmp_path / "out").read_text()
    assert_nothing_left(tmpdir_of_run)


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "workers"])
def test_after_ctrl_c(tmp_path, tmpdir_of_run, workers):
    run = start(tmp_path, tmpdir_of_run, *workers, seconds=60, browsers=["chromium", "firefox"])
    until((tmp_path / "ready").exists, "the test did not begin")
    assert processes(tmpdir_of_run)
    os.killpg(run.pid, signal.SIGINT)  # what a terminal does: the whole foreground group gets it
    run.wait(60)
    assert_nothing_left(tmpdir_of_run)
    with duckdb.connect(str(tmp_path / ".browserpool" / "history.duckdb"), read_only=True) as history:
        rows = history.execute("SELECT outcome FROM tests WHERE nodeid LIKE '%test_waits'").fetchall()
    assert rows == [], "how it would have ended nobody knows"


def test_after_kill_9_of_pytest_beside_a_test_that_goes_on(tmp_path, tmpdir_of_run):
    """Its node has closed its browsers by the time that it has fetched the model: another would be nobody's to close."""
    run = start(tmp_path, tmpdir_of_run, "-n1", seconds=0, browsers=["chromium"], on=True)
    until((tmp_path / "gone-on").exists, "the test did not begin")
    run.kill()
    run.wait(10)
    until((tmp_path / "refused").exists, "it got a browser")
    assert (tmp_path / "refused").read_text() == CLOSED
    assert_nothing_left(tmpdir_of_run)


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "workers"])
def test_after_kill_9_of_pytest(tmp_path, tmpdir_of_run, workers):
    run = start(tmp_path, tmpdir_of_run, *workers, seconds=60, browsers=["chromium", "firefox"])
    until((tmp_path / "ready").exists, "the test did not begin")
    assert processes(tmpdir_of_run)
    run.kill()
    run.wait(10)
    assert_nothing_left(tmpdir_of_run)


def test_after_kill_9_of_a_worker(tmp_path, tmpdir_of_run):
    run = start(
        tmp_path, tmpdir_of_run, "-n1", "--max-worker-restart=0", seconds=60, browsers=["chromium", "firefox"]
    )
    until((tmp_path / "ready").exists, "the test did not begin")
    os.kill(int((tmp_path / "pids").read_text().split()[0]), signal.SIGKILL)
    assert run.wait(60) == 1, (tmp_path / "out").read_text()
    assert_nothing_left(tmpdir_of_run)


def test_after_kill_9_of_the_driver(tmp_path, tmpdir_of_run):
    """Playwright's driver is what started the browsers: without it nobody else would end Firefox."""
    run = start(tmp_path, tmpdir_of_run, seconds=3, browsers=["firefox"])
    until((tmp_path / "ready").exists, "the test did not begin")
    drivers = [
        p for p in psutil.Process(run.pid).children(recursive=True) if "run-driver" in " ".join(p.cmdline())
    ]
    assert drivers
    for driver in drivers:
        driver.kill()
    run.wait(60)
    assert_nothing_left(tmpdir_of_run)


def test_a_killed_node_s_browser_and_its_work_are_on_the_record(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its test used is told at the test's end otherwise: two heartbeats later all of it has been said."""
    (pytester.path / "affine.onnx").write_bytes(make.affine())
    run = Runner(pytester, monkeypatch)
    run.suite(
        test_x="""
        import os, signal, time
        import numpy as np

        def test_kills(browser_pool):
            model = browser_pool.load("affine.onnx", browsers=["headless-shell"], backends=["wasm"])
            model({"x": np.zeros((4, 4), np.float32)})
            time.sleep(5)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = run("-n", "1", "--max-worker-restart=0", reports=False)
    assert done.terminal["failed"] == 1
    with duckdb.connect(str(pytester.path / ".browserpool" / "history.duckdb"), read_only=True) as history:
        assert history.execute("SELECT node, name FROM browsers").fetchall() == [("gw0", "headless-shell")]
        kinds = history.execute("SELECT kind FROM operations_log ORDER BY kind").fetchall()
    assert kinds == [("load",), ("run",)]
