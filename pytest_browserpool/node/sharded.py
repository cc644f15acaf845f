"""One model of one test over several browsers: its requests, and what they tell of its shards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.pool import Loaded, ModelContent, Pool
from pytest_browserpool.browsers.protocol import Packed, StateUse, pack
from pytest_browserpool.errors import DeadlineExceeded, Fault, InputError
from pytest_browserpool.models.inspect import ModelInfo
from pytest_browserpool.node.away import Visit
from pytest_browserpool.node.cutting import Cut, Seat, contents
from pytest_browserpool.node.lane import Lane
from pytest_browserpool.node.lanes import Lanes, Static, TellLoad
from pytest_browserpool.node.places import Places
from pytest_browserpool.node.refusals import Refusal
from pytest_browserpool.node.resident import Reply
from pytest_browserpool.node.shard_breakers import ShardBreakers
from pytest_browserpool.node.use import ModelUse
from pytest_browserpool.recovery.breaker import Breakers
from pytest_browserpool.sharding.execute import Answer, LaneTimes, Pipeline, Stage
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.node.reporting import Reporter
    from pytest_browserpool.node.sharded_state import ShardedState

Arrays = Mapping[str, NDArray[Any]]

TELLING_REQUESTS = 4
"""Requests after which a browser's speed on a model is believed: the first one compiles."""


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
        breakers: Breakers,
        visit: Visit | None = None,
    ) -> None:
        """``visit``: where shards are in browsers that other nodes lend."""
        self.needs, self.content, self.info, self.use = needs, content, info, use
        self.pool = Places(pool, visit)
        self.states: list[ShardedState] = []
        """Of the sessions with state that the test has open."""
        self._report, self._learned = report, learned
        self._breakers = ShardBreakers(breakers)

        def told(
            fault: Fault, steps: list[dict[str, Any]], outcome: str, ms: float | None, where: Candidate
        ) -> None:
            recovered(self, fault, steps, outcome, ms, where)

        self._static, self._told = static, told
        self.refusals: tuple[Refusal, ...] = ()
        """For which it was cut again."""
        self._cut(made)

    def _cut(self, made: Cut) -> None:
        self.made = made
        self._lanes = Lanes(
            self.pool,
            self.needs,
            self.content.label,
            made,
            self.use,
            self._static,
            self._told,
            self._breakers,
        )
        self._breakers.enter(made.seats)
        stages = [Stage(f.index, f.shard, f.inputs, f.outputs) for f in made.sharded.files]
        self.pipeline = Pipeline(stages, made.sharded.outputs, self, tolerance=self.needs.fault_tolerance)

    def tell_loads(self, tell: TellLoad) -> None:
        """From now on ``tell`` hears of each session of a segment, found or made."""
        self._lanes.tell_load = tell

    # -- what others see --------------------------------------------------------------------------------------------

    @property
    def lanes(self) -> list[Lane]:
        """The shards, in the order of the plan."""
        return self._lanes.all

    @property
    def copying(self) -> bool:
        """Whether copies of lost shards are being made again (level high)."""
        return self._lanes.copying

    def segment_of(self, nodes: tuple[int, ...]) -> ModelContent:
        """The segment of the cut as it is now that has these nodes."""
        segments = self.made.sharded.plan.segments
        return contents(self.made, self.content.label)[next(s.index for s in segments if s.nodes == nodes)]

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
        return self.pipeline.times

    async def place(self) -> None:
        """All shards loaded; see ``Lanes.place``."""
        await self._lanes.place()

    async def place_again(self, made: Cut, refusals: Sequence[Refusal]) -> None:
        """All shards loaded as another cut has them; sessions that fit it stay. ``refusals``: why. Raises as ``place``."""
        before, self.refusals = self._lanes, (*self.refusals, *refusals)
        self._cut(made)
        self._lanes.tell_load = before.tell_load
        try:
            await before.hand_over(self._lanes)
            await self._lanes.place()
        finally:
            before.let_go()

    def pin(self, loaded: None) -> None:
        """Lets the model go; what it took is recorded."""
        self._lanes.let_go()
        self._breakers.leave()
        self._tell_speeds()
        for lane, times in zip(self.lanes, self.times, strict=True):
            if lane.sessions and times.calls:
                instance = next(iter(lane.sessions.values())).instance
                self._report.shard(instance, times, lane.threads)
        if self.pool.visit is not None:
            self.pool.visit.end()

    def _tell_speeds(self) -> None:
        """What the model's own requests say of its browsers, for the cut of a later run."""
        for number, (lane, times) in enumerate(zip(self.lanes, self.times, strict=True)):
            requests = times.calls // len(lane.stages)
            # nothing was seen where a browser's clock is too coarse
            timed = requests >= TELLING_REQUESTS and times.compute_ms > 0
            if timed and lane.seat == self.made.seats[number]:
                seen = self.made.speed_seen(number, times.compute_ms / requests)
                self._learned(lane.seat, lane.backend, seen)

    # -- requests ---------------------------------------------------------------------------------------------------

    async def run(self, inputs: Arrays, state: ShardedState | None = None) -> Reply:
        """One request through all shards; with ``state`` one step of a session.

        Raises:
            DeadlineExceeded: it took longer than an attempt and its recovery may.
        """
        for name, dims in self._lanes.fixed.items():
            if name in inputs and tuple(inputs[name].shape) != dims:
                raise InputError(
                    f"input {name!r} has shape {list(inputs[name].shape)}, "
                    f"and the shards on WebNN were made for {list(dims)}",
                    where=self.content.label,
                    remedy="give that shape in input_shapes=, or allow another backend",
                )
        self.begin()
        first = all(loaded.session.runs == 0 for lane in self.lanes for loaded in lane.sessions.values())
        started, began, recovered = time.perf_counter(), time.monotonic(), self.use.recoveries
        feeds = {name: pack(array) for name, array in inputs.items()}
        limit = self.budget
        try:
            async with asyncio.timeout(limit):
                request = self.pipeline.request if state is None else state.request
                done = await request(feeds)
        except TimeoutError:
            raise DeadlineExceeded(
                f"a request over {len(self.lanes)} shards did not end within {limit:g} s",
                where=self.content.label,
                remedy="raise timeout= in the model marker if the model is that slow",
            ) from None
        self._breakers.answered((lane.seat for lane in self.lanes), began)
        outputs = {name: tensor.array() for name, tensor in done.tensors.items()}
        latency = (time.perf_counter() - started) * 1000
        if first:
            self.use.first_run_ms += latency
        self.use.timings.append(latency)
        warm = not first and self.use.recoveries == recovered  # bringing a shard back is in its time
        return Reply(outputs, latency, done.compute_ms, warm=warm)

    def begin(self) -> None:
        """A request comes. A hang ended those that were under way then; it does not end one that comes after them."""
        if self.pipeline.idle:
            for lane in self.lanes:
                lane.begin()

    @property
    def budget(self) -> float:
        """Seconds that one request may take with everything that recovery may do."""
        return self.needs.timeout + self._lanes.recovery_limit * 2

    async def benchmark(self, inputs: Arrays, runs: int) -> list[float]:
        """Milliseconds computed in all shards together, for each of ``runs`` requests after one that warms up."""
        await self.run(inputs)
        return [(await self.run(inputs)).page_ms for _ in range(runs)]

    async def reload(self) -> None:
        """Lets all sessions go and makes them anew."""
        await self._lanes.release()
        await self.place()

    # -- sharding.execute.Runner ------------------------------------------------------------------------------------

    async def run_stage(self, stage: Stage, tensors: Mapping[str, Packed]) -> Answer:
        return await self.run_on(self.lanes[stage.lane].ready(stage.index), stage.lane, tensors)

    async def run_on(
        self, loaded: Loaded, number: int, tensors: Mapping[str, Packed], state: StateUse | None = None
    ) -> Answer:
        """One segment of shard ``number`` in that session."""
        lane = self.lanes[number]
        lane.sent += 1
        try:  # a command waits in the page for those sent before it, each of which may take the time of one
            reply = await self.pool.run_packed(loaded, tensors, self.needs.timeout * lane.sent, state)
        finally:
            lane.sent -= 1
        return Answer(reply.packed, float(reply.values["run_ms"]))

    async def restore(self, number: int, fault: Fault) -> None:
        await self._lanes.restore(number, fault)

    def given_up(self, number: int, fault: Fault) -> None:
        self._lanes.given_up(number, fault)
