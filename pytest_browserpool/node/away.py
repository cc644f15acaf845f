"""Browsers that other nodes lend to a model of this one's test: pages and sessions there, used like those here."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pytest_browserpool import machine
from pytest_browserpool.browsers.channel import PageChannel
from pytest_browserpool.browsers.instance import BrowserInstance
from pytest_browserpool.browsers.kinds import Builds, PageKind
from pytest_browserpool.browsers.page import RuntimePage, Session, SessionKey
from pytest_browserpool.browsers.pool import Loaded, ModelContent
from pytest_browserpool.browsers.post import Reply
from pytest_browserpool.browsers.protocol import Array, Packed, pack
from pytest_browserpool.errors import ConnectionLost, Fault
from pytest_browserpool.link import CONTROLLER
from pytest_browserpool.models.shipping import Depot
from pytest_browserpool.node.peers import Peers, Told
from pytest_browserpool.values import NodeCapabilities

if TYPE_CHECKING:
    from pytest_browserpool.browsers.launch import BrowserProcess
    from pytest_browserpool.browsers.serve import Server
    from pytest_browserpool.node.cutting import Seat

T = TypeVar("T")

LINK_GRACE = 15.0
"""Seconds beyond twice a page's own deadline: the lending node keeps that, and says what it saw; tensors may take as long
again on their way, and only a link that stands still is found out by this one."""

GATHER_SECONDS = 600.0
"""For the turn to gather browsers of several nodes: another test's model may have them until its end."""

RESERVE_SECONDS = 300.0
"""For a node to have browsers free: what its own test uses, it uses until its end."""

COMING_SECONDS = 60.0
"""For another node to come up in place of a lost one: two to five are usual, ten times that where a machine is overrun."""

LOOK_SECONDS = 0.5
"""Between looks whether it has."""

OFFERS_SECONDS = 30.0
"""For the controller to say what nodes there are: it has it at hand."""

SHIP_SECONDS = 600.0
"""For a shard's file to reach the other node, beyond what loading it may take: 10 GB at 20 MB/s."""

_visits = itertools.count(1)


@dataclass(frozen=True)
class _Installed:
    name: str
    family: str


@dataclass(frozen=True)
class _Process:
    """What the lending node says of its browser."""

    installed: _Installed
    version: str
    token: str
    connected: bool = True


class GuestInstance(BrowserInstance):
    """A browser of another node, as far as who holds a session there cares: the lending node launches and ends it."""

    def __init__(self, node: str, told: Mapping[str, Any]) -> None:
        process = _Process(_Installed(told["name"], told["family"]), told["version"], told["instance"])
        nothing = cast("Server", None)  # no page is opened from here
        super().__init__(
            cast("BrowserProcess", process), nothing, {}, Builds(0), lambda instance, session: None
        )
        self.node = node


class GuestChannel(PageChannel):
    """Commands to a page of another node. What fails there fails here with the same error."""

    def __init__(self, peers: Peers, node: str, visit: int, page_id: str) -> None:
        super().__init__(page_id, lambda event: None)
        self._peers, self._node, self._visit = peers, node, visit

    @property
    def connected(self) -> bool:
        return self.broken is None and not self._peers.knows_gone(self._node)

    async def call(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Array | Packed] | None = None,
        *,
        timeout: float,
        packed: bool = False,
    ) -> Reply:
        """See ``PageChannel.call``; what onnxruntime-web says is understood by the lending node already."""
        if self.broken is not None:
            raise self.broken
        self.calls += 1
        sent = {n: t if isinstance(t, Packed) else pack(t) for n, t in (tensors or {}).items()}
        asked = {"visit": self._visit, "page": self.page_id, "op": op, "args": args or {}, "timeout": timeout}
        told = await within(
            self._peers.ask(self._node, "page", asked, sent), timeout * 2 + LINK_GRACE, self._silent
        )
        if packed:
            return Reply(told.values, packed=told.tensors)
        return Reply(told.values, {name: tensor.array() for name, tensor in told.tensors.items()})

    def _silent(self, seconds: float) -> Fault:
        fault = ConnectionLost(f"node {self._node} did not answer for its page within {seconds:g} s")
        self.fail(fault)
        return fault


async def within(asked: Future[Told], seconds: float, late: Callable[[float], Exception]) -> Told:
    """The answer, in the loop; what ``late`` makes of the seconds is raised where there is none."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(asked)
    except TimeoutError:
        raise late(seconds) from None


@dataclass
class Visit:
    """One model's stay on other nodes. Made and ended by the test's thread, used in the node's loop."""

    peers: Peers
    depot: Depot
    label: str
    seats: dict[str, int] = field(default_factory=dict)
    """Node → browsers that it keeps for this model."""
    number: int = field(default_factory=lambda: next(_visits))
    _instances: dict[str, GuestInstance] = field(default_factory=dict)
    _pages: dict[str, RuntimePage] = field(default_factory=dict)
    _turn: bool = False

    # -- gathering, by the test's thread ----------------------------------------------------------------------------

    def gather(self) -> Iterator[list[NodeCapabilities]]:
        """What other nodes have, once it is this node's turn to take of it; again and again while more nodes are to come,
        in place of lost ones.

        Raises:
            DeadlineExceeded: others gathered for too long.
        """
        self._turn, until = True, time.monotonic() + COMING_SECONDS
        asked = self.peers.ask_controller("gather")
        told = self.peers.wait(asked, GATHER_SECONDS, f"{self.label} waits for its turn to gather browsers")
        yield _offers(told)
        while told.values["coming"] and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            told = self.peers.wait(self.peers.ask_controller("offers"), OFFERS_SECONDS, "the controller")
            yield _offers(told)

    def reserve(self, lent: Mapping[str, int]) -> None:
        """Has each node keep so many browsers, from now until ``end``; waits for those that are in use there.

        Raises:
            CapabilityError: a node has them not free in time. DeadlineExceeded, ConnectionLost: it does not answer.
        """
        waiting = []
        for node, count in {**dict.fromkeys(self.seats, 0), **lent}.items():
            if self.seats.get(node) != count:
                waiting.append((node, self._ask_for(node, count)))
        for node, future in waiting:
            self.peers.wait(future, RESERVE_SECONDS + LINK_GRACE, f"{self.label} asks {node} for browsers")

    def _ask_for(self, node: str, count: int) -> Future[Told]:
        self.seats[node] = count
        asked = {"visit": self.number, "seats": count, "seconds": RESERVE_SECONDS}
        return self.peers.ask(node, "reserve", asked)

    def speed(self, seat: Seat, model: str) -> float:
        """How fast the seat's browser is, as its own node knows or measures it."""
        asked = {"browser": seat.browser, "slot": seat.slot, "backends": list(seat.backends), "model": model}
        asked |= {"visit": self.number}
        future = self.peers.ask(seat.node, "speed", asked)
        told = self.peers.wait(future, RESERVE_SECONDS, f"{self.label} asks {seat.node} for its speed")
        return float(told.values["speed"])

    def learn(self, seat: Seat, backend: str, model: str, seen: float) -> None:
        """Tells the lending node what its browser showed."""
        self.peers.note(
            seat.node,
            {
                "what": "learn",
                "visit": self.number,
                "browser": seat.browser,
                "backend": backend,
                "model": model,
                "seen": seen,
            },
        )

    def end(self) -> None:
        """The nodes have their browsers back. May be called again, and by any thread."""
        seats, self.seats = self.seats, {}
        for node in seats:
            self.peers.note(node, {"what": "end", "visit": self.number})
        if self._turn:
            self._turn = False
            self.peers.note(CONTROLLER, {"what": "gathered"})

    # -- in the node's loop -----------------------------------------------------------------------------------------

    async def more(self, needed: Seat) -> list[NodeCapabilities]:
        """What other nodes have now: one may have come up in place of one that was lost."""
        asked = self.peers.ask_controller("offers")
        told = await within(asked, OFFERS_SECONDS, lambda s: ConnectionLost("the controller does not answer"))
        return [each for each in _offers(told) if each.node != needed.node]

    async def take(self, seat: Seat) -> None:
        """One further browser of a node. Raises what ``reserve`` does."""
        future = self._ask_for(seat.node, self.seats.get(seat.node, 0) + 1)
        await within(
            future, RESERVE_SECONDS + LINK_GRACE, lambda s: ConnectionLost(f"{seat.node} does not answer")
        )

    async def load(self, seat: Seat, key: SessionKey, model: ModelContent, timeout: float) -> Loaded:
        """A session there. Its file goes along where that node has not got it.

        Raises:
            Fault: browser, page, node or link failed. UsageError, RunFailed, CapabilityError: as ``Pool.load``.
        """
        files = [("", model.path), *model.external]
        told_files = [
            [name, *await asyncio.to_thread(self.depot.offer, path), str(path)] for name, path in files
        ]
        asked = {
            "visit": self.number,
            "browser": seat.browser,
            "slot": seat.slot,
            "backend": key.backend,
            "options": key.options,
            "shapes": [[name, list(dims)] for name, dims in key.shapes],
            "model": [model.sha256, model.label, model.size],
            "files": told_files,
            "machine": machine.identity(),
            "timeout": timeout,
        }
        told = await within(
            self.peers.ask(seat.node, "load", asked),
            timeout * 2 + SHIP_SECONDS,
            lambda s: ConnectionLost(f"node {seat.node} did not load a shard within {s:g} s"),
        )
        return self._loaded(seat.node, key, told.values)

    def _loaded(self, node: str, key: SessionKey, told: Mapping[str, Any]) -> Loaded:
        instance = self._instances.setdefault(told["instance"], GuestInstance(node, told))
        page = self._pages.get(told["page"])
        if page is None or page.lost is not None:
            channel = GuestChannel(self.peers, node, self.number, told["page"])
            page = self._pages[told["page"]] = RuntimePage(
                channel, PageKind(threads=told["threads"]), _no_offer
            )
            page.threads = told["threads"]
        session = page.sessions.get(key)
        if session is None:
            session = page.sessions[key] = Session(key, **told["session"])
        return Loaded(
            instance, page, session, warm=told["warm"], launch_ms=told["launch_ms"], load_ms=told["load_ms"]
        )

    async def command(self, loaded: Loaded, command: Awaitable[T]) -> T:
        """What a command to the session's page brings; one that is given up costs the page."""
        with loaded.instance.in_use():
            try:
                return await command
            except asyncio.CancelledError:
                page = loaded.page
                page.lose(ConnectionLost(f"page {page.channel.page_id}: its command was given up"))
                raise

    async def release(self, loaded: Loaded) -> None:
        """Lets a session go for real."""
        loaded.page.sessions.pop(loaded.session.key, None)
        asked = {"visit": self.number, "page": loaded.page.channel.page_id, "session": loaded.session.name}
        node = loaded.instance.node
        with_deadline = within(
            self.peers.ask(node, "release", asked),
            LINK_GRACE,
            lambda s: ConnectionLost(f"node {node} did not release a session within {s:g} s"),
        )
        try:
            await with_deadline
        except Fault as fault:  # its node frees it at the end of the visit at the latest
            loaded.page.lose(fault)


def _offers(told: Told) -> list[NodeCapabilities]:
    return [NodeCapabilities.from_plain(each) for each in told.values["offers"]]


def _no_offer(name: str, path: Any) -> str:
    raise AssertionError("files of another node's pages are offered there")


def session_told(session: Session) -> dict[str, Any]:
    """What ``Visit`` makes its own ``Session`` of."""
    plain = dataclasses.asdict(session)
    for name in ("key", "holders", "last_used"):
        del plain[name]
    return plain
