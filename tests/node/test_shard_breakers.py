"""The circuit breaker and models over several browsers: what their faults count for, and where their shards then go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharded_support import NativePool, Sharded
from sharding_graphs import two_in_three_out

from pytest_browserpool.errors import Fault
from pytest_browserpool.node.cutting import Seat, seats
from pytest_browserpool.node.shard_breakers import ShardBreakers
from pytest_browserpool.recovery.breaker import Breakers, Circuit
from pytest_browserpool.values import BackendSupport, BrowserCapabilities, ModelNeeds

INPUTS = {name: np.ones((3, 16), np.float32) for name in ("a", "b")}
SHAPES = {"a": (3, 16), "b": (3, 16)}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    folder: Path = tmp_path_factory.mktemp("shards")
    path = folder / "model.onnx"
    path.write_bytes(two_in_three_out().SerializeToString())
    return Sharded(path, folder, shards=2, input_shapes=SHAPES)


Steps = list[tuple[str, list[dict[str, Any]]]]


def requests(sharded: Sharded, pool: Any, breakers: Breakers, count: int, **needs: Any) -> Steps:
    """That many requests, one after the other, and what was told of faults: each outcome and its steps."""
    told: Steps = []

    def tell(resident: Any, fault: Any, steps: Any, outcome: str, ms: Any, where: Any) -> None:
        told.append((outcome, steps))

    async def run() -> None:
        resident = sharded.resident(pool, tell, breakers=breakers, **needs)
        await resident.place()
        for _ in range(count):
            try:
                await resident.run(INPUTS)
            except Fault:
                assert resident.needs.fault_tolerance == "none"

    asyncio.run(run())
    return told


def open_now(breakers: Breakers, *circuits: str, faults: int = 5) -> None:
    now = time.monotonic()
    for circuit in circuits:
        for _ in range(faults):
            breakers.of(circuit).met(now, now, ok=False)


def test_a_request_without_a_fault_starts_the_count_of_its_browsers_anew(sharded: Sharded) -> None:
    breakers = Breakers()
    open_now(breakers, "one", "two", "elsewhere", faults=4)
    assert requests(sharded, NativePool(), breakers, 1) == []
    taken = {seat.browser for seat in sharded.made.seats}
    assert {name: breakers.of(name).failures for name in ("one", "two", "three", "elsewhere")} == {
        **{name: 0 if name in taken else 4 for name in ("one", "two")},
        "three": 0,
        "elsewhere": 4,
    }


def test_a_request_that_met_a_fault_in_a_browser_is_no_success_of_it(sharded: Sharded) -> None:
    """One fault each in five requests: the fifth opens the breaker, and the shard moves to the browser that is left."""
    breakers, first = Breakers(), sharded.made.seats[0].browser
    pool = NativePool(before={0, 3, 6, 9, 12})  # two runs a request, and one again: always the first shard
    told = requests(sharded, pool, breakers, 5)
    assert [outcome for outcome, _ in told] == ["recovered"] * 5
    assert [[step["action"] for step in steps] for _, steps in told] == [["reload shard"]] * 4 + [
        ["move shard"]
    ]
    assert breakers.of(first).circuit is Circuit.OPEN
    (other,) = {"one", "two", "three"} - {seat.browser for seat in sharded.made.seats}
    assert told[-1][1][0]["browser"] == other
    assert breakers.of(sharded.made.seats[1].browser).pristine


def test_one_crash_that_several_requests_meet_counts_once(sharded: Sharded) -> None:
    breakers, first = Breakers(), sharded.made.seats[0].browser

    async def run() -> None:
        resident = sharded.resident(NativePool(before={0}), breakers=breakers)
        await resident.place()
        await asyncio.gather(*(resident.run(INPUTS) for _ in range(4)))

    asyncio.run(run())
    assert breakers.of(first).failures == 1, "and those that began before the fault are no success either"


def test_a_fault_that_is_not_recovered_from_counts_once_and_is_told(sharded: Sharded) -> None:
    breakers, first = Breakers(), sharded.made.seats[0].browser
    told = requests(sharded, NativePool(before={0}), breakers, 3, fault_tolerance="none")
    assert told == [("not_retried", [])], "the second and the third request meet the same dead page"
    assert breakers.of(first).failures == 1


def test_faults_of_the_attempts_count_too(sharded: Sharded, monkeypatch: pytest.MonkeyPatch) -> None:
    breakers, first = Breakers(), sharded.made.seats[0].browser
    pool, loads = NativePool(before={0}), 0
    load: Any = pool.load

    async def moody(browser: str, *args: Any) -> Any:
        nonlocal loads
        loads += browser == first
        if browser == first and loads > 1:
            raise Fault(f"{browser} does not load")
        return await load(browser, *args)

    monkeypatch.setattr(pool, "load", moody)
    ((outcome, steps),) = requests(sharded, pool, breakers, 1)
    assert outcome == "recovered"
    assert [step["action"] for step in steps] == ["reload shard", "reload shard", "move shard"]
    assert breakers.of(first).failures == 3


def test_faults_of_first_loads_and_of_copies_count_too(
    sharded: Sharded, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (seat.browser for seat in sharded.made.seats)
    for failing, hit in (
        (1, first),
        (2, second),
        (3, second),
        (4, first),
    ):  # two shards, then the copy of each
        breakers, pool, loads = Breakers(), NativePool(), 0
        load: Any = pool.load

        async def moody(browser: str, *args: Any, load: Any = load, failing: int = failing) -> Any:
            nonlocal loads
            loads += 1
            if loads == failing:
                raise Fault(f"{browser} does not load")
            return await load(browser, *args)

        monkeypatch.setattr(pool, "load", moody)
        with contextlib.suppress(
            Fault
        ):  # a shard comes back; without its copy the model is not what was asked for
            requests(sharded, pool, breakers, 0, fault_tolerance="high")
        assert {name: breakers.of(name).failures for name in (first, second)} == {
            first: int(hit == first),
            second: int(hit == second),
        }


def test_a_model_in_a_half_open_browser_is_on_trial_until_the_test_lets_it_go(sharded: Sharded) -> None:
    breakers, first = Breakers(), sharded.made.seats[0].browser
    open_now(breakers, first)
    breakers.of(first).opened_at -= 31

    async def run() -> None:
        resident = sharded.resident(NativePool(), breakers=breakers)
        await resident.place()
        assert breakers.refusing(time.monotonic()) == {first}
        resident.pin(None)

    asyncio.run(run())
    assert breakers.refusing(time.monotonic()) == frozenset()
    assert breakers.of(first).in_flight == 0


# -- choosing ---------------------------------------------------------------------------------------------------------


def browser(name: str) -> BrowserCapabilities:
    given = tuple(BackendSupport(name=each, available=True) for each in ("webgpu", "wasm"))
    return BrowserCapabilities(name=name, version="1", family=name, backends=given)


def names(avoid: set[str], node: str = "", **needs: Any) -> list[str]:
    wanted = ModelNeeds(**{"shards": 2, "backends": ("wasm",), **needs})
    found = seats(wanted, [browser("chromium"), browser("firefox")], where="m", node=node, avoid=avoid)
    return [seat.name for seat in found]


def test_shards_do_without_a_browser_whose_breaker_is_open() -> None:
    assert names(set()) == ["chromium", "firefox"]
    assert names({"chromium"}) == ["firefox", "firefox#2"]
    assert names({"chromium", "firefox"}) == ["chromium", "firefox"], "the last candidates are never blocked"
    assert names({"chromium"}, node="gw1") == ["chromium@gw1", "firefox@gw1"], "gw1's own has not failed"
    assert names({"chromium@gw1"}, node="gw1") == ["firefox@gw1", "firefox#2@gw1"]
    own = {"chromium": ("webgpu",)}
    assert names({"chromium"}, shard_backends=own, backends=()) == ["chromium", "firefox"], (
        "named by the marker"
    )


def test_a_lost_shard_goes_through_an_open_breaker_last() -> None:
    breakers = Breakers()
    open_now(breakers, "chromium")
    known = ShardBreakers(breakers)
    here, there, lent = (Seat("chromium", 0, ()), Seat("firefox", 0, ()), Seat("chromium", 0, (), "gw1"))
    assert known.steered([here, here, there, lent]) == [there, lent, here, here]
    assert known.steered([here, here]) == [here, here]
