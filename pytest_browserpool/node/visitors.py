"""What this node lends to models of other nodes' tests: browsers of their own, for as long as the test has the model."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool import machine
from pytest_browserpool.browsers.kinds import page_for
from pytest_browserpool.browsers.page import SessionKey
from pytest_browserpool.browsers.pool import Loaded, ModelContent, Pool
from pytest_browserpool.browsers.protocol import Packed, StateUse
from pytest_browserpool.browsers.running import LENT_SLOT, LOOK_SECONDS
from pytest_browserpool.errors import BrowserPoolError, CapabilityError, PageCrashed
from pytest_browserpool.models.shipping import Supplier
from pytest_browserpool.models.sources import remembered_hash
from pytest_browserpool.node import speeds
from pytest_browserpool.node.away import session_told
from pytest_browserpool.node.cutting import Seat
from pytest_browserpool.node.peers import Message, Peers, Request
from pytest_browserpool.node.reach import KEPT
from pytest_browserpool.sharding.threads import of_shard

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node

START_SECONDS = 60.0
"""For what a request does beside the pool: a thread has no other deadline."""

Visitor = tuple[str, int]
"""The node that a model's test runs on, and its number there."""


@dataclass
class _Stay:
    """What one model has here."""

    seats: int
    held: dict[tuple[str, str], Loaded] = field(default_factory=dict)
    """By page and session."""
    at_work: int = 0
    """Requests that are under way: they have a browser, whatever becomes of the visitor."""
    ended: bool = False

    def find(self, page_id: str, session: str) -> Loaded:
        loaded = self.held.get((page_id, session))
        if loaded is None:
            raise PageCrashed(f"session {session} is gone with its page")
        if loaded.page.lost is not None:
            raise loaded.page.lost
        return loaded

    def page(self, page_id: str) -> Loaded:
        """Any session of that page."""
        for (page, _), loaded in self.held.items():
            if page == page_id:
                if loaded.page.lost is not None:
                    raise loaded.page.lost
                return loaded
        raise PageCrashed(f"page {page_id} is gone")


def page_name(loaded: Loaded) -> str:
    """What the visitor calls a page."""
    return f"{loaded.instance.identity}/{loaded.page.channel.page_id}"


class Visitors:
    """Serves the requests of other nodes. ``node`` gives this one's runtime, started where it was not.

    Stays change in the node's loop alone.
    """

    def __init__(self, peers: Peers, supplier: Callable[[str], Supplier], node: Callable[[], Node]) -> None:
        self._peers, self._supplier, self._node = peers, supplier, node
        self._stays: dict[Visitor, _Stay] = {}
        self._pool: Pool | None = None
        """Set by a thread: asking the node for it may start it, for which the loop is needed."""
        peers.served = self.serve
        peers.noted = self.noted
        peers.lost.append(self.lost)

    # -- on execnet's receiver thread -------------------------------------------------------------------------------

    def serve(self, request: Request) -> None:
        """Begins what is asked, and returns at once."""
        if request.op in ("reserve", "speed"):  # the runtime may have to be started, and browsers probed
            threading.Thread(
                target=self._apart, args=(request,), name="browserpool-visitor", daemon=True
            ).start()
            return
        try:
            self._node().start(lambda: self._answered(request, self._work(request)))
        except Exception as error:  # noqa: BLE001  the run is over here; an exception would close the channel
            self._peers.refuse(request, error)

    def noted(self, home: str, note: Message) -> None:
        """``end`` of a visit, or what its requests showed of a browser's speed."""
        if note["what"] == "end":
            self._ends((home, note["visit"]))
        elif note["what"] == "learn":
            threading.Thread(target=self._learn, args=(home, note), daemon=True).start()

    def lost(self, home: str) -> None:
        """A node is gone: what its models had here is free."""
        for visitor in [visitor for visitor in list(self._stays) if visitor[0] == home]:
            self._ends(visitor)

    def _ends(self, visitor: Visitor) -> None:
        with contextlib.suppress(Exception):  # the run is over here, and all its browsers end
            self._node().start(functools.partial(self._end, visitor))

    # -- threads of their own ---------------------------------------------------------------------------------------

    def _apart(self, request: Request) -> None:
        try:
            node, args = self._node(), request.args
            pool = self._pool = node.pool
            if request.op == "reserve":
                node.call(lambda: self._reserve(request, pool), args["seconds"] + START_SECONDS)
                values: dict[str, Any] = {}
            else:
                seat = Seat(args["browser"], LENT_SLOT + args["slot"], tuple(args["backends"]))
                threads = self._threads((request.node, args["visit"]))
                values = {"speed": speeds.speed(node, seat, args["model"], threads)}
        except Exception as error:  # noqa: BLE001  it is the other node's to raise
            self._peers.refuse(request, error)
        else:
            self._peers.answer(request, values)

    def _learn(self, home: str, note: Message) -> None:
        seat = Seat(note["browser"], LENT_SLOT, (note["backend"],))
        try:
            node = self._node()
        except RuntimeError:  # the run is over here, before the word came
            return
        threads = self._threads((home, note["visit"]))
        speeds.learn(node, seat, note["backend"], note["model"], threads, note["seen"])

    def _threads(self, visitor: Visitor) -> int:
        """Of WebAssembly, for each of the visitor's pages: they share this node's cores."""
        stay = self._stays.get(visitor)
        return of_shard(self._node().cores, stay.seats if stay else 1)

    # -- in the loop ------------------------------------------------------------------------------------------------

    async def _reserve(self, request: Request, pool: Pool) -> None:
        """Keeps browsers for a visitor, once this node's own test leaves so many free.

        Raises:
            CapabilityError: it does not in time, or never will.
        """
        visitor, seats = (request.node, request.args["visit"]), request.args["seats"]
        node = self._node()
        until = time.monotonic() + request.args["seconds"]
        while True:
            others = sum(stay.seats for key, stay in self._stays.items() if key != visitor)
            most = pool.settings.max_browsers - KEPT
            own = sum(1 for i in pool.instances if i.leases and i.slot < LENT_SLOT)
            if others + seats <= most and own + others + seats <= pool.settings.max_browsers:
                break
            # what another model of the same test has, that test would wait for itself
            same = sum(s.seats for key, s in self._stays.items() if key[0] == request.node and key != visitor)
            if seats + same > most or time.monotonic() > until:
                raise CapabilityError(
                    f"{node.node_id} has not {seats} of its {pool.settings.max_browsers} browsers to lend: "
                    f"{own} are at work for its own test, {others} are lent, {KEPT} stays",
                    remedy="raise --browserpool-max-browsers, or add a node",
                )
            await asyncio.sleep(LOOK_SECONDS)
        stay = self._stays.setdefault(visitor, _Stay(seats))
        stay.seats = seats
        self._lend(pool)

    @property
    def _here(self) -> Pool:
        assert self._pool is not None, "a visitor without a reservation"
        return self._pool

    def _lend(self, pool: Pool) -> None:
        pool.running.lent = sum(stay.seats for stay in self._stays.values())

    async def _answered(self, request: Request, work: Any) -> None:
        stay = self._stays.get((request.node, request.args["visit"]))
        if stay is not None:
            stay.at_work += 1
        try:
            values, tensors = await work
        except Exception as error:  # noqa: BLE001  it is the other node's to raise
            self._peers.refuse(request, error)
        else:
            self._peers.answer(request, values, tensors)
        finally:
            if stay is not None:
                stay.at_work -= 1
                self._gone_if_ended((request.node, request.args["visit"]), stay)

    async def _work(self, request: Request) -> tuple[dict[str, Any], Mapping[str, Packed]]:
        stay = self._stays.get((request.node, request.args["visit"]))
        if stay is None or stay.ended:
            raise BrowserPoolError(
                f"{self._node().node_id} has no such visitor of {request.node}", remedy="report this"
            )
        match request.op:
            case "load":
                return await self._load(request, stay), {}
            case "page":
                return await self._command(request, stay)
            case "release":
                await self._release(request, stay)
                return {}, {}
        raise BrowserPoolError(f"no node serves {request.op!r}", remedy="use one version on all nodes")

    async def _load(self, request: Request, stay: _Stay) -> dict[str, Any]:
        pool, args = self._here, request.args
        paths = await asyncio.to_thread(self._files, request.node, args["machine"], args["files"])
        (_, path), *external = paths
        sha256, label, size = args["model"]
        threads = self._threads((request.node, args["visit"]))
        page = page_for(args["backend"], threads)
        shapes = tuple((name, tuple(dims)) for name, dims in args["shapes"])
        key = SessionKey(sha256, args["backend"], page, args["options"], shapes)
        model = ModelContent(sha256, path, label, size, tuple(external))
        loaded = await pool.load(args["browser"], key, model, args["timeout"], LENT_SLOT + args["slot"])
        if stay.ended:
            raise BrowserPoolError(f"the visit of {request.node} ended while a shard was loaded")
        name = (page_name(loaded), loaded.session.name)
        if name not in stay.held:
            stay.held[name] = loaded
            _hold(loaded, 1)
        process = loaded.instance.process
        return {
            "instance": loaded.instance.identity,
            "name": loaded.instance.name,
            "family": process.installed.family,
            "version": process.version,
            "page": page_name(loaded),
            "threads": loaded.page.threads,
            "session": session_told(loaded.session),
            "warm": loaded.warm,
            "launch_ms": loaded.launch_ms,
            "load_ms": loaded.load_ms,
        }

    def _files(self, home: str, its_machine: str, files: list[list[Any]]) -> list[tuple[str, Path]]:
        """Each file by name: the other node's own where it is this machine's too, else from there into this cache."""
        found = []
        for name, sha256, size, told in files:
            path = Path(told)
            here = its_machine == machine.identity() and path.is_file() and path.stat().st_size == size
            if not here or remembered_hash(path) != sha256:
                path = self._supplier(home).held(sha256, size).path
            found.append((name, path))
        return found

    async def _command(self, request: Request, stay: _Stay) -> tuple[dict[str, Any], Mapping[str, Packed]]:
        """One of the commands that ``RuntimePage`` has for sessions and states."""
        pool, op, args = self._here, request.args["op"], request.args["args"]
        timeout = request.args["timeout"]
        if op == "run":
            loaded = stay.find(request.args["page"], args["session"])
            use = _state_use(request.node, args["state"]) if "state" in args else None
            reply = await pool.run_packed(loaded, request.tensors, timeout, use)
            return dict(reply.values), reply.packed
        loaded = stay.page(request.args["page"])
        page, state = loaded.page, _state_name(request.node, args["state"])
        if op == "state_set":
            work = page.set_state(state, args["step"], request.tensors, timeout=timeout)
            await pool.command(loaded, work)
            return {}, {}
        if op == "state_get":
            step, slots = await pool.command(loaded, page.get_state(state, timeout=timeout))
            return {"step": step}, slots
        if op == "state_drop":
            await pool.command(loaded, page.drop_state(state, timeout=timeout))
            return {}, {}
        raise BrowserPoolError(f"no page does {op!r} for another node", remedy="use one version on all nodes")

    async def _release(self, request: Request, stay: _Stay) -> None:
        loaded = stay.held.pop((request.args["page"], request.args["session"]), None)
        if loaded is not None:
            _hold(loaded, -1)
            if loaded.page.lost is None and not loaded.session.holders:
                await self._here.release(loaded)

    async def _end(self, visitor: Visitor) -> None:
        """The visitor has nothing here any more. Its sessions stay warm for the next, as long as there is room."""
        stay = self._stays.get(visitor)
        if stay is None or stay.ended:
            return
        stay.ended = True
        for loaded in stay.held.values():
            _hold(loaded, -1)
        self._gone_if_ended(visitor, stay)

    def _gone_if_ended(self, visitor: Visitor, stay: _Stay) -> None:
        if stay.ended and not stay.at_work and self._stays.get(visitor) is stay:
            del self._stays[visitor]
            self._lend(self._here)


def _hold(loaded: Loaded, change: int) -> None:
    loaded.instance.leases += change
    loaded.session.holders += change


def _state_name(home: str, name: str) -> str:
    """Numbers of states are each node's own."""
    return f"{home}/{name}"


def _state_use(home: str, told: Mapping[str, Any]) -> StateUse:
    return StateUse(_state_name(home, told["name"]), told["step"], told["feed"], told["keep"], told["next"])
