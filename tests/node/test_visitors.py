"""Shards in browsers that other nodes lend: whatever dies the answer is right or an error, and all is given back."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sharded_support import NativePool, Sharded
from sharding_graphs import SMALL, small_weights
from test_sharded_state import EMPTY, PROMPT, SHAPES, STEPS, steps
from waiting import until

from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.browsers.running import LENT_SLOT
from pytest_browserpool.errors import CapabilityError, Fault
from pytest_browserpool.node import away
from pytest_browserpool.node.away import Visit
from pytest_browserpool.node.exchange import Exchange
from pytest_browserpool.node.sharded_state import ShardedState
from pytest_browserpool.sharding.llm.generate import cache_links, greedy
from pytest_browserpool.sharding.llm.llama import build
from pytest_browserpool.sharding.native import NativeWhole
from pytest_browserpool.switchboard import Switchboard
from pytest_browserpool.values import BackendSupport, BrowserCapabilities, NodeCapabilities

SECONDS = 20.0
WASM = (BackendSupport(name="wasm", available=True),)
KINDS = tuple(
    BrowserCapabilities(name=n, version="1", family=n, backends=WASM) for n in ("one", "two", "three")
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("llama") / "small.onnx"
    build(SMALL, small_weights, made)
    return made


@pytest.fixture(scope="module")
def sharded(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    made = Sharded(path, tmp_path_factory.mktemp("shards"), input_shapes=SHAPES)
    # the first shard at home, the others with a lender
    made.made = made.cut(tmp_path_factory.mktemp("lent"), lent={"two": "lender", "three": "lender"})
    return made


@pytest.fixture(scope="module")
def tokens(path: Path) -> list[int]:
    return greedy(NativeWhole(path).run, SMALL, PROMPT, STEPS)


class Member:
    """A node of the run: its exchange, and a native pool in the loop of the test."""

    def __init__(self, board: Switchboard, name: str, pool: NativePool, folder: Path) -> None:
        self.node_id, self.pool, self.cores, self._board = name, pool, 2, board
        self._loop = asyncio.get_running_loop()
        self.dead = False
        self.exchange = Exchange(lambda message: board.hear(name, message), folder, lambda: self)  # type: ignore
        board.joined(name, self.exchange.deliver)
        told = NodeCapabilities(node=name, memory_gib=8.0, browsers=KINDS)
        board.knows(name, told.to_plain())

    def start(self, function: Callable[[], Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(_awaited(function), self._loop)

    def call(self, function: Callable[[], Any], timeout: float) -> Any:
        return self.start(function).result(timeout)

    def die(self) -> None:
        """It says nothing any more, and the controller has seen it."""
        self.dead = True
        self.exchange.peers._send = lambda message: None
        self._board.lost(self.node_id)

    def lends_nothing(self) -> bool:
        instances = self.pool.instances
        held = [s.holders for i in instances for s in i.page.sessions.values()]
        return not (self.pool.running.lent or any(i.leases for i in instances) or any(held))


async def _awaited(function: Callable[[], Any]) -> Any:
    return await function()


class World:
    """A home, whose pool never fails, and two that lend."""

    def __init__(self, folder: Path, lender: NativePool) -> None:
        self.board = Switchboard()
        self.home = Member(self.board, "home", NativePool(), folder)
        self.lender = Member(self.board, "lender", lender, folder)
        self.other = Member(self.board, "other", NativePool(), folder)

    async def visit(self) -> Visit:
        exchange = self.home.exchange
        visit = Visit(exchange.peers, exchange.depot, "the model")
        next(await asyncio.to_thread(lambda: iter([next(visit.gather())])))
        await asyncio.to_thread(visit.reserve, {"lender": 2})
        return visit

    def end(self) -> None:
        for member in (self.home, self.lender, self.other):
            self.board.lost(member.node_id)
            member.exchange.peers.close()


def generated(
    sharded: Sharded,
    folder: Path,
    lender: NativePool,
    during: Callable[[World, int], None] = lambda world, step: None,
    **needs: Any,
) -> tuple[list[int], Any, World]:
    """Tokens of a session over home and lender, the resident and the world; ``during`` is called before each step."""

    async def once() -> tuple[list[int], Any, World]:
        world = World(folder, lender)
        visit = await world.visit()
        resident = sharded.resident(world.home.pool, visit=visit, **needs)
        try:
            await resident.place()
            state = ShardedState(resident, cache_links(SMALL), EMPTY, 4)
            found, count = list[int](), itertools.count()
            run = state.run

            async def stepped(inputs: Any) -> Any:
                during(world, next(count))
                return await run(inputs)

            state.run = stepped  # type: ignore[method-assign]
            found = await steps(state)
            await state.close()
        finally:
            resident.pin(None)
            lenders = [each for each in (world.lender, world.other) if not each.dead]
            await asyncio.to_thread(
                until,
                lambda: all(m.lends_nothing() for m in lenders),
                lambda: [(m.node_id, m.pool.running.lent) for m in lenders],
                SECONDS,
            )
            world.end()
        return found, resident, world

    return asyncio.run(once())


def nodes(resident: Any) -> list[str]:
    return [lane.seat.node for lane in resident.lanes]


def test_undisturbed(sharded: Sharded, tokens: list[int], tmp_path: Path) -> None:
    found, resident, world = generated(sharded, tmp_path, NativePool())
    assert found == tokens
    assert sorted(nodes(resident)) == ["", "lender", "lender"]
    assert {slot >= LENT_SLOT for _, slot in world.lender.pool.pages} == {True}
    assert not world.other.pool.pages
    named = [loaded.instance.node for lane in resident.lanes for loaded in lane.sessions.values()]
    assert sorted(named) == ["", "lender", "lender"]


@pytest.mark.parametrize("level", ["low", "medium", "high"])
@pytest.mark.parametrize("at", range(0, 2 * STEPS, 3))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lent_browser_that_dies(
    sharded: Sharded, tokens: list[int], tmp_path: Path, level: str, at: int, when: str
) -> None:
    found, resident, _ = generated(sharded, tmp_path, NativePool(**{when: {at}}), fault_tolerance=level)
    assert found == tokens
    assert resident.use.recoveries == 1
    assert sorted(nodes(resident)) == ["", "lender", "lender"]  # in their own browser


def test_without_tolerance_it_is_told(sharded: Sharded, tmp_path: Path) -> None:
    with pytest.raises(Fault):
        generated(sharded, tmp_path, NativePool(before={3}), fault_tolerance="none")


@pytest.mark.parametrize("level", ["low", "medium"])
@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_lender_that_dies(sharded: Sharded, tokens: list[int], tmp_path: Path, level: str, at: int) -> None:
    """What it had comes back on another node that lends."""

    def during(world: World, step: int) -> None:
        if step == at:
            world.lender.die()

    found, resident, _ = generated(sharded, tmp_path, NativePool(), during, fault_tolerance=level)
    assert found == tokens
    assert sorted(nodes(resident)) == ["", "other", "other"]


def test_files_go_along_where_the_other_machine_lacks_them(
    sharded: Sharded, tokens: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSERPOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(away, "machine", SimpleNamespace(identity=lambda: "another machine"))
    found, _, world = generated(sharded, tmp_path, NativePool())
    assert found == tokens
    mine = Cache(tmp_path / "cache").models()
    used = {key_path for i in world.lender.pool.instances for key_path in i.page.paths.values()}
    assert len(used) == 2
    assert {path.name for path in used} <= mine


def test_a_visitor_that_dies_leaves_nothing(sharded: Sharded, tmp_path: Path) -> None:
    async def once() -> None:
        world = World(tmp_path, NativePool())
        visit = await world.visit()
        resident = sharded.resident(world.home.pool, visit=visit)
        await resident.place()
        assert world.lender.pool.running.lent == 2
        assert not world.lender.lends_nothing()
        world.home.die()
        await asyncio.to_thread(
            until, world.lender.lends_nothing, lambda: world.lender.pool.running.lent, SECONDS
        )
        # and its turn to gather is over
        assert await asyncio.to_thread(world.other.exchange.peers.ask_controller("gather").result, SECONDS)
        world.end()

    asyncio.run(once())


def test_what_is_in_use_is_waited_for_and_the_last_one_stays(tmp_path: Path) -> None:
    async def once() -> None:
        world = World(tmp_path, NativePool())
        own = SimpleNamespace(leases=1, slot=0)
        world.lender.pool.pages["one", 0] = own
        world.lender.pool.pages["two", 0] = SimpleNamespace(leases=1, slot=0)
        visit = Visit(world.home.exchange.peers, world.home.exchange.depot, "the model")
        waiting = threading.Thread(target=visit.reserve, args=({"lender": 2},))
        waiting.start()
        await asyncio.sleep(0.5)
        assert waiting.is_alive()  # three browsers, two of them at work
        own.leases = 0
        await asyncio.to_thread(waiting.join, SECONDS)
        assert world.lender.pool.running.lent == 2
        other = Visit(world.home.exchange.peers, world.home.exchange.depot, "another of the same test")
        with pytest.raises(CapabilityError, match="not 1 of its 3 browsers to lend"):
            await asyncio.to_thread(other.reserve, {"lender": 1})
        world.end()

    asyncio.run(once())
