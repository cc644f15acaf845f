"""Where the parts of a model may lie: data files of weights, branches, constants and functions; functions of one name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sharding_graphs import tensor

from pytest_browserpool.models.inspect import inspect
from pytest_browserpool.sharding.native import NativeShards, NativeWhole, check, feeds_for
from pytest_browserpool.sharding.partition import partition
from pytest_browserpool.sharding.plan import Host
from pytest_browserpool.sharding.prepare import prepare, read_for_sharding
from pytest_browserpool.sharding.read import Source
from pytest_browserpool.sharding.split import write_segments

HOSTS = [Host(name=f"browser{i}", latency_s=0) for i in range(8)]
X = np.ones((2, 4), np.float32)


def outside(values: np.ndarray, folder: Path, file: str, *, at: int = 0, length: bool = True) -> TensorProto:
    """A tensor whose bytes lie in ``folder``."""
    made = numpy_helper.from_array(values, file)
    path = folder / file
    held = path.read_bytes() if path.exists() else b""
    path.write_bytes(held[:at].ljust(at, b"\0") + made.raw_data + held[at + len(made.raw_data) :])
    told = {"location": file, "offset": str(at), "length": str(len(made.raw_data))}
    made.ClearField("raw_data")
    made.data_location = TensorProto.EXTERNAL
    for key, value in told.items():
        if length or key != "length":
            entry = made.external_data.add()
            entry.key, entry.value = key, value
    return made


def saved(folder: Path, nodes: list[onnx.NodeProto], weights: list[TensorProto], **more: object) -> Path:
    graph = helper.make_graph(nodes, "g", [tensor("x", [2, 4])], [tensor("y", [2, 4])], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    return folder / "m.onnx"


def in_branch(folder: Path, scale: float) -> Path:
    """The weight of both branches of an If lies outside."""
    square = outside(np.full((4, 4), scale, np.float32), folder, "w.bin")
    bodies = {}
    for word in ("then", "else"):
        own = TensorProto()
        own.CopyFrom(square)
        own.name = f"{word}_w"
        step = helper.make_node("MatMul", ["a", own.name], [f"{word}_y"])
        bodies[f"{word}_branch"] = helper.make_graph([step], word, [], [tensor(f"{word}_y", [2, 4])], [own])
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["i"], **bodies),
        helper.make_node("Neg", ["i"], ["y"]),
    ]
    return saved(folder, nodes, [numpy_helper.from_array(np.float32(0), "zero")])


def in_constant(folder: Path, scale: float) -> Path:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=outside(np.float32([scale]), folder, "w.bin")),
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Neg", ["a"], ["y"]),
    ]
    return saved(folder, nodes, [])


def in_function(folder: Path, scale: float) -> Path:
    body = [
        helper.make_node("Constant", [], ["w"], value=outside(np.float32([scale]), folder, "w.bin")),
        helper.make_node("Mul", ["p", "w"], ["q"]),
    ]
    made = helper.make_function("mine", "Scaled", ["p"], ["q"], body, [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Scaled", ["a"], ["b"], domain="mine"),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    return saved(folder, nodes, [], functions=[made])


@pytest.mark.parametrize("build", [in_branch, in_constant, in_function])
def test_other_data_beside_the_same_file_is_another_model(build, tmp_path: Path) -> None:
    """Only weights of the main graph counted, so the shards of earlier data were taken."""
    answers = []
    for scale in (1.0, 2.0):
        source = read_for_sharding(build(tmp_path, scale))
        assert inspect(tmp_path / "m.onnx").external == ("w.bin",)
        sharded = prepare(source, shards=2, hosts=HOSTS[:2], folder=tmp_path / "kept")
        parts = NativeShards(sharded.files, sharded.outputs).run({"x": X})
        assert np.array_equal(parts["y"], NativeWhole.of(source).run({"x": X})["y"])
        answers.append(float(parts["y"][0, 0]))
    assert answers[1] == 2 * answers[0]


def equal(source: Source, shards: int, folder: Path) -> bool:
    files = write_segments(source, partition(source.graph, HOSTS, shards), folder)
    return check(source, files, feeds_for(source)).identical


def test_data_without_a_length_ends_with_its_tensor(tmp_path: Path) -> None:
    """The length is optional: the shard of the first took the second's bytes too, which onnxruntime refuses."""
    first = outside(np.full((4, 4), 2, np.float32), tmp_path, "w.bin", length=False)
    second = outside(np.full((4, 4), 3, np.float32), tmp_path, "w.bin", at=64, length=False)
    first.name, second.name = "v", "w"
    nodes = [helper.make_node("MatMul", ["x", "v"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    assert equal(read_for_sharding(saved(tmp_path, nodes, [first, second])), 2, tmp_path / "parts")


def test_functions_of_one_name_are_told_apart_by_overload(tmp_path: Path) -> None:
    made = []
    for overload, op in (("one", "Relu"), ("two", "Exp")):
        body = [helper.make_node(op, ["p"], ["q"])]
        opset = [helper.make_opsetid("", 17)]
        made.append(helper.make_function("mine", "F", ["p"], ["q"], body, opset, overload=overload))
    nodes = [
        helper.make_node("F", ["x"], ["a"], domain="mine", overload="one"),
        helper.make_node("F", ["a"], ["y"], domain="mine", overload="two"),
    ]
    source = read_for_sharding(saved(tmp_path, nodes, [], functions=made))
    assert equal(source, 2, tmp_path / "parts")
    kept = [[f.overload for f in onnx.load(p).functions] for p in sorted((tmp_path / "parts").glob("*.onnx"))]
    assert kept == [["one"], ["two"]]
