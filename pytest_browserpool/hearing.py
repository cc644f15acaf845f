"""What nodes say, on the controller: each message goes onto the record, to the scheduler or to the live view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_browserpool import link
from pytest_browserpool.link import Message
from pytest_browserpool.scheduler import placement_event
from pytest_browserpool.values import ModelNeeds, NodeCapabilities

if TYPE_CHECKING:
    from pytest_browserpool.alone import AloneView
    from pytest_browserpool.ledger import Ledger
    from pytest_browserpool.observer import Observer
    from pytest_browserpool.scheduler import BrowserPoolScheduling


class Hearing:
    """Call it on the main thread, between xdist's own events; only ``from_here`` may come from any thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._scheduler: BrowserPoolScheduling | None = None
        self._observer: Observer | None = None
        self._alone: AloneView | None = None
        self.proven: set[Any] = set()
        """Nodes that told what they have."""
        self.troubles: dict[str, str] = {}
        """Node → why it has no browser at all."""

    def attach(self, scheduler: BrowserPoolScheduling, observer: Observer) -> None:
        """Our scheduler is in charge of the run: it and the live view hear what concerns them from now on."""
        self._scheduler, self._observer = scheduler, observer

    def show(self, view: AloneView) -> None:
        """This process runs the tests itself: what it begins to do is shown there."""
        self._alone = view

    def from_here(self, message: Message) -> None:
        """From the node's side in this same process."""
        for one in link.each_of(message):
            if not self._note("main", one) and one["kind"] == "doing" and self._alone is not None:
                self._alone.hears(one)

    def from_node(self, node: Any, message: Message) -> None:
        """From one of xdist's nodes."""
        for one in link.each_of(message):
            self._hear(node, one)

    def _note(self, name: str, message: Message) -> bool:
        """Puts on record what is for the record only; whether it was."""
        kind = message["kind"]
        if kind == "record":
            self._ledger.row(message["table"], message["row"])
        elif kind == "beat":
            self._ledger.beat(name, message)
        elif kind == "journal":
            self._ledger.journal(name, message["entry"])
        else:
            return False
        return True

    def _hear(self, node: Any, message: Message) -> None:
        kind, name = message["kind"], node.gateway.id
        if self._note(name, message):
            return
        if kind == "capabilities":
            capabilities = NodeCapabilities.from_plain(message["value"])
            self.proven.add(node)
            self._ledger.node_up(name, python=message["python"], capabilities=capabilities)
            self.troubles[name] = message["trouble"]
            if self._scheduler is not None:
                self._scheduler.capabilities(node, capabilities)
        elif self._scheduler is None:
            return
        elif kind == "needs":
            needs = [ModelNeeds.from_plain(plain) for plain in message["needs"]]
            self._scheduler.needs(
                node, {index: needs[number] for index, number in message["of_item"].items()}
            )
        elif kind == "doing":
            if self._observer is not None:
                self._observer.hears(name, message)
        elif kind == "started":
            self._scheduler.started(node, message["index"])
        elif kind == "event":
            self._scheduler.hear(placement_event(message["event"], message["fields"], node=name))
