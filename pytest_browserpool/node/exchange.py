"""All that one node has to do with the others: the way to them, files that go along, and what it lends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_browserpool.models.shipping import Depot, Message, Send, Supplier
from pytest_browserpool.node.peers import Peers
from pytest_browserpool.node.visitors import Visitors

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node


class Exchange:
    """``send`` reaches the controller, from any thread; ``node`` gives this node's runtime."""

    def __init__(self, send: Send, rootdir: Path, node: Callable[[], Node]) -> None:
        self.peers, self.depot = Peers(send), Depot(rootdir)
        self._rootdir = rootdir
        self._suppliers: dict[str, Supplier] = {}
        self.peers.shipped = self._shipped
        self.visitors = Visitors(self.peers, self._supplier, node)
        self.deliver = self.peers.deliver

    def _supplier(self, home: str) -> Supplier:
        """What brings files from that node into this host's cache."""
        if home not in self._suppliers:
            self._suppliers[home] = Supplier(lambda message: self.peers.ship(home, message), self._rootdir)
        return self._suppliers[home]

    def _shipped(self, other: str, message: Message) -> None:
        # files that were offered, and no sources: those are the controller's
        if message["kind"] in ("send", "ack"):
            self.depot.hear(other, message, lambda told: self.peers.ship(other, told))
        else:
            self._supplier(other).deliver(message)
