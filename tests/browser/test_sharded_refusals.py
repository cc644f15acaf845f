"""What cannot run over several browsers is said before any browser is launched for it: the value, the model, the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx_models import unknown_operator
from sharding_graphs import REAL, control_flow, with_optional, with_sequence

from pytest_browserpool.errors import (
    BrowserPoolError,
    CapabilityError,
    InputError,
    RunFailed,
    ShardingError,
    UnsupportedOperator,
)
from pytest_browserpool.fixtures import _model
from pytest_browserpool.values import ModelNeeds

ANGLE, SHAPES = REAL["angle"]

CASES: dict[str, tuple[Any, dict[str, Any], type[BrowserPoolError], str]] = {
    "unknown strategy": (control_flow(), {"shards": 3, "sharding": "by_magic"}, ShardingError, "by_magic"),
    "unknown tolerance": (control_flow(), {"shards": 2, "fault_tolerance": "some"}, ShardingError, "some"),
    "more than the graph allows": (
        control_flow(),
        {"shards": 30},
        ShardingError,
        "the largest number that works is shards=7",
    ),
    "far more than the graph allows": (
        control_flow(),
        {"shards": 1000},
        ShardingError,
        "it can be cut in 6 place(s) only\n  where: {label}\n  remedy: the largest number that works is shards=7",
    ),
    "through a sequence": (
        with_sequence(),
        {"shards": 5},
        ShardingError,
        "'both' is a sequence and cannot pass\n  where: {label}\n  remedy: the largest number that works is shards=4",
    ),
    "through an optional": (
        with_optional(),
        {"shards": 4},
        ShardingError,
        "'maybe' is an optional and cannot pass\n  where: {label}\n  remedy: the largest number that works is shards=3",
    ),
    "no such blocks": (
        control_flow(),
        {"shards": 2, "sharding": "attention_feedforward"},
        ShardingError,
        "use layer_balanced; by this one it stays whole",
    ),
    "custom operator": (
        unknown_operator(),
        {"shards": 2},
        UnsupportedOperator,
        "'example.nowhere.Frobnicate' is a custom one",
    ),
    "open dimension": (
        ANGLE,
        {"shards": 2},
        ShardingError,
        "dimension 0 of input 'x' is open (-1)\n  where: {label}\n  remedy: give its size, such as input_shapes={'x':",
    ),
    "shape of another rank": (
        ANGLE,
        {"shards": 2, "input_shapes": {"x": (1, 3, 48)}},
        InputError,
        "has 3 dimensions, the model's has 4\n  where: {label}",
    ),
    "shape of another input": (ANGLE, {"shards": 2, "input_shapes": {"y": (1,)}}, InputError, "inputs are x"),
    "shape that does not run": (
        ANGLE,
        {"shards": 2, "input_shapes": {"x": (1, 3, 48, 0)}},
        RunFailed,
        "does not run natively with x [1, 3, 48, 0]",
    ),
    "more than the pool may hold": (
        ANGLE,
        {"shards": 4, "input_shapes": SHAPES},
        CapabilityError,
        "--browserpool-max-browsers=4",
    ),
    "no browser": (control_flow(), {"shards": 2, "browsers": ("lynx",)}, CapabilityError, "lynx"),
    "a backend that is not there": (
        control_flow(),
        {"shards": 2, "backends": (), "shard_backends": {"firefox": ("webnn",)}},
        CapabilityError,
        "shard_backends wants webnn of firefox: webnn: navigator.ml is missing",
    ),
    "another bundle": (
        control_flow(),
        {"shards": 2, "session_options": {"bundle": "native"}},
        ShardingError,
        "leave bundle out",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_is_said_before_anything_is_launched(fresh_bench, case):
    source, needs, error, words = CASES[case]
    bench = fresh_bench()
    wanted = ModelNeeds(
        **{"backends": ("wasm",), "browsers": ("chromium", "firefox", "headless-shell"), **needs}
    )
    with pytest.raises(error) as caught:
        _model(bench.node, wanted, source, Path(__file__))
    label = bench.node.resolve(source, Path(__file__))[0].label
    assert words.replace("{label}", label) in str(caught.value)
    assert caught.value.remedy
    if error is not CapabilityError or "max" in words:
        assert label in (caught.value.where or "") or case == "unknown tolerance"
    assert bench.node._pool is None or bench.node.pool.launches == 0


def test_a_browser_too_small_for_its_shard(fresh_bench):
    source, shapes = REAL["recogniser"]
    bench = fresh_bench(memory_share=1e-6)
    wanted = ModelNeeds(backends=("wasm",), browsers=("chromium", "firefox"), shards=2, input_shapes=shapes)
    words = r"some browser is too small for its shard: the model needs about [\d.]+ MiB in one piece"
    with pytest.raises(ShardingError, match=words):
        _model(bench.node, wanted, source, Path(__file__))
    assert bench.node._pool is None or bench.node.pool.launches == 0
