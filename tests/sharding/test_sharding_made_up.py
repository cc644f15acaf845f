"""Inputs whose values matter: sizes and indices that made-up numbers may not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sharding_graphs import tensor

from pytest_browserpool.errors import RunFailed
from pytest_browserpool.sharding.native import measure
from pytest_browserpool.sharding.plan import Host
from pytest_browserpool.sharding.prepare import prepare, read_for_sharding

HOSTS = [Host(name=f"browser{i}", latency_s=0) for i in range(3)]
node = helper.make_node
ONE = numpy_helper.from_array(np.array([1, 1], np.int64), "one")


def saved(
    folder: Path, nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], *constants: TensorProto
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, [tensor("y", None)], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    return folder / "m.onnx"


def index(folder: Path, least: int = 0) -> Path:
    """Ids of a table that has one row, or of which only those from ``least`` on are valid."""
    table = numpy_helper.from_array(np.ones((1, 4), np.float32), "table")
    nodes = [
        node("Sub", ["ids", "least"], ["i"]),
        node("Gather", ["table", "i"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Exp", ["b"], ["y"]),
    ]
    least_ = numpy_helper.from_array(np.int64(least), "least")
    return saved(folder, nodes, [tensor("ids", [1, 12], TensorProto.INT64)], table, least_)


def size(folder: Path) -> Path:
    """A size in an input of fractions, as the decoder of Segment Anything has it."""
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Cast", ["size"], ["s"], to=TensorProto.INT64),
        node("Concat", ["one", "s"], ["full"], axis=0),
        node("Resize", ["a", "", "", "full"], ["b"], mode="nearest"),
        node("Exp", ["b"], ["y"]),
    ]
    return saved(folder, nodes, [tensor("x", [1, 1, 4, 4]), tensor("size", [2])], ONE)


def step(folder: Path) -> Path:
    """A step of zero is none."""
    nodes = [
        node("Range", ["zero", "end", "step"], ["r"]),
        node("Relu", ["x"], ["a"]),
        node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        node("ReduceSum", ["f"], ["s"], keepdims=0),
        node("Add", ["a", "s"], ["y"]),
    ]
    ends = [tensor(name, [], TensorProto.INT64) for name in ("end", "step")]
    return saved(folder, nodes, [tensor("x", [4]), *ends], numpy_helper.from_array(np.int64(0), "zero"))


@pytest.mark.parametrize("build", [index, size, step])
def test_a_model_whose_values_matter_is_cut(build, tmp_path: Path) -> None:
    source = read_for_sharding(build(tmp_path))
    assert prepare(source, shards=2, hosts=HOSTS, folder=tmp_path / "kept").outputs == ("y",)
    assert measure(source, tmp_path)


def test_what_no_guess_fits_is_told_as_a_guess_and_can_be_given(tmp_path: Path) -> None:
    path = index(tmp_path, least=7)
    words = r"with ids \[1, 12\]: (.|\n)*\(made-up values: 0 and 1 (.|\n)*give feeds= from Python"
    with pytest.raises(RunFailed, match=words):
        read_for_sharding(path)
    feeds = {"ids": np.full((1, 12), 7)}
    source = read_for_sharding(path, feeds=feeds)
    assert source.types.shape("y") == (1, 12, 4)
    assert prepare(source, shards=2, hosts=HOSTS, folder=tmp_path / "kept", feeds=feeds).files
