"""Small ONNX models made in code, for tests that need one of a certain shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper


def build(graph: onnx.GraphProto, opset: int = 17) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def value(name: str, dims: Any, kind: int = T.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def identity(kind: int = T.FLOAT, dims: Any = ("n",)) -> bytes:
    """y = x, for any element type and any sizes."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return build(helper.make_graph([node], "identity", [value("x", dims, kind)], [value("y", dims, kind)]))


def affine(scale: float = 2.0, dims: Any = (4, 4), salt: float = 1.0) -> bytes:
    """y = scale * x + salt; another ``salt`` is another model by content."""
    constants = [
        numpy_helper.from_array(np.array([scale], np.float32), "scale"),
        numpy_helper.from_array(np.array([salt], np.float32), "salt"),
    ]
    nodes = [helper.make_node("Mul", ["x", "scale"], ["m"]), helper.make_node("Add", ["m", "salt"], ["y"])]
    return build(helper.make_graph(nodes, "affine", [value("x", dims)], [value("y", dims)], constants))


def doubled(kind: int) -> bytes:
    """y = x + x over four elements of that type."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return build(helper.make_graph([node], "doubled", [value("x", (4,), kind)], [value("y", (4,), kind)]))


def weights(megabytes: int, salt: int = 0) -> bytes:
    """y = x @ w with that many megabytes of random weights."""
    columns = megabytes * (1 << 20) // 4 // 256
    w = np.random.default_rng(salt).standard_normal((256, columns)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs, outputs = [value("x", (1, 256))], [value("y", (1, columns))]
    return build(helper.make_graph([node], "weights", inputs, outputs, [numpy_helper.from_array(w, "w")]))


def endless() -> bytes:
    """A ``Loop`` of 2**62 rounds: a page that runs it spins for ever, by a model and not by a trick."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "state"], ["next"]),
        ],
        "body",
        [value("round", (), T.INT64), value("go", (), T.BOOL), value("state", (1,))],
        [value("go_on", (), T.BOOL), value("next", (1,))],
    )
    constants = [
        numpy_helper.from_array(np.array(1 << 62, np.int64), "rounds"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    node = helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)
    return build(helper.make_graph([node], "endless", [value("x", (1,))], [value("y", (1,))], constants))


def repeated() -> bytes:
    """y = x * 2**rounds, one doubling at a time: as short or as long as the caller says."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "state"], ["next"]),
        ],
        "body",
        [value("round", (), T.INT64), value("go", (), T.BOOL), value("state", (1,))],
        [value("go_on", (), T.BOOL), value("next", (1,))],
    )
    yes = numpy_helper.from_array(np.array(True), "yes")
    node = helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)
    inputs = [value("x", (1,)), value("rounds", (), T.INT64)]
    return build(helper.make_graph([node], "repeated", inputs, [value("y", (1,))], [yes]))


def chosen() -> bytes:
    """y = table[index]: an index beyond the table fails while it runs."""
    table = numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")
    node = helper.make_node("Gather", ["table", "index"], ["y"])
    return build(
        helper.make_graph([node], "chosen", [value("index", (), T.INT64)], [value("y", ())], [table])
    )


def huge() -> bytes:
    """Fills two tensors whose sizes the caller gives: together they can be more than a page's 4 GiB of wasm memory."""
    nodes = [helper.make_node("ConstantOfShape", [n], [f"y_{n}"]) for n in ("first", "second")]
    inputs = [value(n, ("rank",), T.INT64) for n in ("first", "second")]
    return build(helper.make_graph(nodes, "huge", inputs, [value(f"y_{n.name}", None) for n in inputs]))


def recurrent() -> bytes:
    """``next`` = tanh(state @ w + x), ``y`` its sum: every earlier x counts, to the last bit."""
    w = np.random.default_rng(5).standard_normal((32, 32)).astype(np.float32) / 4
    nodes = [
        helper.make_node("MatMul", ["state", "w"], ["m"]),
        helper.make_node("Add", ["m", "x"], ["a"]),
        helper.make_node("Tanh", ["a"], ["next"]),
        helper.make_node("ReduceSum", ["next"], ["y"], keepdims=0),
    ]
    inputs = [value("x", (8, 32)), value("state", (8, 32))]
    outputs = [value("y", ()), value("next", (8, 32))]
    return build(helper.make_graph(nodes, "recurrent", inputs, outputs, [numpy_helper.from_array(w, "w")]))


def growing() -> bytes:
    """A cache: ``present`` is ``past`` with x behind it, ``y`` the sum of its tanh."""
    nodes = [
        helper.make_node("Concat", ["past", "x"], ["present"], axis=0),
        helper.make_node("Tanh", ["present"], ["t"]),
        helper.make_node("ReduceSum", ["t"], ["y"], keepdims=0),
    ]
    inputs = [value("x", (1, 8)), value("past", ("known", 8))]
    return build(helper.make_graph(nodes, "growing", inputs, [value("y", ()), value("present", ("all", 8))]))


def noisy() -> bytes:
    """``next`` and ``y`` = state + x + chance: no two runs are alike."""
    nodes = [
        helper.make_node("RandomUniformLike", ["x"], ["chance"]),
        helper.make_node("Sum", ["state", "x", "chance"], ["next"]),
        helper.make_node("Identity", ["next"], ["y"]),
    ]
    inputs = [value("x", (2, 2)), value("state", (2, 2))]
    return build(helper.make_graph(nodes, "noisy", inputs, [value("y", (2, 2)), value("next", (2, 2))]))


def unknown_operator() -> bytes:
    """An operator of a domain that nobody registers."""
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="example.nowhere")
    graph = helper.make_graph([node], "unknown", [value("x", (1,))], [value("y", (1,))])
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("example.nowhere", 1)]
    model = helper.make_model(graph, opset_imports=domains)
    model.ir_version = 8
    return bytes(model.SerializeToString())


def sequence_operator() -> bytes:
    """``NonZero`` has a shape that depends on its data: neither WebNN nor JSEP's WebGPU takes it."""
    node = helper.make_node("NonZero", ["x"], ["y"])
    return build(helper.make_graph([node], "nonzero", [value("x", (2, 2))], [value("y", (2, "n"), T.INT64)]))


def with_external_data(directory: Path) -> Path:
    """y = x @ w, the weights in a file beside the model."""
    w = np.arange(64, dtype=np.float32).reshape(8, 8)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node], "external", [value("x", (1, 8))], [value("y", (1, 8))], [numpy_helper.from_array(w, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = directory / "external.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="external.bin", size_threshold=0)
    return path


def symbolic(dims: tuple[Any, ...] = ("batch", "?")) -> bytes:
    """y = relu(x) * 3 with open dimensions, for WebNN's static shapes."""
    three = numpy_helper.from_array(np.array([3.0], np.float32), "three")
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "three"], ["y"])]
    return build(helper.make_graph(nodes, "symbolic", [value("x", dims)], [value("y", dims)], [three]))
