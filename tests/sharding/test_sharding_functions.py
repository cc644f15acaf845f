"""Model-local functions: what is in them counts, and so do random numbers, wherever they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sharding_graphs import tensor, weights

from pytest_browserpool.errors import ShardingError, UnsupportedOperator
from pytest_browserpool.sharding import inlining
from pytest_browserpool.sharding.native import check, feeds_for, read_observed
from pytest_browserpool.sharding.partition import partition
from pytest_browserpool.sharding.plan import Host
from pytest_browserpool.sharding.read import read
from pytest_browserpool.sharding.split import write_segments

HOSTS = [Host(name=f"browser{i}", latency_s=0) for i in range(8)]
OPSET, MINE = helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)
node = helper.make_node


def function(
    name: str, inputs: Sequence[str], body: Sequence[onnx.NodeProto], version: int = 17
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", version), MINE]
    return helper.make_function("mine", name, inputs, ["q"], list(body), opsets)


def made(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    shape: Sequence[int] = (2, 4),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [tensor("x", shape)], [tensor("y", shape)], constants)
    return helper.make_model(graph, opset_imports=[OPSET, MINE], ir_version=8, functions=functions)


def heavy(version: int = 17) -> onnx.ModelProto:
    """A function of 20 products, called directly, through another one and in a branch; then as many by themselves."""
    steps = [
        node("MatMul", [f"p{i}" if i else "p", "w"], [f"p{i + 1}" if i < 19 else "q"]) for i in range(20)
    ]
    inner = function("Heavy", ["p", "w"], steps, version)
    outer = function("Outer", ["p", "w"], [node("Heavy", ["p", "w"], ["q"], domain="mine")])
    bodies = {
        f"{word}_branch": helper.make_graph(
            [node("Outer", ["h2", "w"], [word], domain="mine")], word, [], [tensor(word, None)]
        )
        for word in ("then", "else")
    }
    nodes = [
        node("Heavy", ["x", "w"], ["h1"], domain="mine"),
        node("Outer", ["h1", "w"], ["h2"], domain="mine"),
        node("If", ["yes"], ["h3"], **bodies),
    ]
    for i in range(20):
        nodes.append(node("MatMul", [f"l{i}" if i else "h3", "w"], [f"l{i + 1}" if i < 19 else "y"]))
    constants = [weights("w", 64, 64), numpy_helper.from_array(np.array(True), "yes")]
    return made(nodes, constants, [inner, outer], (64, 64))


@pytest.mark.parametrize("version", [17, 13])
def test_a_call_costs_what_it_stands_for(version: int) -> None:
    """It counted as one cheap operator, so a cut for two equal browsers went far off the middle."""
    graph = read(heavy(version)).graph
    seconds = [each.seconds for each in graph.nodes]
    product = seconds[3]
    assert seconds[:3] == pytest.approx([20 * product] * 3)
    plan = partition(graph, HOSTS[:2], 2)
    assert [len(segment.nodes) for segment in plan.segments] == [2, 21]


def test_a_call_that_cannot_be_inlined_costs_by_its_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("cannot inline")

    monkeypatch.setattr(inlining, "_flat", refuse)
    first, last = (read(heavy()).graph.nodes[i].seconds for i in (0, 3))
    assert first > 5 * last


def test_operators_in_functions_are_put_where_they_run() -> None:
    inner = function("Inner", ["p"], [node("Erf", ["p"], ["q"])])
    outer = function("Outer", ["p"], [node("Inner", ["p"], ["q"], domain="mine")])
    nodes = [node("Outer", ["x"], ["a"], domain="mine"), node("Exp", ["a"], ["y"])]
    graph = read(made(nodes, functions=[inner, outer])).graph
    assert graph.nodes[0].ops == {"mine.Outer", "mine.Inner", "Erf"}
    lacks = [Host(name=f"h{i}", unsupported=frozenset({"Erf"})) for i in range(2)]
    with pytest.raises(ShardingError, match="operators Erf are not supported by every browser"):
        partition(graph, lacks, 2)
    plan = partition(graph, [lacks[0], Host(name="has it")], 2)
    assert plan.shards[0].host == "has it"


def test_a_custom_operator_counts_where_something_calls_it() -> None:
    bad = function("Bad", ["p"], [node("Zed", ["p"], ["q"], domain="zz")])
    through = function("Through", ["p"], [node("Bad", ["p"], ["q"], domain="mine")])
    plain = [node("Relu", ["x"], ["a"]), node("Exp", ["a"], ["y"])]
    read(made(plain, functions=[bad, through]))  # onnxruntime runs it
    with pytest.raises(UnsupportedOperator, match=r"'zz.Zed' is a custom one"):
        read(made([node("Through", ["x"], ["y"], domain="mine")], functions=[bad, through]))


def in_branch() -> onnx.ModelProto:
    draw = node("RandomNormalLike", ["w"], ["r"])
    bodies = {
        "then_branch": helper.make_graph([draw], "then", [], [tensor("r", None)]),
        "else_branch": helper.make_graph([node("Neg", ["w"], ["e"])], "else", [], [tensor("e", None)]),
    }
    constants = [weights("w", 2, 4), numpy_helper.from_array(np.array(True), "yes")]
    return made([node("If", ["yes"], ["d"], **bodies), *READS], constants)


def in_loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            node("RandomUniformLike", ["state"], ["r"]),
            node("Add", ["state", "r"], ["next"]),
            node("Identity", ["go"], ["on"]),
        ],
        "body",
        [tensor("i", [], TensorProto.INT64), tensor("go", [], TensorProto.BOOL), tensor("state", None)],
        [tensor("on", [], TensorProto.BOOL), tensor("next", None)],
    )
    constants = [weights("w", 2, 4), numpy_helper.from_array(np.int64(3), "trips")]
    return made([node("Loop", ["trips", "", "w"], ["d"], body=body), *READS], constants)


def in_function() -> onnx.ModelProto:
    inner = function("Draw", ["p"], [node("RandomNormalLike", ["p"], ["q"])])
    outer = function("Outer", ["p"], [node("Draw", ["p"], ["q"], domain="mine")])
    return made([node("Outer", ["w"], ["d"], domain="mine"), *READS], [weights("w", 2, 4)], [inner, outer])


def in_dropout() -> onnx.ModelProto:
    constants = [
        numpy_helper.from_array(np.float32(0.5), "ratio"),
        numpy_helper.from_array(np.array(True), "training"),
    ]
    return made(
        [node("Dropout", ["w", "ratio", "training"], ["d"]), *READS], [weights("w", 2, 4), *constants]
    )


READS = [
    node("Add", ["x", "d"], ["a"]),
    node("Tanh", ["a"], ["b"]),
    node("Exp", ["b"], ["c"]),
    node("Sub", ["c", "d"], ["y"]),
]


@pytest.mark.parametrize("build", [in_branch, in_loop, in_function, in_dropout])
def test_numbers_are_drawn_in_one_shard(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """Counted as constant, each shard drew its own, and the check passed where onnxruntime seeds them alike."""
    source = read_observed(build())
    assert source.constants == frozenset()
    plan = partition(source.graph, HOSTS[:4], 4)
    files = write_segments(source, plan, tmp_path)
    drawing = [
        file.index for file in files if "d" in {o for n in onnx.load(file.path).graph.node for o in n.output}
    ]
    assert len(drawing) == 1
    assert check(source, files, feeds_for(source)).worst.keys() == {"y"}
