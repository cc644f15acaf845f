"""What stands where in an ONNX model: nodes in bodies and functions, tensors whose data may lie in other files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

Key = tuple[str, str, str]
"""Domain, name and overload (since IR version 10), which a node calls a model-local function by."""

Functions = Mapping[Key, "onnx.FunctionProto"]

UNNAMED = frozenset({"", "?", "*", "-1", "None", "none", "unk", "unknown"})
"""Dimension names that exporters write for "any": they tie nothing together."""


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The bodies of an If, Loop or Scan."""
    return [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """``nodes`` and those in their bodies, nested ones included."""
    for node in nodes:
        yield node
        for body in subgraphs(node):
            yield from all_nodes(body.node)


def functions(model: onnx.ModelProto) -> Functions:
    """The model-local functions by what a node calls them by."""
    return {_key(f.domain, f.name, f.overload): f for f in model.functions}


def function_of(node: onnx.NodeProto, known: Functions) -> onnx.FunctionProto | None:
    """The model-local function that ``node`` calls itself; None where it is an operator."""
    return known.get(_called_by(node)) if known else None


def _key(domain: str, name: str, overload: str) -> Key:
    return ("" if domain == "ai.onnx" else domain, name, overload)


def _called_by(node: onnx.NodeProto) -> Key:
    return _key(node.domain, node.op_type, node.overload)


def called(nodes: Iterable[onnx.NodeProto], known: Functions) -> list[onnx.FunctionProto]:
    """Functions that ``nodes`` call, in their bodies and through others too, in the model's order."""
    used: set[Key] = set()
    waiting = list(nodes) if known else []
    while waiting:
        for node in all_nodes([waiting.pop()]):
            name = _called_by(node)
            if name in known and name not in used:
                used.add(name)
                waiting.extend(known[name].node)
    return [function for name, function in known.items() if name in used]


def reached(nodes: Iterable[onnx.NodeProto], known: Functions) -> Iterator[onnx.NodeProto]:
    """``nodes``, those in their bodies, and those of all functions that they call."""
    nodes = list(nodes)
    yield from all_nodes(nodes)
    for function in called(nodes, known):
        yield from all_nodes(function.node)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All that may lie outside the file: weights, and constants in nodes, in bodies and in functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from _of_attribute(attribute)
        yield from _of_nodes(function.node)


def locations(model: onnx.ModelProto) -> set[str]:
    """The names of the files that hold external data, as the model writes them."""
    import onnx

    outside = (t for t in tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL)
    return {e.value for tensor in outside for e in tensor.external_data if e.key == "location"}


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for each in (*sparse, *attribute.sparse_tensors):
        yield from (each.values, each.indices)
    for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
        yield from _of_graph(graph)
