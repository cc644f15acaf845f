"""State that stays with the shards of a model: whatever dies, every token is that of the undisturbed run, or an error."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharded_support import NativePool, Sharded
from sharding_graphs import SMALL, small_weights

from pytest_browserpool.browsers.protocol import pack
from pytest_browserpool.errors import Fault, StateDiverged
from pytest_browserpool.node.sharded_state import ShardedState
from pytest_browserpool.sharding.execute import MOST_FAULTS
from pytest_browserpool.sharding.llm.config import LOGITS
from pytest_browserpool.sharding.llm.generate import cache_links, empty_cache, greedy, step_inputs
from pytest_browserpool.sharding.llm.llama import build
from pytest_browserpool.sharding.native import NativeWhole

STEPS = 6
PROMPT = [3, 1, 4, 1, 5]
SHAPES = {
    "input_ids": (1, 1),
    "attention_mask": (1, 9),
    SMALL.past[0]: (1, SMALL.kv_heads, 8, SMALL.head_size),
}
EMPTY = {name: pack(array) for name, array in empty_cache(SMALL).items()}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("llama") / "small.onnx"
    build(SMALL, small_weights, made)
    return made


@pytest.fixture(scope="module")
def sharded(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    return Sharded(path, tmp_path_factory.mktemp("shards"), input_shapes=SHAPES)


@pytest.fixture(scope="module")
def tokens(path: Path) -> list[int]:
    return greedy(NativeWhole(path).run, SMALL, PROMPT, STEPS)


async def steps(state: ShardedState, count: int = STEPS) -> list[int]:
    new, found = PROMPT, list[int]()
    for _ in range(count):
        reply = await state.run(step_inputs(new, len(PROMPT) + len(found)))
        assert list(reply.outputs) == [LOGITS]
        found.append(int(np.argmax(reply.outputs[LOGITS])))
        new = found[-1:]
    return found


def generate(sharded: Sharded, pool: NativePool, every: int = 4, **needs: Any) -> tuple[list[int], Any, Any]:
    """Tokens, the state after them, and the session's state object."""

    async def once() -> tuple[list[int], Any, Any]:
        resident = sharded.resident(pool, **needs)
        await resident.place()
        state = ShardedState(resident, cache_links(SMALL), EMPTY, every)
        found = await steps(state)
        kept = await state.read()
        await state.close()
        return found, kept, state

    return asyncio.run(once())


def test_undisturbed_only_what_crosses_the_cuts_travels(sharded, tokens):
    pool = NativePool()
    found, kept, state = generate(sharded, pool)
    assert found == tokens
    # one block is cut between its values and what mixes them, so these values cross a cut and go along
    crossing = {
        link
        for out, link in cache_links(SMALL).items()
        if any(out in file.inputs for file in sharded.made.sharded.files)
    }
    assert len(crossing) <= 1
    assert state.kept == set(SMALL.past) - crossing
    assert pool.runs == 3 * STEPS
    assert state.replayed == 0
    assert all(array.shape[2] == len(PROMPT) + STEPS - 1 for array in kept.values())
    assert all(not page.page.states for page in pool.pages.values())  # closed


@pytest.mark.parametrize("level", ["low", "medium", "high"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_each_shard_lost_at_each_step_leaves_all_tokens(sharded, tokens, level, when):
    """``after``: the step was done in the page, and its answer lost. Doing it again there would append it twice."""
    _, expected, _ = generate(sharded, NativePool())
    for number in range(3 * STEPS):
        pool = NativePool(**{when: {number}})
        found, kept, state = generate(sharded, pool, fault_tolerance=level)
        assert found == tokens, f"run {number}"
        assert all(kept[name].tobytes() == array.tobytes() for name, array in expected.items())
        assert state._resident.use.recoveries == 1
        if level == "medium":
            # the lost shard alone, since its checkpoint, or since the one before where that has just been taken
            step = number // 3
            assert state.replayed == (step % 4 or min(step, 4))
            assert pool.runs == 3 * STEPS + state.replayed + 1


@settings(max_examples=20, deadline=None)
@given(
    st.sets(st.integers(0, 40), max_size=4),
    st.sets(st.integers(0, 40), max_size=3),
    st.sampled_from(["low", "medium", "high"]),
    st.integers(1, 6),
)
def test_whatever_dies_tokens_are_right_or_there_is_an_error(sharded, tokens, before, after, level, every):
    try:
        found, _, _ = generate(sharded, NativePool(before, after), every, fault_tolerance=level)
    except Fault:
        assert len(before) + len(after) > MOST_FAULTS
        return
    assert found == tokens


def test_two_sessions_at_once_do_not_know_each_other(sharded, tokens):
    async def both() -> list[list[int]]:
        resident = sharded.resident(NativePool(before={13}))
        await resident.place()
        states = [ShardedState(resident, cache_links(SMALL), EMPTY, every) for every in (2, 5)]
        return await asyncio.gather(*(steps(state) for state in states))

    assert asyncio.run(both()) == [tokens, tokens]


def test_without_tolerance_a_lost_shard_is_an_error(sharded):
    with pytest.raises(Fault):
        generate(sharded, NativePool(before={10}), fault_tolerance="none")


def test_a_link_that_no_shard_has_alone_travels_and_is_right(sharded, tokens):
    """The last shard's cache said to come from the first one's: nonsense as a model, but it must be carried."""
    links = cache_links(SMALL)
    first, last = SMALL.present[0], SMALL.present[-1]
    links[first], links[last] = links[last], links[first]

    async def crossed(every: int, before: set[int]) -> tuple[list[int], frozenset[str]]:
        resident = sharded.resident(NativePool(before))
        await resident.place()
        state = ShardedState(resident, links, EMPTY, every)
        return await steps(state), state.kept

    found, kept = asyncio.run(crossed(4, set()))
    assert not kept & {links[first], links[last]}
    for number in (4, 8, 17):
        assert asyncio.run(crossed(2, {number}))[0] == found


def test_a_browser_that_rounds_otherwise_is_found_out(sharded):
    class Rounding(NativePool):
        async def run_packed(
            self, loaded: Any, inputs: Mapping[str, Any], timeout: float, state: Any = None
        ) -> Any:
            reply = await super().run_packed(loaded, inputs, timeout, state)
            if self.runs > 11:
                for name, tensor in reply.packed.items():
                    if tensor.kind == "float32":
                        reply.packed[name] = pack(np.nextafter(tensor.array(), np.float32(np.inf)))
            return reply

    with pytest.raises(StateDiverged, match=r"step 0 of segment 1 gave other bits in two on wasm"):
        generate(sharded, Rounding(before={10}))


def test_reset_begins_anew(sharded, tokens):
    async def twice() -> list[list[int]]:
        resident = sharded.resident(NativePool(before={24}))
        await resident.place()
        state = ShardedState(resident, cache_links(SMALL), EMPTY, 3)
        found = [await steps(state)]
        state.reset(EMPTY)
        return [*found, await steps(state)]

    assert asyncio.run(twice()) == [tokens, tokens]
