"""Nodes of one machine share its cores: what that makes of times, prices and plans."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from placement_support import collect, engine, node, runs, wanting

from pytest_browserpool import machine
from pytest_browserpool.placement.engine import PlacementEngine
from pytest_browserpool.placement.events import LaunchObserved, LoadObserved, NodeUp, RunObserved
from pytest_browserpool.placement.history import History, Sample
from pytest_browserpool.placement.sharing import (
    BUSY_CORES,
    DEAREST,
    crowded_price,
    stretch,
    together,
    work_price,
)
from pytest_browserpool.values import NodeCapabilities

LENGTHS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8)
CORES = st.integers(1, 32)
BROWSERS = ("chromium", "firefox", "headless-shell")


def sure(value: float) -> Sample:
    return Sample(value, 1000)


@given(LENGTHS, CORES)
def test_together_is_what_sharing_the_cores_step_by_step_takes(lengths: list[float], cores: int) -> None:
    left, seconds = sorted(lengths), 0.0
    while left:
        slow = stretch(len(left), cores)
        step = left[0]
        seconds += step * slow
        left = [one - step for one in left[1:]]
    assert together(lengths, cores) == pytest.approx(seconds)


@given(LENGTHS, CORES)
def test_together_lies_between_the_longest_and_all_in_a_row(lengths: list[float], cores: int) -> None:
    found = together(lengths, cores)
    assert found >= max(lengths) * (1 - 1e-9)
    assert found <= sum(lengths) * (1 + 1e-9)


@given(st.integers(2, 16), CORES, st.floats(0.1, 5.0))
def test_price_is_where_moving_work_neither_helps_nor_harms(nodes: int, cores: int, setup: float) -> None:
    """The node that ends last gives away price × set-up seconds, and the one that ends first pays the set-up."""
    price = crowded_price(nodes, cores)
    moved = price * setup
    lengths = [200.0, *[100.0] * (nodes - 2), 50.0]
    after = [lengths[0] - moved, *lengths[1:-1], lengths[-1] + moved + setup]
    if price < DEAREST and after[0] >= 100.0 and after[-1] <= 100.0:
        assert together(after, cores) == pytest.approx(together(lengths, cores))


def test_where_cores_are_enough_nothing_changes() -> None:
    assert crowded_price(2, 16) < work_price(2)
    assert crowded_price(1, 2) == 0.0
    assert stretch(2, 2) == pytest.approx(BUSY_CORES)


def shared(name: str, cores: int) -> NodeCapabilities:
    return replace(node(name, *BROWSERS), machine="the machine", cores=cores)


def placed(cores: int) -> PlacementEngine:
    """Three browsers with eight models each, on two nodes of one machine."""
    sessions = [(b, "wasm", f"{b}-{i}") for b in BROWSERS for i in range(8)]
    history = History(
        runs={s: sure(0.1) for s in sessions},
        loads={s: sure(0.5) for s in sessions},
        launches={b: sure(3.0) for b in BROWSERS},
    )
    made = engine(shared("n1", cores), shared("n2", cores), history=history)
    collect(made, *(wanting(f"{s[2]}-{i}", s[2], browsers=(s[0],)) for s in sessions for i in range(2)))
    made.improve(4000)
    return made


def test_a_browser_is_launched_once_where_two_nodes_fill_the_cores() -> None:
    used = [set(n.browser_used) | n.browsers for n in placed(cores=2).book.nodes.values()]
    assert sum(map(len, used)) == len(BROWSERS)


def test_with_cores_to_spare_the_longest_group_is_shared() -> None:
    """Without the crowd both nodes end together, at the price of a second launch."""
    nodes = list(placed(cores=32).book.nodes.values())
    assert sum(len(set(n.browser_used) | n.browsers) for n in nodes) > len(BROWSERS)
    ends = [n.busy_until + n.load for n in nodes]
    assert max(ends) - min(ends) < 1.5


def test_nodes_of_one_machine_are_equally_fast() -> None:
    """What one of them measured slower, the others were in its way."""
    made = engine(shared("n1", 2), shared("n2", 2), node("elsewhere", *BROWSERS))
    for name, factor in (("n1", 1.0), ("n2", 3.0), ("elsewhere", 1.0)):
        made.handle(LaunchObserved(at=1.0, node=name, browser="chromium", seconds=factor))
        made.handle(
            LoadObserved(
                at=2.0, node=name, browser="chromium", backend="wasm", model="m", seconds=factor, test="t"
            )
        )
    speed = made.book.costs.speed
    assert speed("n1") == speed("n2")
    assert speed("elsewhere") > speed("n1")


def test_a_second_launch_is_not_paid_to_take_over_a_little_work() -> None:
    """One node is done; the other has two seconds left in a browser that the first would have to launch."""
    history = History(
        runs={("chromium", "wasm", m): sure(1.0) for m in ("a", "b")},
        loads={("chromium", "wasm", m): sure(0.2) for m in ("a", "b")},
        launches={"chromium": sure(1.0)},
    )
    apart = engine(node("n1"), node("n2"), history=history)
    assert len(runs(collect(apart, *(wanting(f"a{i}", "a") for i in range(5))))) == 2
    crowded = engine(shared("n1", 2), shared("n2", 2), history=history)
    tests = [wanting(f"a{i}", "a", browsers=("chromium",)) for i in range(5)]
    assert len(runs(collect(crowded, *tests))) == 1


def test_machines_of_one_name_are_two() -> None:
    """Images come with a host name of their own; the kernel's boot id tells their copies apart."""
    pair = [replace(shared(name, 2), host="localhost", machine=name) for name in ("n1", "n2")]
    assert not engine(*pair).book.prices.shared
    together_ = [replace(shared(name, 2), host=name) for name in ("n1", "n2")]
    assert engine(*together_).book.prices.shared


def test_processes_of_this_machine_agree_on_which_it_is() -> None:
    code = "from pytest_browserpool import machine; print(machine.identity())"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert other.stdout.strip() == machine.identity() != ""


@pytest.mark.parametrize(("priority", "drawn"), [(1, True), (2, True), (3, False), (5, False)])
def test_only_an_urgent_test_is_worth_a_launch_beside_a_long_one(priority: int, drawn: bool) -> None:
    """It waits behind a test of half a minute, and the other node of the machine has nothing to do."""
    history = History(
        runs={("chromium", "wasm", m): sure(s) for m, s in (("long", 30.0), ("short", 1.0))},
        loads={("chromium", "wasm", m): sure(0.1) for m in ("long", "short")},
        launches={"chromium": sure(3.0)},
    )
    made = engine(shared("n1", 2), history=history, prewarm=False)
    (run,) = runs(
        collect(
            made,
            wanting("long", "long", priority=1, browsers=("chromium",)),
            wanting("short", "short", priority=priority, browsers=("chromium",)),
        )
    )
    assert run.test == "long"
    made.handle(
        RunObserved(
            at=5.0, node="n1", browser="chromium", backend="wasm", model="long", seconds=30.0, test=""
        )
    )
    moved = runs(made.handle(NodeUp(at=6.0, capabilities=shared("n2", 2))))
    assert [r.test for r in moved] == (["short"] if drawn else [])
