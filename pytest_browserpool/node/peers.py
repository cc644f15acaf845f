"""Requests from one node to another, through the controller: in pieces, each answered within a deadline, in any order.

The controller hands on what it does not read (``switchboard``), so this works over any link between it and its nodes,
and needs no port and no secret. A request and its answer are messages of ``browsers.protocol``, as pages get them.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from pytest_browserpool import errors
from pytest_browserpool.browsers.pieces import Assembly, messages
from pytest_browserpool.browsers.protocol import Packed, encode_parts, header_of, tensors_of
from pytest_browserpool.errors import BrowserPoolError, ConnectionLost, DeadlineExceeded
from pytest_browserpool.link import CONTROLLER, PEER

Message = dict[str, Any]
Send = Callable[[Message], object]

AHEAD = 4
"""Pieces of a megabyte under way to a node without an acknowledgement: enough for both halves of the way to be busy, and
what the scheduler has to say waits for no more than these."""

PIECE_SECONDS = 60.0
"""For the acknowledgement of a piece: a megabyte in a minute is no link to run a model over."""


@dataclass(frozen=True)
class Request:
    """What another node asks."""

    node: str
    number: int
    op: str
    args: Mapping[str, Any]
    tensors: Mapping[str, Packed]


@dataclass(frozen=True)
class Told:
    """An answer."""

    values: Mapping[str, Any]
    tensors: Mapping[str, Packed]


Asked = Future[Told]


@dataclass
class _Line:
    """The way to one node: its messages go one after the other, in pieces, a few ahead of their acknowledgements."""

    node: str
    waiting: queue.SimpleQueue[list[bytes | memoryview] | None] = field(default_factory=queue.SimpleQueue)
    permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AHEAD))
    arriving: Assembly = field(default_factory=Assembly)


class Peers:
    """This node's end. Thread-safe; ``deliver`` returns at once.

    ``served`` gets each request on execnet's receiver thread, ``lost`` the name of each node that is gone, ``shipped`` and
    ``noted`` what ``ship`` and ``note`` sent on the other side.
    """

    def __init__(self, send: Send) -> None:
        self.served: Callable[[Request], None] = self._nobody
        self.lost: list[Callable[[str], None]] = []
        self.shipped: Callable[[str, Message], None] = lambda node, message: None
        self.noted: Callable[[str, Message], None] = lambda node, note: None
        self._send = send
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[str, Asked]] = {}
        self._gone: set[str] = set()

    # -- asking -----------------------------------------------------------------------------------------------------

    def ask(
        self,
        node: str,
        op: str,
        args: Mapping[str, Any],
        tensors: Mapping[str, Packed] | None = None,
    ) -> Asked:
        """Asks ``node``; the future has its answer, or raises what it raised. ``ConnectionLost`` where it is gone."""
        number, asked = next(self._numbers), Asked()
        parts = encode_parts({"id": number, "op": op, "args": dict(args)}, tensors or {})
        with self._lock:
            gone = node in self._gone
            if not gone:
                self._asked[number] = (node, asked)
        if gone:
            asked.set_exception(_is_gone(node))
        else:
            asked.add_done_callback(lambda _: self._asked.pop(number, None))
            self._post(node, parts)
        return asked

    def ask_controller(self, what: str) -> Asked:
        """``gather`` or ``offers`` (``switchboard``); answered with ``offers``, and whether more nodes are ``coming``."""
        number, asked = next(self._numbers), Asked()
        self._asked[number] = (CONTROLLER, asked)
        asked.add_done_callback(lambda _: self._asked.pop(number, None))
        self._send({"kind": PEER, "to": CONTROLLER, "ask": what, "id": number})
        return asked

    def wait(self, asked: Asked, seconds: float, what: str) -> Told:
        """The answer, for a thread that may block.

        Raises:
            DeadlineExceeded: it did not come. BrowserPoolError: as the other node raised it.
        """
        try:
            return asked.result(seconds)
        except TimeoutError:
            asked.cancel()
            raise DeadlineExceeded(
                f"{what}: no answer within {seconds:g} s", remedy="see whether the other node is overrun"
            ) from None

    def knows_gone(self, node: str) -> bool:
        """Whether the controller has said that this node is gone."""
        return node in self._gone

    # -- answering --------------------------------------------------------------------------------------------------

    def answer(
        self, request: Request, values: Mapping[str, Any], tensors: Mapping[str, Packed] | None = None
    ) -> None:
        """What was asked."""
        self._post(request.node, encode_parts({"id": request.number, "values": dict(values)}, tensors or {}))

    def refuse(self, request: Request, error: Exception) -> None:
        """It could not be done: the error is raised on the other side as it is here."""
        if isinstance(error, BrowserPoolError):
            name = next(k.__name__ for k in type(error).__mro__ if k.__module__ == errors.__name__)
            told = [name, error.what, error.where, error.remedy]
        else:
            told = ["BrowserPoolError", f"{type(error).__name__}: {error}", None, "report this"]
        self._post(request.node, encode_parts({"id": request.number, "error": told}, {}))

    def ship(self, node: str, message: Message) -> None:
        """A message of ``models.shipping``, which bounds by itself what is under way."""
        self._send({"kind": PEER, "to": node, "ship": message})

    def note(self, node: str, note: Message) -> None:
        """Something small that has no answer, and goes past all that waits."""
        self._send({"kind": PEER, "to": node, "note": note})

    # -- the controller's messages ----------------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """From the controller, on execnet's receiver thread: pieces, acknowledgements, and who is gone."""
        if "gone" in message:
            self._is_gone(message["gone"])
            return
        node = message["from"]
        if node == CONTROLLER:
            told = {name: message[name] for name in ("offers", "coming")}
            self._told(message["id"], Told(told, {}))
            return
        line = self._line(node)
        if "ack" in message:
            line.permits.release()
        elif "ship" in message:
            self.shipped(node, message["ship"])
        elif "note" in message:
            self.noted(node, message["note"])
        else:
            if message["counted"]:  # at once, past what waits for such a permit on this side
                self._send({"kind": PEER, "to": node, "ack": True})
            whole = line.arriving.take(message["piece"])
            if whole is not None:
                self._take(node, whole)

    def _take(self, node: str, whole: bytes | bytearray) -> None:
        header, start = header_of(whole)
        tensors = tensors_of(header, memoryview(whole), start)
        if "op" in header:
            self.served(Request(node, header["id"], header["op"], header["args"], tensors))
            return
        if "error" in header:
            name, what, where, remedy = header["error"]
            place = f"{where} (node {node})" if where else f"node {node}"
            self._told(header["id"], getattr(errors, name)(what, where=place, remedy=remedy))
        else:
            self._told(header["id"], Told(header["values"], tensors))

    def _told(self, number: int, outcome: Told | BrowserPoolError) -> None:
        _, asked = self._asked.get(number, ("", None))
        if asked is None or not asked.set_running_or_notify_cancel():
            return  # who asked has given up
        if isinstance(outcome, Told):
            asked.set_result(outcome)
        else:
            asked.set_exception(outcome)

    def _is_gone(self, node: str) -> None:
        with self._lock:
            self._gone.add(node)
            line = self._lines.pop(node, None)
            waiting = [asked for where, asked in self._asked.values() if where == node]
        if line is not None:
            line.waiting.put(None)
            line.permits.release()
        for asked in waiting:
            if asked.set_running_or_notify_cancel():
                asked.set_exception(_is_gone(node))
        for tell in self.lost:
            tell(node)

    def _nobody(self, request: Request) -> None:
        self.refuse(request, BrowserPoolError(f"this node serves no {request.op!r}"))

    # -- sending ----------------------------------------------------------------------------------------------------

    def _post(self, node: str, parts: list[bytes | memoryview]) -> None:
        self._line(node).waiting.put(parts)

    def _line(self, node: str) -> _Line:
        with self._lock:
            line = self._lines.get(node)
            if line is None:
                line = self._lines[node] = _Line(node)
                # a thread each: writing to the controller may block, which the loop must not; nor one node for another
                threading.Thread(
                    target=self._carry, args=(line,), name=f"browserpool-to-{node}", daemon=True
                ).start()
            return line

    def _carry(self, line: _Line) -> None:
        while (parts := line.waiting.get()) is not None:
            if not self._carried(line, parts):
                return

    def _carried(self, line: _Line, parts: list[bytes | memoryview]) -> bool:
        for number, piece in enumerate(_pieces(parts)):
            counted = number > 0  # an announcement, or a message of one piece, is not worth an answer
            if counted and not line.permits.acquire(timeout=PIECE_SECONDS):
                self._is_gone(line.node)
                return False
            if line.node in self._gone:
                return False
            self._send({"kind": PEER, "to": line.node, "piece": piece, "counted": counted})
        return True

    def close(self) -> None:
        """No more is sent."""
        with self._lock:
            lines, self._lines = list(self._lines.values()), {}
        for line in lines:
            with contextlib.suppress(Exception):
                line.waiting.put(None)


def _pieces(parts: list[bytes | memoryview]) -> Iterator[bytes]:
    for piece in messages(parts):
        yield piece if isinstance(piece, bytes) else bytes(piece)  # execnet takes no views


def _is_gone(node: str) -> ConnectionLost:
    return ConnectionLost(f"node {node} is gone")
