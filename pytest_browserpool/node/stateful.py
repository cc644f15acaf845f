"""A model's state that stays in its page between calls: where it is, its checkpoints, and how it comes back after a fault."""

from __future__ import annotations

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
from pytest_browserpool.browsers.protocol import Packed, StateUse, pack
from pytest_browserpool.errors import Fault, StateDiverged

if TYPE_CHECKING:
    from pytest_browserpool.node.resident import Reply, Resident

Arrays = Mapping[str, NDArray[Any]]

CHECKPOINT_EVERY = 16
"""Steps between checkpoints. Fetching the state costs about what sending it along with a call would; every sixteenth step
that is a sixteenth of it, and after a fault sixteen steps are replayed at most, which is less than a browser's start."""

DROP_SECONDS = 10.0
"""For freeing a state at the end of a test: milliseconds unless the page is at something."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Done:
    """A step that the test has its answer of: what it takes to do it again, and to see that it came out the same."""

    inputs: Arrays
    answer: bytes
    """A digest of the outputs."""


@dataclass
class Checkpoint:
    """The state at a step, on this side, and the steps done since."""

    step: int
    slots: Mapping[str, Packed]
    since: list[Done] = field(default_factory=list)


class PageState:
    """The state of one session. Everything runs in the node's loop, one call after the other.

    Slots are named like the inputs that they feed. ``bring`` makes sure that the state stands in a page at the current
    step; it trusts only what a successful call left there. A state that was lost is put there anew from a checkpoint,
    and the steps since are run again; each must give the bits that the test has seen already. At least one step is always
    replayed where one was done, so that a browser which rounds otherwise is found out before it answers.
    """

    def __init__(
        self, resident: Resident, links: Mapping[str, str], initial: Mapping[str, Packed], every: int
    ) -> None:
        """``links``: output → input. ``initial``: the state before the first step, by input."""
        self._resident, self._every = resident, every
        self.name = f"state-{next(_numbers)}"
        self.links = dict(links)
        self.step = 0
        self.replayed = 0
        """Steps that were run again after faults."""
        self._feed = {name: name for name in links.values()}
        self._checkpoint = Checkpoint(0, initial)
        self._older: Checkpoint | None = None
        self._page: RuntimePage | None = None
        resident.states.append(self)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs that do not travel, as far as known on this side: at the last checkpoint."""
        return {name: slot.dims for name, slot in self._checkpoint.slots.items()}

    @property
    def _base(self) -> Checkpoint:
        """What a restoration begins with."""
        return self._older or self._checkpoint

    @property
    def checkpoint_step(self) -> int:
        """The step that a restoration goes back to."""
        return self._base.step

    @property
    def steps_to_replay(self) -> int:
        return len(self._base.since)

    def use(self, step: int | None = None) -> StateUse:
        """For the run of the current step. Until it has succeeded nobody knows where the state stands."""
        self._page = None
        return StateUse(self.name, self.step if step is None else step, self._feed, self.links)

    async def bring(self, loaded: Loaded) -> None:
        """The state of the current step, in the page of ``loaded``.

        Raises:
            StateDiverged: a replayed step gave other bits than before. Fault: the page failed.
        """
        if self._page is loaded.page and loaded.page.lost is None:
            return
        self._page = None
        base, pool, timeout = self._base, self._resident.pool, self._resident.needs.timeout
        await pool.command(loaded, loaded.page.set_state(self.name, base.step, base.slots, timeout=timeout))
        for step, done in enumerate(base.since, base.step):
            reply = await pool.run(loaded, done.inputs, timeout, self.use(step))
            self.replayed += 1
            if _digest(reply.tensors) != done.answer:
                raise StateDiverged(
                    f"step {step} gave other bits in {loaded.instance.name} on {loaded.session.key.backend} "
                    f"than before the fault",
                    where=self._resident.content.label,
                    remedy="this kind of browser rounds otherwise; allow another of the first kind (browsers=), "
                    "or wasm, which gives the same bits everywhere",
                )
        self._page = loaded.page

    async def run(self, inputs: Arrays) -> Reply:
        """One step: recovered where infrastructure fails, a checkpoint after it where one is due.

        Raises:
            StateDiverged: the state could not be brought back bit for bit; neither can a later call.
        """
        resident = self._resident
        reply = await resident.run(inputs, self)
        assert resident.loaded is not None
        self._page = resident.loaded.page
        self._checkpoint.since.append(
            Done({name: np.array(array) for name, array in inputs.items()}, _digest(reply.outputs))
        )
        self._older = None
        self.step += 1
        if len(self._checkpoint.since) >= self._every:
            with contextlib.suppress(
                Fault
            ):  # the answer is there; the next call finds the page lost, and recovers
                await self._take(resident.loaded)
        return reply

    async def _take(self, loaded: Loaded) -> None:
        slots = await self._fetch(loaded)
        # the older one is kept until a step was done on top of the newer: see the class
        self._older, self._checkpoint = self._checkpoint, Checkpoint(self.step, slots)

    async def _fetch(self, loaded: Loaded) -> Mapping[str, Packed]:
        timeout = self._resident.needs.timeout
        step, slots = await self._resident.pool.command(
            loaded, loaded.page.get_state(self.name, timeout=timeout)
        )
        assert step == self.step, f"{self.name} stands at step {step} in the page, here at {self.step}"
        return slots

    async def read(self) -> dict[str, NDArray[Any]]:
        """The state at the current step, by input: recovered first where it was lost."""
        slots = await self._resident.with_state(self, self._fetch)
        return {name: slot.array() for name, slot in slots.items()}

    def reset(self, initial: Mapping[str, Packed]) -> None:
        """Back to step 0 with that state; put into the page by the next call."""
        self.step, self._older, self._page = 0, None, None
        self._checkpoint = Checkpoint(0, initial)

    async def close(self) -> None:
        """Frees what the page holds; nothing where the page is gone."""
        if self in self._resident.states:
            self._resident.states.remove(self)
        loaded, self._page = self._resident.loaded, None
        if loaded is not None and loaded.page.lost is None:
            with contextlib.suppress(Fault):
                await self._resident.pool.command(
                    loaded, loaded.page.drop_state(self.name, timeout=DROP_SECONDS)
                )


def packed(arrays: Arrays) -> dict[str, Packed]:
    """As checkpoints hold them: copies, which the test cannot change any more."""
    return {name: pack(np.array(array)) for name, array in arrays.items()}


def _digest(outputs: Arrays) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(outputs.items()):
        digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
    return digest.digest()
