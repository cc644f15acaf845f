"""One model of one test over several browsers: its segments' sessions, its requests, and shards brought back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.page import SessionKey
from pytest_browserpool.browsers.pool import Loaded, ModelContent, Pool
from pytest_browserpool.browsers.protocol import Packed, pack
from pytest_browserpool.errors import (
    BackendRefused,
    BrowserPoolError,
    DeadlineExceeded,
    Fault,
    InputError,
    PageCrashed,
    PageHung,
    UnsupportedOperator,
)
from pytest_browserpool.models.inspect import ModelInfo
from pytest_browserpool.node.cutting import Cut, Seat, Shapes, contents, fixed_shapes
from pytest_browserpool.node.resident import Reply
from pytest_browserpool.node.use import ModelUse
from pytest_browserpool.sharding.execute import Answer, LaneTimes, Pipeline, Stage
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.node.reporting import Reporter

Arrays = Mapping[str, NDArray[Any]]
Static = Callable[[ModelContent, Mapping[str, Sequence[int]]], Path]

SAME_BROWSER_TRIES = 2
"""A lost shard goes back to its own browser first, launched anew: its kind was chosen for it. Twice, because the first
may meet a browser that is just ending."""

TELLING_REQUESTS = 4
"""Requests after which a browser's speed on a model is believed: the first one compiles."""

RECOVERY_SECONDS = {1: 15.0, 2: 15.0, 3: 60.0, 4: 60.0, 5: 60.0}
"""By priority, as for a whole model."""


@dataclass
class Lane:
    """One shard: where it runs now, and at level high where its copy waits."""

    seat: Seat
    stages: tuple[int, ...]
    sessions: dict[int, Loaded] = field(default_factory=dict)
    """By segment."""
    copies: dict[int, Loaded] = field(default_factory=dict)
    load_ms: float = 0.0
    sent: int = 0
    """Commands that its page has not answered."""

    @property
    def held(self) -> list[Loaded]:
        return [*self.sessions.values(), *self.copies.values()]


class ShardedResident:
    """A cut model that a test holds. What ``Resident`` is for a whole one."""

    waits_for_shapes = False

    def __init__(
        self,
        pool: Pool,
        needs: ModelNeeds,
        content: ModelContent,
        info: ModelInfo,
        made: Cut,
        use: ModelUse,
        static: Static,
        report: Reporter,
        recovered: Callable[..., None],
        learned: Callable[[Seat, str, float], None],
    ) -> None:
        self._learned = learned
        self.needs, self.content, self.info, self.use, self.made = needs, content, info, use, made
        self._pool, self._static, self._report, self._recovered = pool, static, report, recovered
        self._contents = contents(made, content.label)
        plan = made.sharded.plan
        self.lanes = [Lane(seat, shard.segments) for seat, shard in zip(made.seats, plan.shards, strict=True)]
        self._spare = list(made.spare)
        stages = [Stage(f.index, f.shard, f.inputs, f.outputs) for f in made.sharded.files]
        self._pipeline = Pipeline(stages, made.sharded.outputs, self, tolerance=needs.fault_tolerance)
        self._pinned: list[Loaded] = []
        self._let_go = False
        self._rebuilding: asyncio.Task[None] | None = None
        self._fixed: dict[str, tuple[int, ...]] = {}

    # -- what others see --------------------------------------------------------------------------------------------

    @property
    def loaded(self) -> Loaded | None:
        """The first segment's session."""
        return self.lanes[0].sessions.get(self.lanes[0].stages[0])

    @property
    def everywhere(self) -> list[Loaded]:
        """One session of each browser that the model is in."""
        return list({id(loaded.instance): loaded for lane in self.lanes for loaded in lane.held}.values())

    @property
    def times(self) -> list[LaneTimes]:
        """Where each shard's time went."""
        return self._pipeline.times

    def lane_backend(self, lane: Lane) -> str:
        """What the shard really runs on; joined with "+" where its segments differ."""
        return "+".join(dict.fromkeys(loaded.session.key.backend for loaded in lane.sessions.values()))

    # -- loading ----------------------------------------------------------------------------------------------------

    async def place(self) -> None:
        """All shards loaded, each in its browser; what infrastructure fails is tried again.

        Raises:
            BackendRefused: no backend of a shard's browser runs one of its segments. Fault: recovery did not help.
        """
        results = await asyncio.gather(
            *(self._place(number) for number in range(len(self.lanes))), return_exceptions=True
        )
        for error in results:
            if isinstance(error, BaseException):
                raise error
        if self.needs.fault_tolerance == "high":
            await self._copy()

    async def _place(self, number: int) -> None:
        lane = self.lanes[number]
        try:
            await self._fill(lane, lane.seat)
        except Fault as fault:
            if self.needs.fault_tolerance == "none":
                raise
            await self.restore(number, fault)

    async def _fill(self, lane: Lane, seat: Seat) -> None:
        lane.sessions = await self._sessions(lane, seat)
        lane.seat = seat
        self._repin()
        self._describe()

    async def _sessions(self, lane: Lane, seat: Seat) -> dict[int, Loaded]:
        found: dict[int, Loaded] = {}
        for index in lane.stages:
            loaded = found[index] = await self._session(index, seat)
            lane.load_ms += loaded.load_ms
            self.use.launch_ms += loaded.launch_ms
            self.use.load_ms += loaded.load_ms
            self.use.warm = self.use.warm and loaded.warm
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
        lines = "\n    ".join(f"{backend}: {error.what}" for backend, error in tried)
        raise BackendRefused(
            f"no backend of {seat.name} runs {self._contents[index].label}:\n    {lines}",
            remedy="allow another backend or browser in the marker, or fewer shards",
        )

    async def _on(self, backend: str, index: int, seat: Seat) -> Loaded:
        content = self._contents[index]
        shapes: Shapes = ()
        options = {k: v for k, v in (self.needs.session_options or {}).items() if k != "bundle"}
        if backend.startswith("webnn"):
            shapes = fixed_shapes(self.made, index)
            self._fixed.update((n, d) for n, d in shapes if any(t.name == n for t in self.info.inputs))
            path = self._static(content, dict(shapes))
            content = ModelContent(content.sha256, path, content.label, content.size, content.external)
        key = SessionKey(content.sha256, backend, options=json.dumps(options, sort_keys=True), shapes=shapes)
        loaded = await self._pool.load(seat.browser, key, content, self.needs.timeout, seat.slot)
        placement = loaded.session.placement
        if not placement.get("webnn" if backend.startswith("webnn") else backend):
            await self._pool.release(loaded)
            raise BackendRefused(
                f"{backend} in {seat.name} got no node of {content.label}: onnxruntime placed {placement or 'nothing'}",
                remedy="another backend, or fewer shards",
            )
        return loaded

    async def _copy(self) -> None:
        """Level high: each shard a second time, in the browser of the next one. No further browser is needed."""
        for number, lane in enumerate(self.lanes):
            lane.copies = await self._sessions(lane, self.lanes[(number + 1) % len(self.lanes)].seat)
        self._repin()

    def _describe(self) -> None:
        filled = [lane for lane in self.lanes if lane.sessions]
        use = self.use
        use.browser = "+".join(dict.fromkeys(lane.seat.browser for lane in filled))
        use.backend = "+".join(
            dict.fromkeys(b for lane in filled for b in self.lane_backend(lane).split("+"))
        )
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
        wanted = [loaded for lane in self.lanes for loaded in lane.held] if not self._let_go else []
        _hold(wanted, 1)
        _hold(self._pinned, -1)
        self._pinned = wanted

    def pin(self, loaded: None) -> None:
        """Lets the model go; what it took is recorded."""
        self._let_go = True
        self._repin()
        self._tell_speeds()
        for lane, times in zip(self.lanes, self.times, strict=True):
            if lane.sessions and times.calls:
                self._report.shard(next(iter(lane.sessions.values())).instance.identity, times)

    def _tell_speeds(self) -> None:
        """What the model's own requests say of its browsers, for the cut of a later run."""
        for number, (lane, times) in enumerate(zip(self.lanes, self.times, strict=True)):
            requests = times.calls // len(lane.stages)
            if requests >= TELLING_REQUESTS and lane.seat == self.made.seats[number]:
                seen = self.made.speed_seen(number, times.compute_ms / requests)
                self._learned(lane.seat, self.lane_backend(lane), seen)

    # -- requests ---------------------------------------------------------------------------------------------------

    async def run(self, inputs: Arrays) -> Reply:
        """One request through all shards.

        Raises:
            DeadlineExceeded: it took longer than an attempt and its recovery may.
        """
        for name, dims in self._fixed.items():
            if tuple(inputs[name].shape) != dims:
                raise InputError(
                    f"input {name!r} has shape {list(inputs[name].shape)}, "
                    f"and the shards on WebNN were made for {list(dims)}",
                    where=self.content.label,
                    remedy="give that shape in input_shapes=, or allow another backend",
                )
        first = all(loaded.session.runs == 0 for lane in self.lanes for loaded in lane.sessions.values())
        started = time.perf_counter()
        feeds = {name: pack(array) for name, array in inputs.items()}
        limit = self.budget
        try:
            async with asyncio.timeout(limit):
                done = await self._pipeline.request(feeds)
        except TimeoutError:
            raise DeadlineExceeded(
                f"a request over {len(self.lanes)} shards did not end within {limit:g} s",
                where=self.content.label,
                remedy="raise timeout= in the model marker if the model is that slow",
            ) from None
        outputs = {name: tensor.array() for name, tensor in done.tensors.items()}
        latency = (time.perf_counter() - started) * 1000
        if first:
            self.use.first_run_ms += latency
        self.use.timings.append(latency)
        return Reply(outputs, latency, done.compute_ms, warm=not first)

    @property
    def budget(self) -> float:
        """Seconds that one request may take with everything that recovery may do."""
        return self.needs.timeout + self._recovery_limit * 2

    @property
    def _recovery_limit(self) -> float:
        needed = self.needs.timeout + self._pool.settings.launch_timeout
        return max(RECOVERY_SECONDS[self.needs.priority], needed)

    # -- sharding.execute.Runner ------------------------------------------------------------------------------------

    async def run_stage(self, stage: Stage, tensors: Mapping[str, Packed]) -> Answer:
        loaded = self.lanes[stage.lane].sessions[stage.index]
        if loaded.page.lost is not None:
            raise loaded.page.lost
        if loaded.session.key not in loaded.page.sessions:
            raise PageCrashed(f"the session of {loaded.session.label} is gone with its page")
        lane = self.lanes[stage.lane]
        lane.sent += 1
        try:  # a command waits in the page for those sent before it, each of which may take the time of one
            reply = await self._pool.run_packed(loaded, tensors, self.needs.timeout * lane.sent)
        finally:
            lane.sent -= 1
        return Answer(reply.packed, float(reply.values["run_ms"]))

    async def restore(self, number: int, fault: Fault) -> None:
        """The lane's segments loaded again: from the copy, in its own browser launched anew, or in another one.

        Raises:
            Fault: ``fault`` itself where it may not be tried again, else the last one met.
        """
        if isinstance(fault, PageHung) and self.needs.recovery is None:
            # as for a whole model: the marker's timeout is the test's own limit
            self._recovered(self, fault, [], "not_retried", None, self._where(self.lanes[number]))
            raise fault
        lane, began = self.lanes[number], time.monotonic()
        where, steps = self._where(lane), list[dict[str, Any]]()
        try:
            async with asyncio.timeout(self._recovery_limit):
                await self._restored(lane, fault, steps)
        except (BrowserPoolError, TimeoutError) as error:
            self._recovered(self, fault, steps, "failed", None, where)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"shard {number} did not come back within {self._recovery_limit:g} s: {fault.what}",
                    where=self.content.label,
                    remedy="see the attempts in the history; raise timeout= if loading is that slow",
                ) from None
            raise
        self.use.recoveries += 1
        self._recovered(self, fault, steps, "recovered", (time.monotonic() - began) * 1000, where)

    async def _restored(self, lane: Lane, fault: Fault, steps: list[dict[str, Any]]) -> None:
        if await self._from_copy(lane, steps):
            return
        ways = [lane.seat] * SAME_BROWSER_TRIES + [*self._spare]
        last = fault
        for seat in ways:
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
        if self._rebuilding is None or self._rebuilding.done():
            self._rebuilding = asyncio.create_task(self._rebuild())
        return True

    async def _rebuild(self) -> None:
        """Redundancy again. Where it does not succeed the next loss costs a reload instead."""
        try:
            for lane in self.lanes:
                fresh = await self._sessions(lane, lane.seat)
                lane.copies, lane.sessions = lane.sessions, fresh
            await self._copy()
        except Fault as fault:
            step = {"action": "make copy again", "browser": self.use.browser, "outcome": fault.kind}
            self._recovered(self, fault, [step], "failed", None, self._where(self.lanes[0]))

    def _where(self, lane: Lane) -> Candidate:
        return Candidate(lane.seat.browser, self.lane_backend(lane) or lane.seat.backends[0])

    async def benchmark(self, inputs: Arrays, runs: int) -> list[float]:
        """Milliseconds computed in all shards together, for each of ``runs`` requests after one that warms up."""
        await self.run(inputs)
        return [(await self.run(inputs)).page_ms for _ in range(runs)]

    async def reload(self) -> None:
        """Lets all sessions go and makes them anew."""
        for lane in self.lanes:
            for loaded in lane.held:
                if loaded.page.lost is None:
                    await self._pool.release(loaded)
            lane.copies = {}
        await self.place()


def _hold(sessions: Iterable[Loaded], change: int) -> None:
    instances = {id(loaded.instance): loaded.instance for loaded in sessions}
    for instance in instances.values():
        instance.leases += change
    for loaded in sessions:
        loaded.session.holders += change
