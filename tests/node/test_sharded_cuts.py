"""Another cut in place of one that was refused: what fits it stays, what does not ends, and the answer is the whole's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from sharded_support import NativePool, Sharded
from sharding_graphs import model, tensor, weights

from pytest_browserpool.errors import BackendRefused
from pytest_browserpool.node.refusals import SegmentsRefused
from pytest_browserpool.sharding.native import NativeShards, NativeWhole

X = {"x": np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six products, with ``Neg`` after the first two, ``Tanh`` and ``Relu`` after the others."""
    nodes, last = [], "x"
    for number, op in enumerate(("Neg", "Neg", "Tanh", "Tanh", "Relu", "Relu")):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"m{number}"]))
        nodes.append(helper.make_node(op, [f"m{number}"], [f"e{number}"]))
        last = f"e{number}"
    size = [64, 64]
    graph = helper.make_graph(
        nodes, "products", [tensor("x", size)], [tensor(last, size)], [weights("w", 64, 64)]
    )
    made: Path = tmp_path_factory.mktemp("products") / "model.onnx"
    onnx.save(model(graph), made)
    return made


@pytest.fixture(scope="module")
def sharded(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    return Sharded(path, tmp_path_factory.mktemp("shards"))


def held(resident: Any) -> dict[tuple[str, tuple[int, ...]], Any]:
    """Sessions by browser and nodes."""
    segments = resident.made.sharded.plan.segments
    return {
        (lane.seat.browser, segments[index].nodes): loaded.session
        for lane in resident.lanes
        for index, loaded in lane.sessions.items()
    }


@pytest.mark.parametrize("refusing", [0, 1, 2])
def test_shards_that_fit_stay_and_the_others_end(sharded, path, tmp_path, refusing):
    browser = sharded.made.seats[refusing].browser
    own = sharded.made.sharded.plan.shards[refusing].segments
    nodes = frozenset(n for i in own for n in sharded.made.sharded.plan.segments[i].nodes)
    ops = {onnx.load(path).graph.node[n].op_type for n in nodes}

    async def run() -> None:
        pool = NativePool(lacks={browser: ops})
        resident = sharded.resident(pool)
        with pytest.raises(SegmentsRefused) as caught:
            await resident.place()
        refusals = caught.value.refusals
        assert [(r.browser, r.backend, frozenset(r.nodes)) for r in refusals] == [(browser, "wasm", nodes)]
        before, loads = held(resident), pool.loads
        assert len(before) == 2
        pool.lacks = {}
        await resident.place_again(sharded.cut(tmp_path, {browser: nodes}), refusals)
        after = held(resident)
        stayed = before.keys() & after.keys()
        assert stayed
        assert all(before[way] is after[way] for way in stayed)
        assert pool.loads == loads + len(after) - len(stayed)
        there = {id(session) for each in pool.pages.values() for session in each.page.sessions.values()}
        assert there == {id(session) for session in after.values()}  # what does not fit takes no memory
        assert all(session.holders == 1 for session in after.values())
        reply = await resident.run(X)
        expected = NativeWhole(path).run(X)
        for name, value in reply.outputs.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
        resident.pin(None)
        assert all(session.holders == 0 for session in after.values())
        assert all(each.leases == 0 for each in pool.pages.values())

    asyncio.run(run())


def test_all_shards_are_tried_before_it_is_cut_anew(sharded):
    """Each refusal that one cut shows spares another cut."""
    pool = NativePool(lacks=dict.fromkeys(("one", "two", "three"), ("MatMul", "Neg", "Tanh", "Relu")))
    with pytest.raises(SegmentsRefused) as caught:
        asyncio.run(sharded.resident(pool).place())
    assert {refusal.browser for refusal in caught.value.refusals} == {"one", "two", "three"}
    assert str(caught.value).count("got no node of") == 3


def test_a_copy_that_is_refused_is_no_reason_to_cut_anew(sharded):
    """Level high: whose copy goes where does not depend on the cut."""
    first, second = (seat.browser for seat in sharded.made.seats[:2])
    nodes = sharded.made.sharded.plan.segments[0].nodes
    ops = {sharded.made.source.model.graph.node[n].op_type for n in nodes}
    pool = NativePool(lacks={second: ops})
    words = rf"the copy of shard 0, which runs on wasm, does not run in {second}"
    assert first != second
    with pytest.raises(BackendRefused, match=words) as caught:
        asyncio.run(sharded.resident(pool, fault_tolerance="high").place())
    assert not isinstance(caught.value, SegmentsRefused)


def test_what_was_refused_may_leave_no_cut(sharded, tmp_path):
    everything = dict.fromkeys(("one", "two"), frozenset(range(12)))
    with pytest.raises(BackendRefused, match=r"no cut is left.*one refused(.|\n)*two refused"):
        sharded.cut(tmp_path, everything)


def test_a_file_that_is_written_anew_is_another_model(tmp_path):
    """As a test does that exports each of several models to one place."""
    path = tmp_path / "model.onnx"
    for op in ("Neg", "Exp"):
        nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node(op, ["a"], ["y"])]
        graph = helper.make_graph(nodes, "pair", [tensor("x", [64, 64])], [tensor("y", [64, 64])])
        onnx.save(model(graph), path)
        made = Sharded(path, tmp_path / "shards", shards=2).made
        assert [node.op for node in made.source.graph.nodes] == ["Relu", op]
        parts = NativeShards(made.sharded.files, made.sharded.outputs).run(X)
        assert np.array_equal(parts["y"], NativeWhole(path).run(X)["y"])
