"""The pipeline by itself: order, bounds, what a fault costs at each level, and where the time goes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_browserpool.browsers.protocol import Packed, pack
from pytest_browserpool.errors import BrowserCrashed, Fault, ShardingError
from pytest_browserpool.sharding.execute import AHEAD, MOST_FAULTS, Answer, Pipeline, Stage

STAGES = (
    Stage(0, 0, ("x",), ("a", "skip")),
    Stage(1, 1, ("a",), ("b",)),
    Stage(2, 0, ("b",), ("c",)),  # a shard with two segments
    Stage(3, 2, ("c", "skip", "x"), ("y",)),
)


class Adder:
    """Each output is the sum of its stage's inputs and the stage's number. ``failing``: which runs of which stage fail."""

    def __init__(self, failing: Mapping[int, set[int]] | None = None, restorable: bool = True) -> None:
        self.failing, self.restorable = failing or {}, restorable
        self.ran: list[int] = []
        self.restored: list[int] = []
        self.lost: list[int] = []
        self.most: dict[int, int] = {}
        self._at: dict[int, int] = {}

    async def run_stage(self, stage: Stage, tensors: Mapping[str, Packed]) -> Answer:
        assert set(tensors) == set(stage.inputs)
        self._at[stage.lane] = self._at.get(stage.lane, 0) + 1
        self.most[stage.lane] = max(self.most.get(stage.lane, 0), self._at[stage.lane])
        number = self.ran.count(stage.index)
        self.ran.append(stage.index)
        await asyncio.sleep(0)
        self._at[stage.lane] -= 1
        if number in self.failing.get(stage.index, ()):
            raise BrowserCrashed(f"stage {stage.index}, run {number}")
        total = sum(tensor.array() for tensor in tensors.values()) + stage.index
        return Answer({name: pack(np.asarray(total)) for name in stage.outputs}, 1.0)

    async def restore(self, lane: int, fault: Fault) -> None:
        await asyncio.sleep(0)
        if not self.restorable:
            raise fault
        self.restored.append(lane)

    def given_up(self, lane: int, fault: Fault) -> None:
        self.lost.append(lane)


def feeds(value: float) -> dict[str, Packed]:
    return {"x": pack(np.array([value]))}


def right(value: float) -> float:
    a = value + 0
    return (a + 1 + 2) + a + value + 3


def run(runner: Adder, tolerance: str, count: int = 1) -> list[float]:
    async def all_of_them() -> list[float]:
        pipeline = Pipeline(STAGES, ["y"], runner, tolerance=tolerance)
        done = await asyncio.gather(*(pipeline.request(feeds(i)) for i in range(count)))
        return [float(each.tensors["y"].array()[0]) for each in done]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("tolerance", ["none", "low", "medium", "high"])
def test_each_request_gets_its_own_answer(tolerance):
    runner = Adder()
    assert run(runner, tolerance, 20) == [right(i) for i in range(20)]
    assert max(runner.most.values()) <= AHEAD


def test_medium_goes_on_where_it_was_and_low_begins_again():
    medium, low = Adder({3: {0}}), Adder({3: {0}})
    assert run(medium, "medium") == run(low, "low") == [right(0)]
    assert medium.ran == [0, 1, 2, 3, 3]
    assert low.ran == [0, 1, 2, 3, 0, 1, 2, 3]
    assert medium.restored == low.restored == [2]


def test_none_does_not_try_again():
    runner = Adder({1: {0}})
    with pytest.raises(BrowserCrashed, match="remedy: fault_tolerance='medium'"):
        run(runner, "none")
    assert (runner.restored, runner.lost) == ([], [1])


def test_a_lane_that_many_requests_saw_fail_is_restored_once():
    runner = Adder({0: {0, 1}})  # both commands that were in the page
    assert run(runner, "medium", 5) == [right(i) for i in range(5)]
    assert runner.restored == [0]


def test_a_model_that_crashes_every_time_ends():
    runner = Adder({1: set(range(100))})
    with pytest.raises(BrowserCrashed):
        run(runner, "medium")
    assert len(runner.restored) == MOST_FAULTS
    assert runner.lost == [1]


def test_a_lane_that_cannot_be_restored_fails_the_request():
    with pytest.raises(BrowserCrashed):
        run(Adder({2: {0}}, restorable=False), "medium")


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 3), st.sets(st.integers(0, 6), max_size=2)),
    st.sampled_from(["low", "medium", "high"]),
    st.integers(1, 6),
)
def test_whatever_fails_an_answer_is_right_or_an_error(failing, tolerance, count):
    runner = Adder(failing)

    async def all_of_them() -> list[object]:
        pipeline = Pipeline(STAGES, ["y"], runner, tolerance=tolerance)
        return await asyncio.gather(
            *(pipeline.request(feeds(i)) for i in range(count)), return_exceptions=True
        )

    for i, outcome in enumerate(asyncio.run(all_of_them())):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, Fault)
        else:
            assert float(outcome.tensors["y"].array()[0]) == right(i)


def test_a_stage_that_leaves_an_output_out_is_an_error():
    class Partial(Adder):
        async def run_stage(self, stage: Stage, tensors: Mapping[str, Packed]) -> Answer:
            answer = await super().run_stage(stage, tensors)
            return Answer({}, 1.0) if stage.index == 1 else answer

    with pytest.raises(ShardingError, match="did not return b"):
        run(Partial(), "medium")


def test_time_is_compute_transfer_or_idle():
    """A clock that advances by hand: two lanes, one second each, half of it compute."""
    now = 0.0

    class Slow(Adder):
        async def run_stage(self, stage: Stage, tensors: Mapping[str, Packed]) -> Answer:
            nonlocal now
            answer = await super().run_stage(stage, tensors)
            now += 1.0
            return Answer(answer.tensors, 500.0)

    async def once() -> Pipeline:
        pipeline = Pipeline(STAGES[:2], ["b"], Slow(), clock=lambda: now)
        await pipeline.request(feeds(1))
        return pipeline

    first, second = asyncio.run(once()).times
    for lane in (first, second):
        assert (lane.compute_ms, lane.transfer_ms, lane.idle_ms) == (500.0, 500.0, 1000.0)
    assert (first.bytes_in, first.bytes_out, second.bytes_in) == (8, 16, 8)
