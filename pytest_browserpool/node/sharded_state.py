"""State of a model over several browsers that stays in their pages between calls, and how all of it comes back after a fault.

Each segment of the model has its part of the state, at a step. A step goes through the segments in order, so at any moment
the parts stand at the current step or one after it. When a shard is lost, the others stay where they are; the lost one's
parts are put into its new page from their checkpoints, and its steps since are run again, on the tensors that crossed its
cuts then. Nothing else has to be computed again, and each of these steps must give the bits that it gave before.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_browserpool.browsers.page import RuntimePage
from pytest_browserpool.browsers.pool import Loaded
from pytest_browserpool.browsers.protocol import Packed, StateUse
from pytest_browserpool.errors import Fault, StateDiverged
from pytest_browserpool.node.stateful import DROP_SECONDS
from pytest_browserpool.sharding.execute import MOST_FAULTS, Answer, Done, Stage

if TYPE_CHECKING:
    from pytest_browserpool.node.resident import Reply
    from pytest_browserpool.node.sharded import Arrays, ShardedResident

Tensors = Mapping[str, Packed]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Ran:
    """A step of one segment: what it takes to run it again, and to see that it came out the same."""

    inputs: Tensors
    answer: bytes
    """A digest of what left the page."""


@dataclass
class Checkpoint:
    """A part at a step, on this side, and the steps run since."""

    step: int
    slots: Tensors
    since: list[Ran] = field(default_factory=list)


class Part:
    """What one segment keeps of the state. Slots are named like the inputs that they feed."""

    def __init__(self, name: str, stage: Stage, links: Mapping[str, str]) -> None:
        """``links``: output → input."""
        self.name, self.stage, self.links = name, stage, dict(links)
        self.replayed = 0
        self._feed = {name: name for name in links.values()}
        self._checkpoint = Checkpoint(0, {})
        self._older: Checkpoint | None = None
        self._page: RuntimePage | None = None
        self._at = 0

    def reset(self, initial: Tensors) -> None:
        """Back to step 0; put into the page by the next run."""
        self._checkpoint = Checkpoint(0, {name: initial[name] for name in self._feed})
        self._older, self._page = None, None

    def use(self, step: int) -> StateUse:
        """For the run of a step. Until it has succeeded nobody knows where the part stands."""
        self._page = None
        return StateUse(self.name, step, self._feed, self.links)

    def ran(self, loaded: Loaded, step: int, inputs: Tensors, answer: Answer) -> None:
        """A step was run. A step that is run a second time takes the place of the first."""
        self._page, self._at = loaded.page, step + 1
        since = self._checkpoint.since
        del since[step - self._checkpoint.step :]
        since.append(Ran(inputs, _digest(answer.tensors)))
        self._older = None

    async def bring(self, resident: ShardedResident, loaded: Loaded, step: int) -> None:
        """The part at ``step`` in the page of ``loaded``: from its checkpoint where it does not stand there.

        At least one step is run again where one was done, so that a browser which rounds otherwise is found out before
        it answers.

        Raises:
            StateDiverged: a step gave other bits than before. Fault: the page failed.
        """
        if self._page is loaded.page and self._at == step:
            return
        await self._leave(resident, loaded)
        base, pool, timeout = self._older or self._checkpoint, resident.pool, resident.needs.timeout
        await pool.command(loaded, loaded.page.set_state(self.name, base.step, base.slots, timeout=timeout))
        for number, done in enumerate(base.since[: step - base.step], base.step):
            reply = await pool.run_packed(loaded, done.inputs, timeout, self.use(number))
            self.replayed += 1
            if _digest(reply.packed) != done.answer:
                raise StateDiverged(
                    f"step {number} of segment {self.stage.index} gave other bits in {loaded.instance.name} "
                    f"on {loaded.session.key.backend} than before the fault",
                    where=resident.content.label,
                    remedy="this kind of browser rounds otherwise; allow another of the first kind (browsers=), "
                    "or wasm, which gives the same bits everywhere",
                )
        self._page, self._at = loaded.page, step

    async def _leave(self, resident: ShardedResident, loaded: Loaded) -> None:
        """Frees the part in a page that lives on without it: at level high shards move from copies and back."""
        page, self._page = self._page, None
        if page is not None and page is not loaded.page and page.lost is None:
            with contextlib.suppress(Fault):
                await page.drop_state(self.name, timeout=DROP_SECONDS)

    async def fetch(self, resident: ShardedResident, loaded: Loaded, step: int) -> Tensors:
        """The part at ``step``, brought there first."""
        await self.bring(resident, loaded, step)
        timeout = resident.needs.timeout
        _, slots = await resident.pool.command(loaded, loaded.page.get_state(self.name, timeout=timeout))
        return slots

    async def checkpoint(self, resident: ShardedResident, step: int) -> None:
        """Fetched, so that fewer steps have to be run again. Where the page is lost that is for the next step to find."""
        with contextlib.suppress(Fault):
            loaded = resident.lanes[self.stage.lane].ready(self.stage.index)
            slots = await self.fetch(resident, loaded, step)
            # the older one is kept until a step was run on top of the newer: see ``bring``
            self._older, self._checkpoint = self._checkpoint, Checkpoint(step, slots)

    async def free(self) -> None:
        """Frees what the page holds; nothing where the page is gone."""
        page, self._page = self._page, None
        if page is not None and page.lost is None:
            with contextlib.suppress(Fault):
                await page.drop_state(self.name, timeout=DROP_SECONDS)


class ShardedState:
    """The state of one session. What ``PageState`` is for a whole model; a ``sharding.execute.Runner`` of its steps."""

    def __init__(
        self, resident: ShardedResident, links: Mapping[str, str], initial: Tensors, every: int
    ) -> None:
        """``links``: output → input. ``initial``: the state before the first step, by input. ``every``: steps between
        checkpoints."""
        self._resident, self._every, self._links = resident, every, dict(links)
        self.step = 0
        number = next(_numbers)
        self._parts: dict[int, Part] = {}
        for stage in resident.pipeline.stages:
            own = {o: i for o, i in links.items() if _owner(resident.pipeline.stages, o, i) == stage.index}
            if own:
                self._parts[stage.index] = Part(f"shards-{number}-{stage.index}", stage, own)
        kept = {o: i for part in self._parts.values() for o, i in part.links.items()}
        self._kept = frozenset([*kept, *kept.values()])
        self._carried = {o: i for o, i in links.items() if o not in kept}
        self._beside: dict[str, Packed] = {}
        self.reset(initial)
        resident.states.append(self)

    @property
    def kept(self) -> frozenset[str]:
        """Inputs that stay in a page. An input that several segments read, or that another one makes, travels."""
        return frozenset(i for part in self._parts.values() for i in part.links.values())

    @property
    def replayed(self) -> int:
        """Steps that a shard ran again after faults."""
        return sum(part.replayed for part in self._parts.values())

    def reset(self, initial: Tensors) -> None:
        """Back to step 0 with that state."""
        self.step = 0
        self._beside = {name: initial[name] for name in self._carried.values()}
        for part in self._parts.values():
            part.reset(initial)

    async def run(self, inputs: Arrays) -> Reply:
        """One step through all shards, a checkpoint after it where one is due.

        Raises:
            StateDiverged: the state could not be brought back bit for bit. Fault: as a call.
        """
        own = {
            name: np.array(array) for name, array in inputs.items()
        }  # the test may change its arrays later
        reply = await self._resident.run(own, self)
        if self.step % self._every == 0:
            await asyncio.gather(
                *(part.checkpoint(self._resident, self.step) for part in self._parts.values())
            )
        return reply

    async def request(self, feeds: Tensors) -> Done:
        """One step; its outputs that are no state."""
        done = await self._resident.pipeline.request({**feeds, **self._beside}, runner=self, kept=self._kept)
        self._beside = {name: done.tensors[output] for output, name in self._carried.items()}
        self.step += 1
        answers = {name: tensor for name, tensor in done.tensors.items() if name not in self._carried}
        return Done(answers, done.compute_ms)

    async def read(self) -> dict[str, NDArray[Any]]:
        """The state at the current step, by input: recovered first where it was lost."""
        self._resident.begin()
        found = dict(self._beside)
        for part in self._parts.values():
            found.update(await self._fetched(part))
        return {name: found[name].array() for name in self._links.values()}

    async def _fetched(self, part: Part) -> Tensors:
        resident, faults = self._resident, 0
        while True:
            try:
                loaded = resident.lanes[part.stage.lane].ready(part.stage.index)
                return await part.fetch(resident, loaded, self.step)
            except Fault as fault:
                faults += 1
                if resident.needs.fault_tolerance == "none" or faults > MOST_FAULTS:
                    resident.given_up(part.stage.lane, fault)
                    raise
                await resident.restore(part.stage.lane, fault)

    async def close(self) -> None:
        """Frees what the pages hold."""
        if self in self._resident.states:
            self._resident.states.remove(self)
        for part in self._parts.values():
            await part.free()

    # -- sharding.execute.Runner ------------------------------------------------------------------------------------

    async def run_stage(self, stage: Stage, tensors: Tensors) -> Answer:
        """One segment of the step, where its part of the state stands at this step."""
        part = self._parts.get(stage.index)
        if part is None:
            return await self._resident.run_stage(stage, tensors)
        loaded = self._resident.lanes[stage.lane].ready(stage.index)
        await part.bring(self._resident, loaded, self.step)
        answer = await self._resident.run_on(loaded, stage.lane, tensors, part.use(self.step))
        part.ran(loaded, self.step, tensors, answer)
        return answer

    async def restore(self, lane: int, fault: Fault) -> None:
        """The shard's sessions; its parts of the state follow when they are needed."""
        await self._resident.restore(lane, fault)

    def given_up(self, lane: int, fault: Fault) -> None:
        self._resident.given_up(lane, fault)


def _owner(stages: tuple[Stage, ...], output: str, name: str) -> int | None:
    """The segment that alone has to do with a link of the state; None where it must travel."""
    readers = [s.index for s in stages if name in s.inputs]
    makers = [s.index for s in stages if output in s.outputs]
    others = [s.index for s in stages if output in s.inputs]
    return readers[0] if readers == makers and len(readers) == 1 and not others else None


def _digest(tensors: Tensors) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.kind}:{tensor.dims}:{tensor.strings}".encode())
        digest.update(tensor.data)
    return digest.digest()
