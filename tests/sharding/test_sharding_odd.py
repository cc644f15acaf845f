"""Graphs that exporters do write, though seldom: names used twice, results that nobody reads, types of four bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sharding_graphs import model, tensor

from pytest_browserpool.browsers.protocol import DTYPES
from pytest_browserpool.errors import InvalidModel, ShardingError, UnsupportedOperator
from pytest_browserpool.sharding.native import check, feeds_for, read_observed
from pytest_browserpool.sharding.partition import partition
from pytest_browserpool.sharding.plan import Host
from pytest_browserpool.sharding.read import Source, read
from pytest_browserpool.sharding.shapes import CARRIED
from pytest_browserpool.sharding.split import write_segments

HOSTS = [Host(name=f"browser{i}", latency_s=0) for i in range(8)]


def equal(source: Source, shards: int, folder: Path) -> bool:
    """Whether that many shards are bit for bit the whole."""
    files = write_segments(source, partition(source.graph, HOSTS, shards), folder)
    return check(source, files, feeds_for(source)).identical


def test_a_body_may_use_a_name_that_comes_later(tmp_path: Path) -> None:
    """``k`` is of whole numbers in a branch, and of fractions after it, where a cut goes through it."""
    then = [
        helper.make_node("Cast", ["a"], ["k"], to=TensorProto.INT64),
        helper.make_node("Cast", ["k"], ["t"], to=TensorProto.FLOAT),
    ]
    bodies = {
        "then_branch": helper.make_graph(then, "then", [], [tensor("t", None)]),
        "else_branch": helper.make_graph(
            [helper.make_node("Identity", ["a"], ["e"])], "else", [], [tensor("e", None)]
        ),
    }
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["i"], **bodies),
        helper.make_node("Exp", ["i"], ["k"]),
        helper.make_node("Neg", ["k"], ["y"]),
    ]
    zero = numpy_helper.from_array(np.float32(0), "zero")
    made = model(helper.make_graph(nodes, "names", [tensor("x", [2, 4])], [tensor("y", [2, 4])], [zero]))
    source = read_observed(made)
    assert source.types.declared["k"].tensor_type.elem_type == TensorProto.FLOAT
    assert equal(source, 6, tmp_path)


def test_what_no_output_depends_on_is_in_no_shard(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["p", "q"], axis=0),
        helper.make_node("Relu", ["p"], ["a"]),
        helper.make_node("Exp", ["q"], ["nobody"]),
        helper.make_node("Neg", ["nobody"], ["reads_this"]),
        helper.make_node("Tanh", ["a"], ["y"]),
    ]
    made = model(helper.make_graph(nodes, "dead", [tensor("x", [2, 4])], [tensor("y", [1, 4])]))
    source = read_observed(made)
    assert [node.op for node in source.graph.nodes] == ["Split", "Relu", "Tanh"]
    assert equal(source, 3, tmp_path)
    with pytest.raises(ShardingError, match="the largest number that works is shards=3"):
        partition(source.graph, HOSTS, 4)


@pytest.mark.parametrize("kind", ["INT4", "BFLOAT16", "FLOAT8E4M3FN"])
def test_types_that_messages_do_not_have_stay_in_one_browser(kind: str, tmp_path: Path) -> None:
    number = TensorProto.DataType.Value(kind)
    narrow = [
        helper.make_node("Cast", ["a"], ["narrow"], to=number),
        helper.make_node("Cast", ["narrow"], ["d"], to=TensorProto.FLOAT),
    ]
    scales = [numpy_helper.from_array(np.float32(0.5), "scale"), helper.make_tensor("zero", number, [], [0])]
    if kind == "INT4":
        narrow = [
            helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["narrow"]),
            helper.make_node("DequantizeLinear", ["narrow", "scale", "zero"], ["d"]),
        ]
    nodes = [helper.make_node("Relu", ["x"], ["a"]), *narrow, helper.make_node("Exp", ["d"], ["y"])]
    graph = helper.make_graph(
        nodes, "narrow", [tensor("x", [2, 4])], [tensor("y", [2, 4])], scales if kind == "INT4" else []
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    source = read_observed(made)
    assert equal(source, 3, tmp_path)
    told = (
        rf"'narrow' is of type {kind.lower()}, which browsers do not exchange, and cannot pass(.|\n)*shards=3"
    )
    with pytest.raises(ShardingError, match=told):
        partition(source.graph, HOSTS, 4)


def test_the_types_are_those_of_the_messages() -> None:
    known = {str(helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(each))) for each in CARRIED}
    assert known == {*map(str, DTYPES.values()), "object"}  # object: strings


ENDS = {
    "a sequence given": ("input 's' is a sequence", "ConcatFromSequence"),
    "an optional given": ("input 's' is an optional", "OptionalGetElement"),
    "a sequence returned": ("output 'y' is a sequence", "SplitToSequence"),
}


@pytest.mark.parametrize("case", ENDS)
def test_only_tensors_are_given_and_returned(case: str) -> None:
    """Said when the model is read: no number of shards would help."""
    words, operator = ENDS[case]
    plain = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 4])
    kinds = {
        "ConcatFromSequence": helper.make_sequence_type_proto(plain),
        "OptionalGetElement": helper.make_optional_type_proto(plain),
    }
    given = helper.make_value_info("s", kinds.get(operator, plain))
    back = tensor("y", None)
    if operator == "SplitToSequence":
        back = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    told = {} if operator == "OptionalGetElement" else {"axis": 0}
    nodes = [helper.make_node(operator, ["s"], ["y" if operator == "SplitToSequence" else "a"], **told)]
    if operator != "SplitToSequence":
        nodes.append(helper.make_node("Relu", ["a"], ["y"]))
    graph = helper.make_graph(nodes, "ends", [given], [back])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(UnsupportedOperator, match=words):
        read(made)


def test_an_input_without_a_rank_asks_for_its_shape(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Exp", ["a"], ["y"])]
    graph = helper.make_graph(nodes, "any", [tensor("x", None)], [tensor("y", None)])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(
        ShardingError, match=r"how many dimensions input 'x' has(.|\n)*input_shapes=\{'x': \(…\)\}"
    ):
        read(made)
    for number, shape in enumerate([(2, 3), ()]):
        source = read_observed(made, {"x": shape})
        assert source.types.shape("x") == shape
        assert equal(source, 2, tmp_path / str(number))


def test_a_question_mark_ties_no_dimensions_together() -> None:
    """Exporters write it for "any": the size of one was taken for all."""
    nodes = [helper.make_node("MatMul", ["x", "z"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    inputs = [tensor("x", ["?", 4]), tensor("z", [4, "?"])]
    made = model(helper.make_graph(nodes, "any", inputs, [tensor("y", ["m", "n"])]))
    with pytest.raises(ShardingError, match=r"dimension 1 of input 'z' is open \(\?\)"):
        read(made, {"x": (2, 4)})
    assert read(made, {"x": (2, 4), "z": (4, 5)}).types.shape("y") == (2, 5)


def test_what_is_wrong_with_a_graph_is_told_with_its_nodes() -> None:
    """Onnxruntime refuses these too, so no checker is asked first."""

    def made(*nodes: onnx.NodeProto) -> onnx.ModelProto:
        graph = helper.make_graph(list(nodes), "wrong", [tensor("x", [2, 4])], [tensor("y", [2, 4])])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    after = helper.make_node("Exp", ["b"], ["y"], name="after")
    first = helper.make_node("Add", ["x", "b"], ["a"], name="first")
    with pytest.raises(
        InvalidModel, match=r"form a circle: ('first' \(Add\), 'b' \(Relu\)|'b' .*'first' \(Add\))\n"
    ):
        read(made(after, first, helper.make_node("Relu", ["a"], ["b"])))
    twice = made(
        helper.make_node("Relu", ["x"], ["y"], name="one"), helper.make_node("Exp", ["x"], ["y"], name="two")
    )
    with pytest.raises(
        InvalidModel, match=r"value 'y' of node 'two' \(Exp\) is computed twice, by node 'one' \(Relu\) too"
    ):
        read(twice)
