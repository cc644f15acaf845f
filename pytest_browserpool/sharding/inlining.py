"""What a call of a model-local function comes to: the operators that it stands for, with sizes, so that they are costed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_browserpool.contents import Functions, called, function_of
from pytest_browserpool.errors import InvalidModel
from pytest_browserpool.sharding.shapes import Types, known_types, types_inferred, without_weights

if TYPE_CHECKING:
    import onnx

Steps = Mapping[int, Sequence["onnx.NodeProto"]]
"""Operators by the index of the node that stands for them; without the nodes in whose reach there is no call."""


def inlined(model: onnx.ModelProto, types: Types, known: Functions) -> tuple[Steps, Types]:
    """What each node stands for that calls a function, itself or in its body; ``types`` with what is inferred inside.

    Where onnx cannot inline them, a call stands for its operators, each as large as the call.
    """
    calling = [index for index, node in enumerate(model.graph.node) if called([node], known)]
    if not calling:
        return {}, types
    try:
        flat, inside = _flat(model, types)
    except (InvalidModel, RuntimeError, ValueError):  # the inliner's own errors have no other base
        flat, inside = None, {}
    counts = [_count(node, known) for node in model.graph.node]
    if flat is None or sum(counts) != len(flat.node):
        return {i: [model.graph.node[i]] * max(1, counts[i]) for i in calling}, types
    starts = [sum(counts[:i]) for i in calling]
    steps = {i: list(flat.node[start : start + counts[i]]) for i, start in zip(calling, starts, strict=True)}
    return steps, dataclasses.replace(types, fixed={**inside, **types.fixed}, shapes={})


def _flat(model: onnx.ModelProto, types: Types) -> tuple[onnx.GraphProto, dict[str, onnx.TypeProto]]:
    import onnx
    import onnx.inliner

    light = without_weights(model)
    versions = {o.domain: o.version for o in light.opset_import}
    for function in light.functions:  # of another version it would not be inlined; only costs look at it
        for own in function.opset_import:
            own.version = versions.get(own.domain, own.version)
    for info in light.graph.input:
        info.type.CopyFrom(types.fixed[info.name])
    del light.graph.value_info[:]
    names = {name for node in model.graph.node for name in node.output} & types.fixed.keys()
    ends = {output.name for output in light.graph.output}
    light.graph.value_info.extend(
        onnx.ValueInfoProto(name=name, type=types.fixed[name]) for name in sorted(names - ends)
    )
    for output in light.graph.output:
        output.type.CopyFrom(types.fixed.get(output.name, output.type))
    flat = types_inferred(onnx.inliner.inline_local_functions(light))
    return flat.graph, known_types(flat)


def _count(node: onnx.NodeProto, known: Functions) -> int:
    function = function_of(node, known)
    return 1 if function is None else sum(_count(inner, known) for inner in function.node)
