"""A shard whose backend runs nothing of its part, on real browsers: the model is cut anew, on the record, and for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from sharding_graphs import model, tensor, weights

from pytest_browserpool.artefacts import pins
from pytest_browserpool.errors import BackendRefused
from pytest_browserpool.fixtures import ShardedModel, _model
from pytest_browserpool.node import refusals, speeds
from pytest_browserpool.values import ModelNeeds

BROWSERS = ("chromium", "headless-shell")
SHAPES = {"x": (64, 64)}

SPEEDS = {"chromium": 0.001, "headless-shell": 1.0}
"""As after a run on a loaded machine: so slow a browser gets as little as a cut can give it."""


def products(*elementwise: str) -> onnx.ModelProto:
    """Products of matrices after one such operator each, behind two that onnxruntime-web's WebGPU provider lacks."""
    nodes = [helper.make_node("Round", ["x"], ["a"]), helper.make_node("Sign", ["a"], ["b"])]
    last = "b"
    for number, op in enumerate(elementwise):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"m{number}"]))
        nodes.append(helper.make_node(op, [f"m{number}"], [f"e{number}"]))
        last = f"e{number}"
    size = list(SHAPES["x"])
    graph = helper.make_graph(
        nodes, "products", [tensor("x", size)], [tensor(last, size)], [weights("w", 64, 64)]
    )
    return model(graph)


@pytest.fixture
def opened(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ShardedModel]:
    """A model over the two browsers with those speeds; nothing is known of its refusals at first."""
    monkeypatch.setattr(speeds, "speed", lambda node, seat, sha256, threads: SPEEDS[seat.browser])
    monkeypatch.setattr(refusals, "_known", {})
    seen: set[str] = set()

    def open_(source: onnx.ModelProto, first: str) -> ShardedModel:
        sha256 = bench.node.resolve(source, Path(__file__))[0].sha256
        if sha256 not in seen:
            seen.add(sha256)
            for record in (pins.default_cache().root / refusals.KIND).glob(f"*-{sha256[:16]}-*"):
                record.unlink()
        backends = {"chromium": (first,), "headless-shell": ("wasm",)}
        wanted = ModelNeeds(
            shards=2, browsers=BROWSERS, shard_backends=backends, input_shapes=SHAPES, timeout=120.0
        )
        made = _model(bench.node, wanted, source, Path(__file__))
        assert isinstance(made, ShardedModel)
        return made

    return open_


def test_it_is_cut_anew_and_what_was_refused_is_not_tried_again(bench, opened, monkeypatch):
    source = products("Relu", "Tanh")
    made = opened(source, "webgpu")
    inputs = {"x": np.linspace(-3, 3, 64 * 64, dtype=np.float32).reshape(64, 64)}
    expected = onnxruntime.InferenceSession(source.SerializeToString()).run(None, inputs)[0]
    np.testing.assert_allclose(next(iter(made(inputs).values())), expected, rtol=1e-3, atol=1e-4)
    by_browser = {shard.browser.name: shard for shard in made.shards}
    assert by_browser["chromium"].backend == "webgpu"
    assert by_browser["chromium"].placement["webgpu"] >= 1
    assert by_browser["headless-shell"].backend == "wasm"
    # what the page's own placement log said, in the history and in the plan
    mine = [r for r in bench.rows("operations_log") if r["nodeid"] == bench.node.test.nodeid]
    refused = [r for r in mine if r["kind"] == "load" and not r["ok"]]
    assert refused, "the cut for these speeds gives WebGPU only what it does not run"
    assert all((r["browser"], r["backend"]) == ("chromium", "webgpu") for r in refused)
    assert all("webgpu" not in json.loads(r["placement"]) for r in refused)
    assert all("the model is cut anew" in r["error"] and "(Round)" in r["error"] for r in refused)
    assert made.plan.count("cut anew: webgpu in chromium got no node of") == len(refused)

    # another run, which only has what is kept
    bench.node.end_test()
    bench.node.begin_test("another run")
    monkeypatch.setattr(refusals, "_known", {})
    loads = bench.node.pool.loads
    again = opened(source, "webgpu")
    assert "cut anew" not in again.plan
    assert [s.nodes for s in again._resident.made.sharded.plan.segments] == [
        s.nodes for s in made._resident.made.sharded.plan.segments
    ]
    assert (again.warm, bench.node.pool.loads) == (True, loads)


def test_where_no_cut_is_left_each_refusal_is_named(bench, opened):
    """Asked-for backends stay: a model of which WebGPU runs nothing is not put on another one without a word."""
    nodes = [helper.make_node(op, [a], [b]) for op, a, b in (("Round", "x", "a"), ("Sign", "a", "b"))]
    graph = helper.make_graph(nodes, "nothing", [tensor("x", [64, 64])], [tensor("b", [64, 64])])
    source = model(graph)
    with pytest.raises(BackendRefused) as caught:
        opened(source, "webgpu")
    text = str(caught.value)
    assert "no cut is left" in text
    assert text.count("webgpu in chromium got no node of") == 2
    assert "0 (Round): onnxruntime placed {'wasm': 1}" in text
    assert "1 (Sign): onnxruntime placed {'wasm': 1}" in text
    launches = bench.node.pool.launches
    with pytest.raises(BackendRefused, match="no cut is left"):  # known now, so nothing is loaded for it
        opened(source, "webgpu")
    assert bench.node.pool.launches == launches
