"""Types and sizes of a model's values, inferred by onnx without its weights; open dimensions fixed from
outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from typing import TYPE_CHECKING

from pytest_browserpool.contents import UNNAMED, all_nodes
from pytest_browserpool.errors import InputError, InvalidModel, ShardingError

if TYPE_CHECKING:
    import onnx

UNKNOWN_DIMENSION = 16
"""What a dimension counts that depends on data (the output of NonZero, a loop's trips): only costs look at
it.
"""

STRING_BYTES = 16
"""A string's length on the wire is not in its type; a word and its length is a fair guess."""

UNKNOWN_TYPE = "of a type that shape inference does not find"

CARRIED = frozenset(
    [
        "FLOAT",
        "DOUBLE",
        "FLOAT16",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "BOOL",
        "STRING",
    ]
)
"""Element types that messages between pages have (``browsers.protocol``), as ONNX calls them."""

IMPLIED: Mapping[str, int] = {"ai.onnx.ml": 5, "com.microsoft": 1}
"""Domains that onnxruntime imports by itself where a model does not, and onnx does not: their latest versions."""

SMALL = 1024
"""Elements up to which a weight is kept for inference: shape arguments are small, weights are not."""


@dataclass(frozen=True)
class Types:
    """What is known of each value: ``declared`` for the shards' interfaces, ``sizes`` at the fixed shapes."""

    declared: Mapping[str, onnx.TypeProto]
    fixed: Mapping[str, onnx.TypeProto]
    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)

    def corrected(self, observed: Mapping[str, onnx.TypeProto]) -> Types:
        """The same with types that were seen in a run: their sizes count, their shapes are not declared.

        What is known to be no tensor stays so, though a run returns the tensor in an optional as if it were one.
        """
        import onnx

        observed = {name: kind for name, kind in observed.items() if self.barrier(name) in ("", UNKNOWN_TYPE)}
        missing = {
            name: onnx.helper.make_tensor_type_proto(kind.tensor_type.elem_type, None)
            for name, kind in observed.items()
            if self.barrier(name)
        }
        return Types(declared={**self.declared, **missing}, fixed={**self.fixed, **observed})

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Dimensions at the fixed shapes, unknown ones as ``UNKNOWN_DIMENSION``; None where even the rank is
        unknown.
        """
        if name not in self.shapes:
            kind = self.fixed.get(name)
            known = (
                kind is not None
                and kind.WhichOneof("value") == "tensor_type"
                and kind.tensor_type.HasField("shape")
            )
            dims = kind.tensor_type.shape.dim if kind is not None and known else ()
            sizes = tuple(d.dim_value if d.HasField("dim_value") else UNKNOWN_DIMENSION for d in dims)
            self.shapes[name] = sizes if known else None
        return self.shapes[name]

    def size(self, name: str) -> int:
        """Bytes at the fixed shapes; a tensor of unknown rank counts as one of ``UNKNOWN_DIMENSION``
        elements.
        """
        kind = self.fixed.get(name)
        if kind is None or kind.WhichOneof("value") != "tensor_type":
            return 0
        shape = self.shape(name)
        elements = UNKNOWN_DIMENSION if shape is None else prod(shape)
        return int(elements * element_bytes(kind.tensor_type.elem_type))

    def barrier(self, name: str) -> str:
        """Why the value cannot pass between browsers; empty where it can."""
        if other := self.no_tensor(name):
            return other
        import onnx

        told = onnx.TensorProto.DataType.Name(self.declared[name].tensor_type.elem_type)
        return "" if told in CARRIED else f"of type {told.lower()}, which browsers do not exchange,"

    def no_tensor(self, name: str) -> str:
        """What the value is where it is no tensor of a known type; empty for a tensor."""
        kind = self.declared.get(name)
        which = kind.WhichOneof("value") if kind is not None else None
        if kind is None or which is None or (which == "tensor_type" and not kind.tensor_type.elem_type):
            return UNKNOWN_TYPE
        names = {"sequence_type": "a sequence", "optional_type": "an optional", "map_type": "a map"}
        return names.get(which, "" if which == "tensor_type" else "a sparse tensor")

    def trips(self, node: onnx.NodeProto) -> int:
        """How often a body is counted: a Scan's sequence length, ``UNKNOWN_DIMENSION`` for a Loop."""
        shape = self.shape(node.input[-1]) if node.op_type == "Scan" and node.input else None
        return shape[0] if shape else UNKNOWN_DIMENSION


def element_bytes(elem_type: int) -> float:
    """Bytes of one element of an ONNX type; a part of a byte for narrow types, ``STRING_BYTES`` for strings."""
    import onnx

    if elem_type == onnx.TensorProto.STRING:
        return STRING_BYTES
    if elem_type == onnx.TensorProto.UNDEFINED:
        return 0
    name = onnx.TensorProto.DataType.Name(elem_type)
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return 0.5
    if name in ("INT2", "UINT2"):
        return 0.25
    return float(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's data: narrow elements are packed, the last byte filled up."""
    elements: int = prod(tensor.dims)
    return ceil(elements * element_bytes(tensor.data_type))


def infer_types(
    model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]], dimensions: Mapping[str, int]
) -> Types:
    """Infer types twice: at the inputs as the model declares them, and with every input's shape fixed.

    Shapes that the model states of anything but its inputs are not believed: onnxruntime runs a model whose inputs were made
    wider and the rest forgotten, but would refuse the same shape as an input of a shard. Element types are.
    Raises ``InputError`` for a shape of an input that does not exist or has another rank, ``ShardingError``
    where an input keeps an open dimension.
    """
    light = without_weights(model)
    stated = {name: _shapeless(kind) for name, kind in known_types(light).items()}
    del light.graph.value_info[:]
    for output in light.graph.output:
        output.type.CopyFrom(_shapeless(output.type))
    declared = stated | _told(known_types(types_inferred(light)))
    _fix_inputs(light, input_shapes, dimensions)
    fixed = _told(known_types(types_inferred(light)))
    # what inference loses once shapes are gone keeps the type that the model states
    return Types(declared=declared, fixed={**declared, **fixed})


def _told(kinds: Mapping[str, onnx.TypeProto]) -> dict[str, onnx.TypeProto]:
    """Those of ``kinds`` that say something: an output of unknown type stands in a graph with none."""
    return {
        name: kind
        for name, kind in kinds.items()
        if kind.WhichOneof("value") not in (None, "tensor_type") or kind.tensor_type.elem_type
    }


def _shapeless(kind: onnx.TypeProto) -> onnx.TypeProto:
    """The element type alone; what is no tensor as it stands."""
    import onnx

    bare = onnx.TypeProto()
    bare.CopyFrom(kind)
    if bare.HasField("tensor_type"):
        bare.tensor_type.ClearField("shape")
    return bare


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that has no large weights, so that inference neither copies nor serialises gigabytes."""
    import onnx

    light = onnx.ModelProto()
    for name in ("ir_version",):
        setattr(light, name, getattr(model, name))
    light.opset_import.extend(model.opset_import)
    domains = {node.domain for node in all_nodes(model.graph.node)} - {o.domain for o in model.opset_import}
    light.opset_import.extend(onnx.helper.make_opsetid(d, IMPLIED[d]) for d in sorted(domains & set(IMPLIED)))
    light.functions.extend(model.functions)
    source = model.graph
    light.graph.name = source.name or "graph"
    light.graph.node.extend(source.node)
    light.graph.input.extend(source.input)
    light.graph.output.extend(source.output)
    light.graph.value_info.extend(source.value_info)
    named = {i.name for i in source.input}
    for tensor in source.initializer:
        if prod(tensor.dims) <= SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in named:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    for sparse in source.sparse_initializer:
        light.graph.input.append(
            onnx.helper.make_tensor_value_info(sparse.values.name, sparse.values.data_type, list(sparse.dims))
        )
    return light


def types_inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with the types of its values; raises ``InvalidModel`` where they contradict each other."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise InvalidModel(
            f"shapes do not fit together: {error}", remedy="check the model and input_shapes"
        ) from error


def known_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Types by name, those inside bodies included. A body may use a name that the main graph gives to another value,
    where that is computed later; the main graph's is meant then.
    """
    found: dict[str, onnx.TypeProto] = {}
    outer = {name for node in model.graph.node for name in node.output}
    outer |= {each.name for each in (*model.graph.input, *model.graph.initializer)}

    def collect(graph: onnx.GraphProto, *, inside: bool) -> None:
        import onnx

        seen = {info.name: info.type for info in (*graph.value_info, *graph.output, *graph.input)}
        for tensor in graph.initializer:
            seen[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        found.update((name, kind) for name, kind in seen.items() if not (inside and name in outer))
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    collect(attribute.g, inside=True)

    collect(model.graph, inside=False)
    return found


def _fix_inputs(
    model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]], dimensions: Mapping[str, int]
) -> None:
    weights = {t.name for t in model.graph.initializer}
    inputs = {i.name: i for i in model.graph.input if i.name not in weights}
    if unknown := sorted(set(input_shapes) - set(inputs)):
        raise InputError(
            f"input_shapes names {unknown[0]!r}", remedy=f"the model's inputs are {', '.join(inputs)}"
        )
    symbols = dict(dimensions)
    for name, shape in input_shapes.items():
        tensor = inputs[name].type.tensor_type
        if tensor.HasField("shape") and len(tensor.shape.dim) != len(shape):
            raise InputError(
                f"input_shapes[{name!r}] = {tuple(shape)} has {len(shape)} dimensions,"
                f" the model's has {len(tensor.shape.dim)}",
                remedy="give one size for each dimension",
            )
        if tensor.HasField("shape"):
            pairs = zip(tensor.shape.dim, shape, strict=True)
            symbols.update({d.dim_param: int(size) for d, size in pairs if d.dim_param not in UNNAMED})
        tensor.shape.Clear()
        for size in shape:
            tensor.shape.dim.add().dim_value = int(size)
        tensor.shape.SetInParent()  # a scalar's shape has no dims but must be there
    for name, info in inputs.items():
        if not info.type.HasField("tensor_type"):
            continue
        if not info.type.tensor_type.HasField("shape"):
            raise ShardingError(
                f"the model does not say how many dimensions input {name!r} has",
                remedy=f"give its shape in input_shapes={{{name!r}: (…)}}",
            )
        for position, dim in enumerate(info.type.tensor_type.shape.dim):
            if dim.dim_param in symbols and not dim.HasField("dim_value"):
                dim.dim_value = symbols[dim.dim_param]
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                raise ShardingError(
                    f"dimension {position} of input {name!r} is open"
                    f" ({dim.dim_param or dim.dim_value or '?'})",
                    remedy=f"give its size, such as input_shapes={{{name!r}: {_example(info)}}}",
                )


def _example(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = info.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else 1 for d in dims)
