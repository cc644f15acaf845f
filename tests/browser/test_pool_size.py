"""A node's pool follows the scheduler's advice: it shrinks while the plan needs fewer browsers, and grows ahead of need."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import onnx_models as make
import pytest
from bench_support import open_bench

from pytest_browserpool.browsers.kinds import page_for
from pytest_browserpool.store.connect import reading

SUITE = """
import time
import numpy as np
import pytest

X = {"x": np.zeros((4, 4), np.float32)}

def wants(browser, priority, expected):
    return pytest.mark.model(
        "affine.onnx", browsers=[browser], backends=["wasm"], priority=priority, expected_duration=expected
    )

def until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)

def alive(pool):
    return {browser.name for browser in pool.browsers}

@wants("headless-shell", 1, 1)
def test_first(model, browser_pool):
    assert model(X)["y"].item(0) == 1
    until(lambda: browser_pool.stats()["sessions"] == 2)  # the next test's, made ahead

@wants("chromium", 2, 1000)
def test_a_long_one_needs_no_other_browser(model, browser_pool):
    assert model(X)["y"].item(0) == 1
    until(lambda: alive(browser_pool) == {"chromium"})
    until(lambda: len(browser_pool._node.report._launched) == 1)  # the other's end is on the record, too
    assert model(X)["y"].item(0) == 1

@wants("chromium", 3, 2)
def test_the_other_is_back_before_it_is_needed(model, browser_pool):
    until(lambda: alive(browser_pool) == {"headless-shell", "chromium"})
    until(lambda: browser_pool.stats()["sessions"] == 2)

@wants("headless-shell", 5, 1)
def test_last(model):
    assert model.warm
"""


def browserpool(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest_browserpool.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_pool_shrinks_and_grows_with_the_plan(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nbrowserpool_pool_cool_down = 0.5\n")
    (tmp_path / "affine.onnx").write_bytes(make.affine())
    (tmp_path / "test_pool.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "--browserpool", "-n1", "-v", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    db = tmp_path / ".browserpool" / "history.duckdb"
    with reading(db) as con:
        sizes = con.execute(
            "SELECT value FROM metrics WHERE name = 'pool_size' AND node = 'gw0' ORDER BY \"at\""
        ).fetchall()
        shells = con.execute(
            "SELECT close_reason FROM browsers WHERE name = 'headless-shell' ORDER BY launched_at"
        ).fetchall()
        loads = con.execute(
            "SELECT browser, nodeid FROM operations_log WHERE kind = 'load' AND NOT warm ORDER BY started_at"
        ).fetchall()
        launches = con.execute("SELECT name, nodeid, launch_ms FROM browsers").fetchall()
        costs = dict(con.execute("SELECT test, launch_s FROM test_costs").fetchall())
    # 1: the long one alone; 2: its successors come near. Before and after that the plan is looked at once a second, and
    # its beginning (one test, then two browsers) and its end (one test left) may lie between two looks
    assert re.fullmatch(r"(1, )?(2, )?1, 2(, 1)?", ", ".join(f"{size:g}" for (size,) in sizes)), sizes
    found = [(browser, nodeid.partition("::")[2]) for browser, nodeid in loads]
    # chromium is made ready beside the first test's own load, and either may begin first; what is made ahead is of no test
    assert sorted(found[:2]) == [("chromium", ""), ("headless-shell", "test_first")]
    assert found[2:] == [("headless-shell", "")]
    assert [reason for (reason,) in shells] == ["the plan needs fewer", "end of run"]
    # only the first test waited for a browser; those for others came up beside tests that they cost nothing
    ((ms, first),) = [(ms, nodeid) for _, nodeid, ms in launches if nodeid]
    assert first == "test_pool.py::test_first"
    assert sorted(name for name, nodeid, _ in launches if nodeid == "") == ["chromium", "headless-shell"]
    assert {test: seconds for test, seconds in costs.items() if seconds} == {first: pytest.approx(ms / 1000)}
    assert "pool size  gw0 " in done.stdout, done.stdout
    asked = ["explain", "test_pool.py::test_the_other_is_back_before_it_is_needed", f"--db={db}"]
    # the test went out before the browser for the one after it was asked for, and the first one's end had been recorded
    assert "on gw0 ran chromium then; the plan kept 1" in browserpool(*asked)
    (plain,) = json.loads(browserpool(*asked, "--json"))
    assert plain["pool"] == {"running": ["chromium"], "advised": 1}


def test_what_a_test_takes_while_another_browser_closes_stays_open(tmp_path: Path) -> None:
    """Both are surplus when the pool begins to shrink."""
    with open_bench(tmp_path, browsers=("chromium", "headless-shell"), pool_cool_down=0.001) as bench:
        running = bench.node.pool.running

        async def take_one_in_between() -> None:
            for name in ("chromium", "headless-shell"):
                instance, _ = await running.browser(name, 0, page_for("wasm"))
            await asyncio.sleep(0.1)  # many times the cool-down
            shrinking = asyncio.ensure_future(running.resize(0, 2, frozenset()))
            # until the older one is about to close, which takes a while; the pool sends no event
            while len(running.instances) == 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            taken, _ = await running.browser("headless-shell")
            assert taken is instance
            with taken.in_use():
                await shrinking
                assert taken.usable
                assert running.instances == [taken]

        bench.node.call(take_one_in_between, 60)


def test_a_browser_that_tests_use_is_not_closed_for_a_plan_that_does_not_know_it(tmp_path: Path) -> None:
    with open_bench(tmp_path, browsers=("chromium", "headless-shell"), pool_cool_down=1.0) as bench:
        running = bench.node.pool.running

        async def used_and_not() -> None:
            for name in ("chromium", "headless-shell"):
                await running.browser(name, 0, page_for("wasm"))
            await running.resize(1, 2, frozenset({"chromium"}))
            assert len(running.instances) == 2
            async with asyncio.timeout(30):
                while len(running.instances) == 2:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.05)
            assert [i.name for i in running.instances] == ["chromium"]

        bench.node.call(used_and_not, 60)
