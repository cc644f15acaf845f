"""Between nodes, on the controller: hands their messages on, says what each has, and lets one at a time gather browsers."""

from __future__ import annotations

import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any

from pytest_browserpool.link import CONTROLLER, PEER

Message = dict[str, Any]
Send = Callable[[Message], object]


class _Way:
    """To one node: a thread writes, from the first message on, so that a node that does not read holds up nobody else."""

    def __init__(self, node: str, send: Send) -> None:
        self._node, self._send = node, send
        self._waiting: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._begun = False

    def put(self, message: Message) -> None:
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._carry, name=f"browserpool-{self._node}", daemon=True).start()
        self._waiting.put(message)

    def end(self) -> None:
        self._waiting.put(None)

    def _carry(self) -> None:
        while (message := self._waiting.get()) is not None:
            self._send(message)


class Switchboard:
    """``hear`` returns at once, on any thread. What waits to be written is bounded by what senders may have under way
    (``node.peers.AHEAD``).

    A test that wants browsers of several nodes holds some while it waits for others. Two such tests could wait for each
    other for ever, so one node at a time is let to ``gather``; the others wait for it in the order they came.
    """

    def __init__(self) -> None:
        self.expected = 0
        """Nodes that the run is to have: of those that are lost xdist begins others."""
        self._lock = threading.Lock()
        self._ways: dict[str, _Way] = {}
        self._met: defaultdict[str, set[str]] = defaultdict(set)
        """Node → those that it has exchanged messages with."""
        self._offers: dict[str, Mapping[str, Any]] = {}
        self._gathering = ""
        self._times = 0
        self._waiting: deque[tuple[str, int]] = deque()

    def joined(self, node: str, send: Send) -> None:
        """A node's channel is open."""
        with self._lock:
            self._ways[node] = _Way(node, send)

    def knows(self, node: str, capabilities: Mapping[str, Any]) -> None:
        """What a node has, as it said itself."""
        with self._lock:
            self._offers[node] = {**capabilities, "cached_models": []}  # nobody asks for these

    def lost(self, node: str) -> None:
        """A node is gone, however: those that it had to do with hear of it, and what it held is free."""
        with self._lock:
            way = self._ways.pop(node, None)
            self._offers.pop(node, None)
            if way is not None:
                way.end()
            self._waiting = deque(each for each in self._waiting if each[0] != node)
            if self._gathering == node:
                self._times = 0
                self._next()
            for other in self._met.pop(node, ()):
                self._met[other].discard(node)
                if other in self._ways:
                    self._ways[other].put({"kind": PEER, "gone": node})

    def hear(self, node: str, message: Message) -> None:
        """From ``node``."""
        to = message["to"]
        with self._lock:
            if to == CONTROLLER and "note" in message:
                self._gathered(node)
            elif to == CONTROLLER:
                self._asked(node, message["ask"], message["id"])
            elif to in self._ways:
                self._met[node].add(to)
                self._met[to].add(node)
                self._ways[to].put({**message, "from": node})
            elif node in self._ways:
                self._ways[node].put({"kind": PEER, "gone": to})

    def _asked(self, node: str, what: str, number: int) -> None:
        if what == "offers":
            self._tell(node, number)
        elif self._gathering in ("", node):  # a test may have several such models
            self._let(node, number)
        else:
            self._waiting.append((node, number))

    def _gathered(self, node: str) -> None:
        """A node has no more use for what it gathered, or waits no more to gather."""
        given_up = next((each for each in self._waiting if each[0] == node), None)
        if given_up is not None:
            self._waiting.remove(given_up)
        elif self._gathering == node:
            self._times -= 1
            if not self._times:
                self._next()

    def _let(self, node: str, number: int) -> None:
        self._gathering = node
        self._times += 1
        self._tell(node, number)

    def _next(self) -> None:
        self._gathering = ""
        if self._waiting:
            self._let(*self._waiting.popleft())

    def _tell(self, node: str, number: int) -> None:
        offers = [offer for other, offer in self._offers.items() if other != node and other in self._ways]
        coming = self.expected > len(self._offers)
        if node in self._ways:
            self._ways[node].put(
                {"kind": PEER, "from": CONTROLLER, "id": number, "offers": offers, "coming": coming}
            )
