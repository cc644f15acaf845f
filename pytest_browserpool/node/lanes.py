"""The shards of one model in their browsers: sessions loaded, kept while the test needs them, and brought back when lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.kinds import page_for
from pytest_browserpool.browsers.page import SessionKey
from pytest_browserpool.browsers.pool import Loaded, ModelContent
from pytest_browserpool.errors import (
    BackendRefused,
    BrowserPoolError,
    DeadlineExceeded,
    Fault,
    PageHung,
    UnsupportedOperator,
)
from pytest_browserpool.node.cutting import Cut, Seat, Shapes, contents, fixed_shapes
from pytest_browserpool.node.lane import Lane
from pytest_browserpool.node.places import Places
from pytest_browserpool.node.refusals import Refusal, SegmentsRefused
from pytest_browserpool.node.shard_breakers import ShardBreakers
from pytest_browserpool.node.use import ModelUse
from pytest_browserpool.values import ModelNeeds

Static = Callable[[ModelContent, Mapping[str, Sequence[int]]], Path]
Recovered = Callable[[Fault, list[dict[str, Any]], str, float | None, Candidate], None]
"""``recovered(fault, steps, outcome, ms, where)``: a fault was dealt with, or could not be."""

TellLoad = Callable[[ModelContent, Loaded, float], None]
"""``tell_load(segment, session, started)``; ``started`` in seconds since the epoch."""

SAME_BROWSER_TRIES = 2
"""A lost shard goes back to its own browser first, launched anew: its kind was chosen for it. Twice, because the first
may meet a browser that is just ending."""

RECOVERY_SECONDS = {1: 15.0, 2: 15.0, 3: 60.0, 4: 60.0, 5: 60.0}
"""By priority, as for a whole model."""


class Lanes:
    """All shards of a cut model. Runs in the node's loop."""

    def __init__(
        self,
        pool: Places,
        needs: ModelNeeds,
        label: str,
        made: Cut,
        use: ModelUse,
        static: Static,
        recovered: Recovered,
        breakers: ShardBreakers,
    ) -> None:
        self._pool, self._needs, self._label, self._made, self._use = pool, needs, label, made, use
        self._static, self._recovered, self._breakers = static, recovered, breakers
        self._contents = contents(made, label)
        self.all = [
            Lane(seat, shard.segments)
            for seat, shard in zip(made.seats, made.sharded.plan.shards, strict=True)
        ]
        self.fixed: dict[str, tuple[int, ...]] = {}
        """Shapes of the model's inputs that the sessions were made for, where one of them is on WebNN."""
        self._spare = list(made.spare)
        self._pinned: list[Loaded] = []
        self._opened: list[tuple[Seat, Loaded]] = []
        """Every session that was found or made, where."""
        self._given_up: dict[int, Fault] = {}
        """By shard: the last fault that it was not brought back from."""
        self._let_go = False
        self._rebuilding: asyncio.Task[None] | None = None
        self.tell_load: TellLoad = lambda content, loaded, started: None
        """Called for each session that was found or made."""

    # -- loading ----------------------------------------------------------------------------------------------------

    async def place(self) -> None:
        """All shards loaded, each in its browser; what infrastructure fails is tried again.

        Raises:
            SegmentsRefused: backends got no node of their segments: all of those, when every shard has been tried.
            BackendRefused: no backend of a shard's browser runs one of its segments. Fault: recovery did not help.
        """
        results = await asyncio.gather(
            *(self._place(number) for number in range(len(self.all))), return_exceptions=True
        )
        refusals: list[Refusal] = []
        for error in results:
            if isinstance(error, SegmentsRefused):
                refusals += error.refusals
            elif isinstance(error, BaseException):
                raise error
        if refusals:
            raise SegmentsRefused.of(refusals, self._label)
        if self._needs.fault_tolerance == "high":
            await self._copy()

    async def _place(self, number: int) -> None:
        lane = self.all[number]
        try:
            await self._fill(lane, lane.seat)
        except Fault as fault:
            if self._needs.fault_tolerance == "none":
                self.given_up(number, fault)
                raise
            await self.restore(number, fault)

    async def _fill(self, lane: Lane, seat: Seat) -> None:
        lane.sessions = await self._sessions(lane, seat)
        lane.seat = seat
        self._repin()
        self._describe()

    async def _sessions(self, lane: Lane, seat: Seat) -> dict[int, Loaded]:
        found: dict[int, Loaded] = {}
        refusals: list[Refusal] = []
        began = time.monotonic()
        for index in lane.stages:
            started = time.time()
            try:
                loaded = found[index] = await self._session(index, seat)
            except SegmentsRefused as error:  # the others are tried too: each refusal spares a cut
                refusals += error.refusals
                continue
            except Fault as fault:  # of a first load, of one to bring a shard back, of a copy
                self._breakers.met(seat, fault, began)
                raise
            self._opened.append((seat, loaded))
            self.tell_load(self._contents[index], loaded, started)
            lane.load_ms += loaded.load_ms
            self._use.launch_ms += loaded.launch_ms
            self._use.load_ms += loaded.load_ms
            self._use.warm = self._use.warm and loaded.warm
        if refusals:
            raise SegmentsRefused.of(refusals, self._label)
        return found

    async def _session(self, index: int, seat: Seat) -> Loaded:
        tried: list[tuple[str, BrowserPoolError]] = []
        for backend in seat.backends:
            try:
                return await self._on(backend, index, seat)
            except (UnsupportedOperator, BackendRefused) as error:
                tried.append((backend, error))
        if len(tried) == 1:
            raise tried[0][1]
        refusals = [r for _, error in tried if isinstance(error, SegmentsRefused) for r in error.refusals]
        if len(refusals) == len(tried):
            raise SegmentsRefused.of(refusals, self._label)
        lines = "\n    ".join(f"{backend}: {error.what}" for backend, error in tried)
        raise BackendRefused(
            f"no backend of {seat.name} runs {self._contents[index].label}:\n    {lines}",
            remedy="allow another backend or browser in the marker, or fewer shards",
        )

    async def _on(self, backend: str, index: int, seat: Seat) -> Loaded:
        content = self._contents[index]
        shapes: Shapes = ()
        options = {k: v for k, v in (self._needs.session_options or {}).items() if k != "bundle"}
        if backend.startswith("webnn"):
            shapes = fixed_shapes(self._made, index)
            # what crosses the cut before it follows from all of the model's inputs
            types = self._made.source.types
            self.fixed = {n: d for n in self._made.source.graph.inputs if (d := types.shape(n)) is not None}
            path = self._static(content, dict(shapes))
            content = ModelContent(content.sha256, path, content.label, content.size, content.external)
        page = page_for(backend, self._made.threads)
        key = SessionKey(content.sha256, backend, page, json.dumps(options, sort_keys=True), shapes)
        loaded = await self._pool.load(seat, key, content, self._needs.timeout)
        placement = loaded.session.placement
        if not placement.get("webnn" if backend.startswith("webnn") else backend):
            await self._pool.release(loaded)
            raise SegmentsRefused.of([self._refusal(backend, index, seat, placement)], content.label)
        return loaded

    def _refusal(self, backend: str, index: int, seat: Seat, placed: Mapping[str, int]) -> Refusal:
        nodes = self._made.sharded.plan.segments[index].nodes
        names = self._made.source.graph.names_of(nodes)
        return Refusal(
            browser=seat.browser,
            backend=backend,
            nodes=nodes,
            names=names,
            placed=dict(placed),
            node=seat.node,
        )

    async def _copy(self) -> None:
        """Level high: each shard a second time, in the browser of the next one. No further browser is needed."""
        for number, lane in enumerate(self.all):
            seat = self.all[(number + 1) % len(self.all)].seat
            try:
                lane.copies = await self._copied(lane, seat)
            except SegmentsRefused as error:  # another cut would not change whose copy goes where
                raise BackendRefused(
                    f"the copy of shard {number}, which runs on {lane.backend}, does not run in {seat.name}: {error.what}",
                    where=self._label,
                    remedy="fault_tolerance='medium', or browsers that all run every part",
                ) from error
        self._repin()

    async def _copied(self, lane: Lane, seat: Seat) -> dict[int, Loaded]:
        """The lane's sessions in ``seat`` too, which is launched anew where it fails meanwhile.

        Raises:
            Fault: it failed each time; that is on the record then.
        """
        began, steps, met = time.monotonic(), list[dict[str, Any]](), list[Fault]()
        step = {"action": "make copy", "browser": seat.name}
        for _ in range(1 + SAME_BROWSER_TRIES):
            started = time.monotonic()
            try:
                copies = await self._sessions(lane, seat)
            except Fault as fault:
                if met:
                    steps.append(step | {"seconds": time.monotonic() - started, "outcome": fault.kind})
                met.append(fault)
                if self._hangs(fault):
                    break
                continue
            if met:
                steps.append(step | {"seconds": time.monotonic() - started, "outcome": "recovered"})
                self._use.recoveries += 1
                self._recovered(met[0], steps, "recovered", (time.monotonic() - began) * 1000, lane.where)
            return copies
        self._recovered(met[0], steps, "failed", None, lane.where)
        raise met[-1]

    def _describe(self) -> None:
        filled = [lane for lane in self.all if lane.sessions]
        use = self._use
        use.browser = "+".join(dict.fromkeys(lane.seat.browser for lane in filled))
        use.backend = "+".join(dict.fromkeys(b for lane in filled for b in lane.backend.split("+")))
        use.browser_version = "+".join(
            dict.fromkeys(each.instance.process.version for lane in filled for each in lane.sessions.values())
        )
        use.placement = {}
        for loaded in (each for lane in filled for each in lane.sessions.values()):
            for provider, nodes in loaded.session.placement.items():
                use.placement[provider] = use.placement.get(provider, 0) + nodes

    # -- keeping ----------------------------------------------------------------------------------------------------

    def _repin(self) -> None:
        """The browsers stay, and the sessions in them, while the test holds the model."""
        wanted = [loaded for lane in self.all for loaded in lane.held] if not self._let_go else []
        _hold(wanted, 1)
        _hold(self._pinned, -1)
        self._pinned = wanted

    def let_go(self) -> None:
        """The test does not hold the model any more."""
        self._let_go = True
        self._repin()

    async def hand_over(self, to: Lanes) -> None:
        """What ``to``, of another cut, has no use for ends; the rest is kept until ``let_go``, for it to find."""
        wanted = {(lane.seat, to._contents[index].sha256) for lane in to.all for index in lane.stages}
        for lane in self.all:
            lane.sessions = {
                i: each
                for i, each in lane.sessions.items()
                if (lane.seat, self._contents[i].sha256) in wanted
            }
            lane.copies = {}
        self._repin()
        for seat, loaded in self._opened:
            gone = loaded.page.lost is not None or loaded.session.key not in loaded.page.sessions
            if not gone and not loaded.session.holders and (seat, loaded.session.key.sha256) not in wanted:
                await self._pool.release(loaded)

    async def release(self) -> None:
        """Ends all sessions."""
        for lane in self.all:
            for loaded in lane.held:
                if loaded.page.lost is None:
                    await self._pool.release(loaded)
            lane.copies = {}

    # -- bringing back ----------------------------------------------------------------------------------------------

    @property
    def recovery_limit(self) -> float:
        """Seconds for bringing one shard back."""
        needed = self._needs.timeout + self._pool.settings.launch_timeout
        return max(RECOVERY_SECONDS[self._needs.priority], needed)

    async def restore(self, number: int, fault: Fault) -> None:
        """The lane's segments loaded again: from the copy, in its own browser launched anew, or in another one.

        Raises:
            Fault: ``fault`` itself where it may not be tried again, else the last one met.
        """
        lane, began = self.all[number], time.monotonic()
        if self._hangs(fault) and fault is not lane.told:
            self.given_up(number, fault)
            raise fault
        self._breakers.met(lane.seat, fault)
        if self._use.operation is not None:
            self._use.operation.attempts += 1
        where, steps = lane.where, list[dict[str, Any]]()
        try:
            async with asyncio.timeout(self.recovery_limit):
                await self._restored(lane, fault, steps)
        except (BrowserPoolError, TimeoutError) as error:
            self._recovered(fault, steps, "failed", None, where)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"shard {number} did not come back within {self.recovery_limit:g} s: {fault.what}",
                    where=self._label,
                    remedy="see the attempts in the history; raise timeout= if loading is that slow",
                ) from None
            raise
        self._use.recoveries += 1
        self._recovered(fault, steps, "recovered", (time.monotonic() - began) * 1000, where)

    def _hangs(self, fault: Fault) -> bool:
        """Not tried again, as for a whole model: the marker's timeout is the test's own limit, unless it asks for more."""
        return isinstance(fault, PageHung) and self._needs.recovery is None

    def given_up(self, number: int, fault: Fault) -> None:
        """A fault that is not recovered from, for the record; the browser's breaker counts it all the same."""
        lane = self.all[number]
        self._breakers.met(lane.seat, fault)
        if self._given_up.get(number) is not fault:  # each later request meets the same dead page
            self._given_up[number] = fault
            self._recovered(fault, [], "not_retried", None, lane.where)

    async def _restored(self, lane: Lane, fault: Fault, steps: list[dict[str, Any]]) -> None:
        if await self._from_copy(lane, steps):
            return
        ways = self._breakers.steered([lane.seat] * SAME_BROWSER_TRIES + [*self._spare])
        last = fault
        async for seat in self._pool.ways(ways, lane.seat, self._needs):
            started = time.monotonic()
            step: dict[str, Any] = {
                "action": "reload shard" if seat == lane.seat else "move shard",
                "browser": seat.name,
            }
            steps.append(step)
            try:
                await self._fill(lane, seat)
            except Fault as error:
                last = error
                step |= {"seconds": time.monotonic() - started, "outcome": error.kind}
                continue
            except SegmentsRefused as error:  # the next browser may run it
                step |= {"seconds": time.monotonic() - started, "outcome": "refused", "detail": error.what}
                continue
            step |= {"seconds": time.monotonic() - started, "outcome": "recovered"}
            if seat in self._spare:
                self._spare.remove(seat)
            return
        raise last

    async def _from_copy(self, lane: Lane, steps: list[dict[str, Any]]) -> bool:
        """Level high: the copy takes over at once, and the lost one is made again beside the requests."""
        alive = lane.copies and all(
            each.page.lost is None and each.session.key in each.page.sessions for each in lane.copies.values()
        )
        if not alive:
            return False
        lane.sessions, lane.copies = lane.copies, {}
        self._repin()
        self._describe()
        host = next(iter(lane.sessions.values())).instance.name
        steps.append({"action": "use copy", "browser": host, "seconds": 0.0, "outcome": "recovered"})
        if not self.copying:
            self._rebuilding = self._pool.beside(self._rebuild())
        return True

    @property
    def copying(self) -> bool:
        """Whether lost copies are being made again."""
        return self._rebuilding is not None and not self._rebuilding.done()

    async def _rebuild(self) -> None:
        """Redundancy again. Where it does not succeed the next loss costs a reload instead."""
        try:
            for lane in self.all:
                fresh = await self._sessions(lane, lane.seat)
                lane.copies, lane.sessions = lane.sessions, fresh
        except Fault as fault:
            step = {"action": "make copy again", "browser": self._use.browser, "outcome": fault.kind}
            self._recovered(fault, [step], "failed", None, self.all[0].where)
            return
        self._describe()
        with contextlib.suppress(Fault):  # on the record
            await self._copy()


def _hold(sessions: Iterable[Loaded], change: int) -> None:
    instances = {id(loaded.instance): loaded.instance for loaded in sessions}
    for instance in instances.values():
        instance.leases += change
    for loaded in sessions:
        loaded.session.holders += change
