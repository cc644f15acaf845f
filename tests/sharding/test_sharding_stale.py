"""What a model states of its inner values is not believed where onnxruntime does not believe it either."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.tools import update_model_dims
from sharding_graphs import tensor, two_in_three_out

from pytest_browserpool.errors import RunFailed
from pytest_browserpool.sharding.native import NativeShards, NativeWhole, check, feeds_for, read_observed
from pytest_browserpool.sharding.partition import partition
from pytest_browserpool.sharding.plan import Host
from pytest_browserpool.sharding.read import Source, read
from pytest_browserpool.sharding.split import SegmentFile, write_segments

HOSTS = [Host(name=f"browser{i}", latency_s=0) for i in range(8)]


def cut(source: Source, shards: int, folder: Path) -> tuple[SegmentFile, ...]:
    return write_segments(source, partition(source.graph, HOSTS, shards), folder)


def three(inputs: list[object], *, y: list[object]) -> onnx.ModelProto:
    nodes = [
        helper.make_node(op, [a], [b])
        for op, a, b in (("Relu", "x", "a"), ("Exp", "a", "b"), ("Neg", "b", "y"))
    ]
    graph = helper.make_graph(nodes, "three", [tensor("x", inputs)], [tensor("y", y)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def widened() -> onnx.ModelProto:
    """As onnx's own tool leaves it: inner values keep the size that inputs and outputs lost."""
    made = onnx.shape_inference.infer_shapes(three([1, 4], y=[1, 4]))
    made = update_model_dims.update_inputs_outputs_dims(made, {"x": ["N", 4]}, {"y": ["N", 4]})
    assert made.graph.value_info[0].type.tensor_type.shape.dim[0].dim_value == 1
    return made


def other_rank() -> onnx.ModelProto:
    made = three(["N", 4], y=["N", 4])
    made.graph.value_info.append(tensor("b", [1, 2, 2]))
    return made


def inner_output() -> onnx.ModelProto:
    """An output that the last node reads too, and that is stated of another size."""
    made = three(["N", 4], y=["N", 4])
    made.graph.output.append(tensor("b", [1, 4]))
    return made


@pytest.mark.parametrize("build", [widened, other_rank, inner_output])
def test_stale_shapes_do_not_stand_in_the_shards(build, tmp_path: Path) -> None:
    """The check at the size that was stated passed, and every other size failed in the second shard."""
    made = build()
    for rows in (1, 3):
        source = read_observed(made, {"x": (rows, 4)})
        files = cut(source, len(source.graph.nodes), tmp_path / str(rows))
        feeds = feeds_for(source)
        assert check(source, files, feeds).identical
        feeds["x"] = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
        parts, whole = NativeShards(files, source.graph.outputs).run(feeds), NativeWhole.of(source).run(feeds)
        assert [parts[name].tobytes() for name in whole] == [value.tobytes() for value in whole.values()]


def test_an_operator_that_onnx_does_not_know_keeps_its_stated_element_type(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Gelu", ["a"], ["b"], domain="com.microsoft"),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [tensor("x", ["N", 4])], [tensor("y", ["N", 4])], value_info=[tensor("b", [1, 4])]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    source = read(made, {"x": (3, 4)})  # no import of the operator's domain, which onnxruntime does not need
    assert source.types.declared["b"] == helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    assert check(source, cut(source, 3, tmp_path), feeds_for(source)).identical


def test_a_segment_that_does_not_run_is_named(tmp_path: Path) -> None:
    source = read(two_in_three_out(), {"a": (3, 16), "b": (3, 16)})
    files = cut(source, 3, tmp_path)
    feeds = {**feeds_for(source), "b": np.zeros((2, 16), np.float32)}
    with pytest.raises(
        RunFailed, match=r"segment \d of the model does not run .*(.|\n)*report this with the model"
    ):
        NativeShards(files, source.graph.outputs).run(feeds)
    with pytest.raises(
        RunFailed, match=r"the whole model does not run natively with a \[3, 16\], b \[2, 16\]"
    ):
        NativeWhole.of(source).run(feeds)
    Path(files[1].path).write_bytes(b"no model")
    with pytest.raises(RunFailed, match=r"refuses segment-001\.onnx(.|\n)*report this with the model"):
        NativeShards(files, source.graph.outputs)
