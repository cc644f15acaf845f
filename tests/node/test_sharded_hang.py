"""A shard's page that does not answer ends the requests that are under way, and not the model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharded_support import NativePool, Sharded
from sharding_graphs import control_flow

from pytest_browserpool.browsers.protocol import Packed, StateUse
from pytest_browserpool.errors import PageHung

INPUTS = {"x": np.full((4, 8), 0.5, np.float32)}


class HangingPool(NativePool):
    """Its runs of these numbers get no answer within their deadline."""

    def __init__(self, hang: set[int]) -> None:
        super().__init__()
        self.hang = hang

    async def run_packed(
        self, loaded: Any, inputs: Mapping[str, Packed], timeout: float, state: StateUse | None = None
    ) -> Any:
        if self.runs in self.hang and loaded.page.lost is None:
            self.runs += 1
            await asyncio.sleep(0.01)  # as long as it takes others to be sent
            loaded.page.lost = loaded.page.lost or PageHung(f"no answer to run {self.runs - 1}")
        return await super().run_packed(loaded, inputs, timeout, state)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    folder: Path = tmp_path_factory.mktemp("hang")
    path = folder / "model.onnx"
    path.write_bytes(control_flow().SerializeToString())
    return Sharded(path, folder / "shards")


@pytest.mark.parametrize("level", ["low", "medium", "high"])
def test_the_next_request_finds_the_shard_loaded_again(sharded, level):
    told: list[str] = []

    async def calls() -> None:
        resident = sharded.resident(
            HangingPool({4}), lambda *what: told.append(what[3]), fault_tolerance=level
        )
        await resident.place()
        right = (await resident.run(INPUTS)).outputs
        with pytest.raises(PageHung, match="no answer to run 4"):
            await resident.run(INPUTS)
        assert resident.use.recoveries == 0
        for _ in range(2):
            again = (await resident.run(INPUTS)).outputs
            assert all(np.array_equal(again[name], value) for name, value in right.items())

    asyncio.run(calls())
    assert told == ["not_retried", "recovered"]


def test_what_is_under_way_ends_with_it(sharded):
    """A model that hangs each time must not cost a load and a time limit for each of many requests."""

    async def calls() -> tuple[list[Any], int]:
        pool = HangingPool({2, 3})
        resident = sharded.resident(pool)
        await resident.place()
        loads = pool.loads
        answers = await asyncio.gather(*(resident.run(INPUTS) for _ in range(6)), return_exceptions=True)
        return answers, pool.loads - loads

    answers, loads = asyncio.run(calls())
    assert any(isinstance(each, PageHung) for each in answers)
    assert all(isinstance(each, PageHung) or each.outputs for each in answers)
    assert loads == 0
