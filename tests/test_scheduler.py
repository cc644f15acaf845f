"""The adapter between xdist and the real placement engine, driven as xdist drives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_browserpool.placement.engine import PlacementEngine
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.scheduler import BrowserPoolScheduling, keys_of
from pytest_browserpool.values import BackendSupport, BrowserCapabilities, ModelNeeds, NodeCapabilities


@dataclass(eq=False)
class Gateway:
    id: str


@dataclass(eq=False)
class Worker:
    """Stands for xdist's WorkerController: what is sent to it is kept; a broken one gets nothing."""

    name: str
    sent: list[int] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    shutting_down: bool = False
    broken: bool = False

    @property
    def gateway(self) -> Gateway:
        return Gateway(self.name)

    def shutdown(self) -> None:
        self.shutting_down = True


@dataclass
class Sink:
    unrun: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lost: dict[str, tuple[str, ...]] = field(default_factory=dict)
    runs: list[Any] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    ends_run: bool = False
    replacing: bool | None = True
    again: list[str] = field(default_factory=list)
    scheduler: BrowserPoolScheduling | None = None

    def tell(self, node: Any, message: dict[str, Any]) -> None:
        node.told.append(message)
        if message["kind"] == "run" and not node.broken:
            node.sent.append(message["index"])

    def decided(self, command: Any) -> None:
        self.runs.append(command)

    def warn(self, line: str) -> None:
        self.warned.append(line)

    def unrunnable(self, test: str, needs: Any, reasons: Sequence[str]) -> None:
        self.unrun[test] = tuple(reasons)

    def abandoned(self, test: str, nodes: Sequence[str], node: Any) -> None:
        self.lost[test] = tuple(nodes)
        if test in self.again:
            self.again.remove(test)
            assert self.scheduler is not None
            self.scheduler.mark_test_pending(test)

    def stopping(self) -> bool:
        return self.ends_run

    def replaces(self, node: Any) -> bool | None:
        return self.replacing


class World:
    """A scheduler with its nodes and a clock that the test moves."""

    def __init__(self, nodes: int) -> None:
        self.now = 0.0
        self.sink = Sink()
        self.engine = PlacementEngine(EngineConfig(expected_nodes=nodes))
        self.scheduler = BrowserPoolScheduling(
            None, nodes=nodes, handle=self.engine.handle, sink=self.sink, clock=lambda: self.now
        )
        self.sink.scheduler = self.scheduler

    def node(
        self,
        name: str,
        tests: Sequence[str],
        needs: dict[int, ModelNeeds] | None = None,
        browsers: Sequence[str] = (),
    ) -> Worker:
        """A node comes up, as xdist tells it: ready, our messages, its collection, schedule."""
        worker: Any = Worker(name)
        self.scheduler.add_node(worker)
        self.scheduler.needs(worker, needs or {})
        self.scheduler.capabilities(worker, having(name, browsers))
        self.scheduler.add_node_collection(worker, tests)
        if self.scheduler.collection_is_completed:
            self.scheduler.schedule()
        assert isinstance(worker, Worker)
        return worker

    def finish(self, worker: Any, seconds: float = 1.0) -> str:
        index = worker.sent.pop(0)
        self.now += seconds
        name = self.scheduler.holds(worker)
        self.scheduler.mark_test_complete(worker, index, seconds)
        assert name is not None
        return name


def having(name: str, browsers: Sequence[str]) -> NodeCapabilities:
    wasm = (BackendSupport(name="wasm", available=True),)
    return NodeCapabilities(
        node=name,
        memory_gib=8.0,
        browsers=tuple(BrowserCapabilities(name=b, family=b, version="1", backends=wasm) for b in browsers),
    )


def test_nothing_runs_before_every_node_has_collected() -> None:
    world = World(2)
    first = world.node("gw0", ["a", "b"])
    assert not world.scheduler.collection_is_completed
    assert first.sent == []
    second = world.node("gw1", ["a", "b"])
    assert sorted(first.sent + second.sent) == [0, 1]


def test_a_node_holds_one_test_at_a_time_and_all_run_once() -> None:
    tests = [f"t{i}" for i in range(20)]
    world = World(2)
    nodes: list[Any] = [world.node("gw0", tests), world.node("gw1", tests)]
    done = []
    while not world.scheduler.tests_finished:
        assert all(len(node.sent) <= 1 for node in nodes)
        done.append(world.finish(max(nodes, key=lambda node: len(node.sent))))
    assert sorted(done) == sorted(tests)
    assert all(node.shutting_down for node in nodes)
    assert not world.scheduler.has_pending


def test_a_test_goes_where_its_browser_is_and_is_told_of_it() -> None:
    world = World(2)
    needs = {
        0: ModelNeeds(source="m", browsers=("firefox",)),
        1: ModelNeeds(source="m", browsers=("chrome",)),
    }
    first: Any = world.node("gw0", ["fox", "chrome"], needs, ["chrome"])
    second: Any = world.node("gw1", ["fox", "chrome"], needs, ["firefox"])
    assert (first.sent, second.sent) == ([1], [0])
    runs = [message for message in second.told if message["kind"] == "run"]
    assert runs == [{"kind": "run", "index": 0, "browser": "firefox", "backend": "wasm"}]


def test_what_no_node_can_run_is_told_once_with_a_reason_per_node() -> None:
    world = World(2)
    needs = {0: ModelNeeds(source="m", browsers=("edge",))}
    world.node("gw0", ["edge"], needs, ["chrome"])
    world.node("gw1", ["edge"], needs, [])
    assert list(world.sink.unrun) == ["edge"]
    assert len(world.sink.unrun["edge"]) == 2
    assert world.scheduler.tests_finished


def test_a_lost_nodes_test_runs_elsewhere_once_then_is_abandoned() -> None:
    world = World(2)
    tests = ["a", "b"]
    first: Any = world.node("gw0", tests)
    second: Any = world.node("gw1", tests)
    lost = world.scheduler.holds(first)
    assert lost is not None
    world.finish(second)
    assert world.scheduler.remove_node(first) is None
    assert world.scheduler.holds(second) == lost
    world.scheduler.remove_node(second)
    assert world.sink.lost == {lost: ("gw0", "gw1")}
    assert world.scheduler.tests_finished


def test_an_abandoned_test_may_be_asked_for_once_more() -> None:
    world = World(1)
    world.sink.again = ["a"]
    for name in ("gw0", "gw1"):
        node: Any = world.node(name, ["a"])
        assert node.sent == [0]
        world.scheduler.remove_node(node)
    assert world.sink.lost == {"a": ("gw0", "gw1")}
    assert not world.scheduler.tests_finished
    third: Any = world.node("gw2", ["a"])
    assert third.sent == [0]
    assert world.finish(third) == "a"
    assert world.scheduler.tests_finished


def test_an_unknown_node_raises_what_xdist_expects() -> None:
    world = World(1)
    unknown: Any = Worker("gw9")
    with pytest.raises(KeyError):
        world.scheduler.remove_node(unknown)


def test_a_broken_pipe_is_left_to_xdist() -> None:
    world = World(1)
    node: Any = Worker("gw0", broken=True)
    world.scheduler.add_node(node)
    world.scheduler.add_node_collection(node, ["a"])
    world.scheduler.schedule()
    assert world.scheduler.unreported == ["a"]
    world.scheduler.remove_node(node)
    again: Any = world.node("gw1", ["a"])
    assert again.sent == [0]


def test_nothing_is_sent_once_the_run_is_ending() -> None:
    world = World(1)
    node: Any = world.node("gw0", ["a", "b", "c"])
    world.sink.ends_run = True
    world.finish(node)
    assert node.sent == []
    assert len(world.scheduler.unreported) == 2


def test_a_loss_that_ends_the_run_leaves_its_tests_to_be_reported() -> None:
    world = World(1)
    node: Any = world.node("gw0", ["a", "b"])
    world.sink.replacing = None
    world.scheduler.remove_node(node)
    assert sorted(world.scheduler.unreported) == ["a", "b"]
    assert world.sink.unrun == {}


def test_nodes_may_collect_different_tests_in_another_order() -> None:
    world = World(2)
    first: Any = world.node("gw0", ["both", "only0"])
    second: Any = world.node("gw1", ["only1", "x", "both"])
    ran: dict[str, str] = {}
    while not world.scheduler.tests_finished:
        node = first if first.sent else second
        index = node.sent[0]
        name = world.finish(node)
        collection = ["both", "only0"] if node is first else ["only1", "x", "both"]
        assert collection[index] == name
        ran[name] = node.name
    assert set(ran) == {"both", "only0", "only1", "x"}
    assert ran["only0"] == "gw0"
    assert ran["only1"] == ran["x"] == "gw1"


def test_the_same_node_id_twice_is_two_tests() -> None:
    assert keys_of(["a", "b", "a"]) == ["a", "b", "a (2)"]
    world = World(1)
    node: Any = world.node("gw0", ["a", "a"])
    indices = []
    while not world.scheduler.tests_finished:
        indices.append(node.sent[0])
        assert world.finish(node) == "a"
    assert sorted(indices) == [0, 1]


def test_keys_that_contradict_each_other_are_told_and_the_least_holds() -> None:
    world = World(2)
    limits = [("gpu", 3), ("gpu", 1), ("disk", 2), ("disk", 2)]
    needs = {i: ModelNeeds(concurrency_key=key) for i, key in enumerate(limits)}
    nodes = [world.node(name, ["a", "b", "c", "d"], needs) for name in ("gw0", "gw1")]
    assert len(world.sink.warned) == 1
    assert "concurrency_key 'gpu' is given with 1 and 3 at once" in world.sink.warned[0]
    while any(node.sent for node in nodes):
        running = {limits[index][0] for node in nodes for index in node.sent[:1]}
        assert running != {"gpu"} or sum(bool(node.sent) for node in nodes) == 1
        world.finish(next(node for node in nodes if node.sent))
