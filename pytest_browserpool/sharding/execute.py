"""Runs requests through the stages of a cut model: several at once, in bounds, and on from a lost shard.

Knows neither pages nor ONNX: a ``Runner`` runs one stage and brings a lost lane back. A *lane* is one shard's
browser; a *stage* is one segment that runs there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pytest_browserpool.browsers.protocol import Packed
from pytest_browserpool.errors import Fault, PageHung, ShardingError

AHEAD = 2
"""Commands sent to a page at once: one runs, the next one's tensors travel meanwhile. More would only fill memory."""

MOST_FAULTS = 4
"""Faults that one request survives. What fails again and again on restored browsers is the model's doing."""

TOLERANCES = ("none", "low", "medium", "high")


def check_tolerance(tolerance: str) -> None:
    """Raises ``ShardingError`` for a level that there is not."""
    if tolerance not in TOLERANCES:
        raise ShardingError(
            f"fault_tolerance={tolerance!r} is unknown", remedy=f"use one of {', '.join(TOLERANCES)}"
        )


@dataclass(frozen=True)
class Stage:
    """One segment: what it reads and makes, and in which lane it runs."""

    index: int
    lane: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a stage made, and the milliseconds that it computed."""

    tensors: Mapping[str, Packed]
    compute_ms: float


@dataclass(frozen=True)
class Done:
    """A request that went through all stages: the model's outputs, and the milliseconds computed in all shards."""

    tensors: Mapping[str, Packed]
    compute_ms: float


class Runner(Protocol):
    """Carries out what a pipeline decides."""

    async def run_stage(self, stage: Stage, tensors: Mapping[str, Packed]) -> Answer:
        """Runs one stage. Raises ``Fault`` where its browser or page failed."""
        ...

    async def restore(self, lane: int, fault: Fault) -> None:
        """Makes the lane able to run all of its stages again. Raises what kept it from that."""
        ...

    def given_up(self, lane: int, fault: Fault) -> None:
        """A fault there that the lane is not brought back from: it ends the request."""
        ...


@dataclass
class LaneTimes:
    """Where the time of one shard's browser went while requests were under way, in milliseconds."""

    calls: int = 0
    compute_ms: float = 0.0
    """Inside ``session.run``."""
    busy_ms: float = 0.0
    """Something had been sent that was not answered."""
    idle_ms: float = 0.0
    """Nothing had been sent that was not answered."""
    bytes_in: int = 0
    bytes_out: int = 0
    faults: int = 0
    _free_since: float | None = field(default=None, repr=False)
    _sent: int = field(default=0, repr=False)

    @property
    def transfer_ms(self) -> float:
        """Busy but not computing: tensors on their way, and the commands themselves."""
        return max(0.0, self.busy_ms - self.compute_ms)

    def begin(self, now: float) -> None:
        """Requests are under way from now on."""
        self._free_since = now

    def sent(self, now: float) -> None:
        if self._sent == 0 and self._free_since is not None:
            self.idle_ms += (now - self._free_since) * 1000
            self._free_since = now  # the start of the busy time
        self._sent += 1

    def answered(self, now: float, compute_ms: float | None) -> None:
        """``compute_ms`` is None where the command failed: its time counts as neither compute nor transfer."""
        self._sent -= 1
        busy = (now - (self._free_since if self._free_since is not None else now)) * 1000
        self._free_since = now
        if compute_ms is None:
            self.faults += 1
            return
        self.calls += 1
        self.compute_ms += compute_ms
        self.busy_ms += busy

    def end(self, now: float) -> None:
        """No request is under way any more."""
        if self._sent == 0 and self._free_since is not None:
            self.idle_ms += (now - self._free_since) * 1000
        self._free_since = None


class Pipeline:
    """Requests through stages. Each request is a task of its caller's; lanes take them in the order they come.

    ``tolerance`` says what a fault costs: ``none`` the request; ``low`` the request begins again once the lane is back;
    ``medium`` and ``high`` it goes on at the stage that failed, with what crossed the cuts before it. No answer is ever
    made of fewer stages: a request ends with all of them, or with an error.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        outputs: Sequence[str],
        runner: Runner,
        *,
        tolerance: str = "medium",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_tolerance(tolerance)
        self.stages, self.outputs = tuple(stages), tuple(outputs)
        lanes = 1 + max(stage.lane for stage in self.stages)
        self.times = [LaneTimes() for _ in range(lanes)]
        self._runner, self._tolerance, self._clock = runner, tolerance, clock
        self._room = [asyncio.Semaphore(AHEAD) for _ in range(lanes)]
        self._restoring = [asyncio.Lock() for _ in range(lanes)]
        self._epochs = [0] * lanes
        self._under_way = 0
        self._needed = self._needed_after()

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._under_way == 0

    def _needed_after(self) -> list[frozenset[str]]:
        """For each number of stages done, what is still read: the rest of a request's tensors is let go of."""
        needed = [frozenset(self.outputs)]
        for stage in reversed(self.stages):
            needed.append((needed[-1] - frozenset(stage.outputs)) | frozenset(stage.inputs))
        return needed[::-1]

    async def request(
        self,
        feeds: Mapping[str, Packed],
        *,
        runner: Runner | None = None,
        kept: Collection[str] = frozenset(),
    ) -> Done:
        """The model's outputs for ``feeds``.

        ``kept`` names values that stay with the stage that reads or makes them: ``runner``, which runs the stages of this
        request in place of the pipeline's own, has them there.

        Raises:
            Fault: a shard was lost and the tolerance, or what is left here, does not allow to go on.
        """
        if self.idle:
            now = self._clock()
            for lane in self.times:
                lane.begin(now)
        self._under_way += 1
        try:
            return await self._through(feeds, runner or self._runner, kept)
        finally:
            self._under_way -= 1
            if self.idle:
                now = self._clock()
                for lane in self.times:
                    lane.end(now)

    async def _through(self, feeds: Mapping[str, Packed], runner: Runner, kept: Collection[str]) -> Done:
        known, done, faults, compute_ms = dict(feeds), 0, 0, 0.0
        while done < len(self.stages):
            stage = self.stages[done]
            epoch = self._epochs[stage.lane]
            try:
                made = await self._at(
                    stage, {n: known[n] for n in stage.inputs if n not in kept}, runner, kept
                )
            except Fault as fault:
                faults += 1
                await self._recover(stage, fault, epoch, faults, runner)
                if self._tolerance == "low":
                    known, done = dict(feeds), 0
                continue
            known.update(made.tensors)
            compute_ms += made.compute_ms
            done += 1
            known = {name: tensor for name, tensor in known.items() if name in self._needed[done]}
        return Done({name: known[name] for name in self.outputs if name not in kept}, compute_ms)

    async def _at(
        self, stage: Stage, tensors: Mapping[str, Packed], runner: Runner, kept: Collection[str]
    ) -> Answer:
        lane = self.times[stage.lane]
        async with self._room[stage.lane]:
            lane.sent(self._clock())
            compute_ms = None
            try:
                answer = await runner.run_stage(stage, tensors)
                compute_ms = answer.compute_ms
            finally:
                lane.answered(self._clock(), compute_ms)
        missing = [name for name in stage.outputs if name not in answer.tensors and name not in kept]
        if missing:
            raise ShardingError(
                f"stage {stage.index} did not return {', '.join(missing)}",
                remedy="report this with the model",
            )
        lane.bytes_in += sum(tensor.nbytes for tensor in tensors.values())
        lane.bytes_out += sum(tensor.nbytes for tensor in answer.tensors.values())
        return answer

    async def _recover(self, stage: Stage, fault: Fault, epoch: int, faults: int, runner: Runner) -> None:
        """Returns once the lane is back; one of several requests that saw it fail brings it back for all."""
        if self._tolerance == "none" or faults > MOST_FAULTS:
            runner.given_up(stage.lane, fault)
            if self._tolerance == "none" and not isinstance(fault, PageHung):  # that has its own remedy
                fault.remedy = "fault_tolerance='medium' in the marker brings a lost shard back"
            raise fault
        async with self._restoring[stage.lane]:
            if self._epochs[stage.lane] == epoch:
                await runner.restore(stage.lane, fault)
                self._epochs[stage.lane] += 1
