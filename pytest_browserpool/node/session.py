"""``model.session(state=…)``: the handle of a model whose recurrent state stays in the browser between calls."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_browserpool.config import did_you_mean
from pytest_browserpool.errors import InputError, hide_from_traceback
from pytest_browserpool.models.inputs import NUMPY, checked
from pytest_browserpool.models.inspect import ModelInfo, Tensor
from pytest_browserpool.node.resident import Resident
from pytest_browserpool.node.sharded_state import ShardedState
from pytest_browserpool.node.stateful import CHECKPOINT_EVERY, DROP_SECONDS, PageState, packed

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node
    from pytest_browserpool.node.sharded import ShardedResident

__tracebackhide__ = hide_from_traceback


class ModelSession:
    """A model with state that stays in the browser: call it with the other inputs, it returns the other outputs.

    After a fault it goes on bit for bit: the model is loaded in a new page or browser, the last checkpoint is put there,
    the steps since are run again and compared with what they gave before, and then comes the call. Where that cannot be,
    the call fails with the history of what was tried. On an accelerator it only moves to browsers of the same kind; on
    wasm to any. A context manager: leaving it frees the state, and so does the end of the test.
    """

    def __init__(
        self,
        node: Node,
        resident: Resident | ShardedResident,
        state: Mapping[str, str],
        initial: Mapping[str, Any] | None = None,
        checkpoint_every: int | None = None,
    ) -> None:
        self._node, self._resident = node, resident
        info, where = resident.info, resident.content.label
        self._links = _checked_links(state, info, where)
        fed = set(self._links.values())
        self._kept = tuple(t for t in info.inputs if t.name in fed)
        self._given = dataclasses.replace(info, inputs=tuple(t for t in info.inputs if t.name not in fed))
        self._initial = self._first(initial or {})
        every = CHECKPOINT_EVERY if checkpoint_every is None else checkpoint_every
        if every < 1:
            raise InputError(f"checkpoint_every is {every}", where=where, remedy="give 1 or more steps")
        self._state: PageState | ShardedState | None = (
            PageState(resident, self._links, packed(self._initial), every)
            if isinstance(resident, Resident)
            else ShardedState(resident, self._links, packed(self._initial), every)
        )

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """One step: the outputs that are no state.

        Raises:
            InputError: as a call of the model; an input that the session keeps must not be given.
            StateDiverged: the state could not be brought back bit for bit. RunFailed, Fault: as a call of the model.
        """
        state, node, resident = self._open, self._node, self._resident
        where = resident.content.label
        for name in inputs:
            if name in self._initial:
                raise InputError(
                    f"input {name!r} is kept in the browser by this session",
                    where=where,
                    remedy="leave it out; reset({...}) sets it",
                )
        arrays = checked(inputs, self._given, where=where)
        budget = node.budget(resident)
        reply = node.report.called(
            node.test, resident, time.time(), arrays, lambda: node.call(lambda: state.run(arrays), budget)
        )
        return dict(reply.outputs)

    @property
    def step(self) -> int:
        """Calls since the beginning or the last ``reset``."""
        return self._open.step

    @property
    def replayed(self) -> int:
        """Steps that were run again after faults; ``model.recoveries`` counts the faults."""
        return self._open.replayed

    def state(self) -> dict[str, NDArray[Any]]:
        """The state as it stands now, by input name, fetched from the browser."""
        state = self._open
        found: dict[str, NDArray[Any]] = self._node.call(state.read, self._node.budget(self._resident))
        return found

    def reset(self, initial: Mapping[str, Any] | None = None) -> None:
        """Begins anew, with ``initial`` (by input name) or what the session began with.

        Raises:
            InputError: as for ``model.session``.
        """
        state = self._open
        arrays = self._initial if initial is None else self._first(initial)
        self._node.call(lambda: _at_once(state.reset, packed(arrays)), DROP_SECONDS)

    def close(self) -> None:
        """Frees the state in the browser. The model stays as it is."""
        state, self._state = self._state, None
        if state is not None:
            self._node.call(state.close, DROP_SECONDS)

    def __enter__(self) -> ModelSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _open(self) -> PageState | ShardedState:
        if self._state is None:
            raise InputError(
                "the session is closed",
                where=self._resident.content.label,
                remedy="read it before the with block or the test ends, or make another with model.session(...)",
            )
        return self._state

    def _first(self, given: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The state before the first step: what is given, zeros for the rest."""
        where = self._resident.content.label
        zeros = {t.name: _zeros(t, where) for t in self._kept if t.name not in given}
        kept = dataclasses.replace(self._given, inputs=self._kept)
        return checked({**given, **zeros}, kept, where=where)


async def _at_once(function: Any, *arguments: Any) -> None:
    function(*arguments)


def _checked_links(state: Mapping[str, str], info: ModelInfo, where: str) -> dict[str, str]:
    """Output → input, each of them the model's own and of one element type."""
    if not isinstance(state, Mapping) or not state:
        raise InputError(
            f"state is {state!r}",
            where=where,
            remedy='give a dict {"output name": "input name"} of what stays',
        )
    outputs, inputs = {t.name: t for t in info.outputs}, {t.name: t for t in info.inputs}
    for output, name in state.items():
        for kind, wanted, known in (("output", output, outputs), ("input", name, inputs)):
            if wanted not in known:
                raise InputError(
                    f"no {kind} {wanted!r}{did_you_mean(str(wanted), known)}",
                    where=f"{where}, state={dict(state)}",
                    remedy=f"the {kind}s are {'; '.join(map(str, known.values()))}",
                )
        if outputs[output].dtype != inputs[name].dtype:
            raise InputError(
                f"output {outputs[output]} cannot become input {inputs[name]}", where=f"{where}, state"
            )
    if len(set(state.values())) < len(state):
        raise InputError(f"one input gets two outputs: {dict(state)}", where=where, remedy="each input once")
    return dict(state)


def _zeros(tensor: Tensor, where: str) -> NDArray[Any]:
    if not tensor.static or tensor.dtype not in NUMPY:
        raise InputError(
            f"the state {tensor} has no known size to begin with",
            where=where,
            remedy=f"give its first value: initial={{{tensor.name!r}: array}} (a cache is empty: size 0)",
        )
    assert tensor.dims is not None
    return np.zeros([d for d in tensor.dims if isinstance(d, int)], NUMPY[tensor.dtype])


def close_all(node: Node, resident: Resident | ShardedResident) -> None:
    """Frees the states of sessions that a test has left open."""
    states: list[PageState | ShardedState] = [*resident.states]
    for state in states:
        node.call(state.close, DROP_SECONDS)
