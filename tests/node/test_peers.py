"""Requests between nodes over a switchboard: large ones in pieces, answers in any order, nodes that go, turns to gather."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from waiting import until

from pytest_browserpool.browsers.pieces import PIECE
from pytest_browserpool.browsers.protocol import pack
from pytest_browserpool.errors import CapabilityError, ConnectionLost, DeadlineExceeded, PageCrashed
from pytest_browserpool.node.peers import AHEAD, Peers, Request
from pytest_browserpool.switchboard import Switchboard

SECONDS = 20.0


class Run:
    """Nodes on one switchboard. ``sent`` has what each sent that was counted against its permits."""

    def __init__(self) -> None:
        self.board = Switchboard()
        self.nodes: dict[str, Peers] = {}
        self.pieces = 0
        self.under_way = 0
        self.most_under_way = 0
        self.hold = threading.Event()
        self.hold.set()

    def join(self, name: str) -> Peers:
        peers = Peers(lambda message: self._send(name, message))
        self.nodes[name] = peers
        self.board.joined(name, lambda message: self._deliver(peers, message))
        self.board.knows(name, {"node": name})
        return peers

    def _send(self, name: str, message: dict[str, Any]) -> None:
        self.pieces += "piece" in message
        if message.get("counted"):
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        self.under_way -= "ack" in message
        self.board.hear(name, message)

    def _deliver(self, peers: Peers, message: dict[str, Any]) -> None:
        if message.get("counted"):
            assert self.hold.wait(SECONDS)
        peers.deliver(message)


@pytest.fixture
def run() -> Iterator[Run]:
    made = Run()
    yield made
    for name, peers in made.nodes.items():
        made.board.lost(name)
        peers.close()


def answering(peers: Peers, make: Callable[[Request], Any]) -> None:
    """Each request is answered on a thread of its own, with its own tensors."""

    def serve(request: Request) -> None:
        def work() -> None:
            try:
                values = make(request)
            except Exception as error:  # noqa: BLE001
                peers.refuse(request, error)
            else:
                peers.answer(request, values, request.tensors)

        threading.Thread(target=work, daemon=True).start()

    peers.served = serve


def test_tensors_of_any_size_go_and_come(run: Run) -> None:
    one, two = run.join("one"), run.join("two")
    answering(two, lambda request: {"op": request.op, "from": request.node, **request.args})
    for size in (0, 1, PIECE // 4, PIECE * 5 + 3):
        array = np.arange(size, dtype=np.float32)
        told = one.ask("two", "run", {"size": size}, {"x": pack(array)}).result(SECONDS)
        assert told.values == {"op": "run", "from": "one", "size": size}
        assert np.array_equal(told.tensors["x"].array(), array)
    assert run.most_under_way <= 2 * AHEAD  # there and back


def test_answers_come_as_they_are_ready(run: Run) -> None:
    one, two = run.join("one"), run.join("two")
    later = threading.Event()
    answering(two, lambda request: {"waited": request.op == "slow" and later.wait(SECONDS)})
    slow, quick = one.ask("two", "slow", {}), one.ask("two", "quick", {})
    assert quick.result(SECONDS).values == {"waited": False}
    assert not slow.done()
    later.set()
    assert slow.result(SECONDS).values == {"waited": True}


def test_what_is_under_way_is_bounded_and_small_words_go_past_it(run: Run) -> None:
    one, two = run.join("one"), run.join("two")
    answering(two, lambda request: {})
    run.hold.clear()
    asked = one.ask("two", "run", {}, {"x": pack(np.zeros(PIECE * 8, np.uint8))})
    until(lambda: run.under_way == AHEAD, lambda: run.under_way, SECONDS)
    noted: list[Any] = []
    one.noted = lambda node, note: noted.append((node, note))
    two.note("one", {"what": "end"})
    until(lambda: noted == [("two", {"what": "end"})], lambda: noted, SECONDS)
    assert run.under_way == AHEAD
    run.hold.set()
    assert asked.result(SECONDS).tensors["x"].nbytes == PIECE * 8


def test_an_error_is_raised_as_it_was(run: Run) -> None:
    one, two = run.join("one"), run.join("two")
    raised = [PageCrashed("gone", remedy="wait"), CapabilityError("no", where="there"), ValueError("odd")]
    answering(two, lambda request: (_ for _ in ()).throw(raised[request.args["which"]]))
    with pytest.raises(PageCrashed, match="gone") as crashed:
        one.ask("two", "run", {"which": 0}).result(SECONDS)
    assert crashed.value.where == "node two"
    with pytest.raises(CapabilityError) as refused:
        one.ask("two", "run", {"which": 1}).result(SECONDS)
    assert refused.value.where == "there (node two)"
    with pytest.raises(Exception, match="ValueError: odd"):
        one.ask("two", "run", {"which": 2}).result(SECONDS)


def test_a_node_that_goes_leaves_nobody_waiting(run: Run) -> None:
    one, two = run.join("one"), run.join("two")
    two.served = lambda request: None  # it never answers
    lost: list[str] = []
    one.lost.append(lost.append)
    asked = one.ask("two", "run", {})
    with pytest.raises(DeadlineExceeded, match="no answer"):
        one.wait(one.ask("two", "run", {}), 0.05, "a question")
    run.board.lost("two")
    with pytest.raises(ConnectionLost, match="two is gone"):
        asked.result(SECONDS)
    assert lost == ["two"]
    with pytest.raises(ConnectionLost):
        one.ask("two", "run", {}).result(SECONDS)
    with pytest.raises(ConnectionLost):  # one that never was
        one.ask("three", "run", {}).result(SECONDS)


def test_one_node_at_a_time_gathers(run: Run) -> None:
    one, two, three = run.join("one"), run.join("two"), run.join("three")
    run.board.expected = 4
    told = one.ask_controller("gather").result(SECONDS)
    assert [offer["node"] for offer in told.values["offers"]] == ["two", "three"]
    assert told.values["coming"]
    again = one.ask_controller("gather").result(SECONDS)  # a second model of the same test
    assert again.values["offers"]
    waiting, given_up, last = two.ask_controller("gather"), three.ask_controller("gather"), None
    assert one.ask_controller("offers").result(SECONDS).values["offers"]  # asked after them, answered at once
    one.note("", {"what": "gathered"})
    three.note("", {"what": "gathered"})  # waits no more
    last = three.ask_controller("gather")
    assert one.ask_controller("offers").result(SECONDS)
    assert not waiting.done()
    one.note("", {"what": "gathered"})
    assert waiting.result(SECONDS)
    assert not given_up.done()
    run.board.lost("two")  # with its turn
    assert [offer["node"] for offer in last.result(SECONDS).values["offers"]] == ["one"]
