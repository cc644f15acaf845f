"""How far an answer may be from the reference: the model's graph, walked back from each output."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool import rounding
from pytest_browserpool.artefacts.cache import state_of
from pytest_browserpool.errors import InputError, InvalidModel, SourceError
from pytest_browserpool.rounding import EPSILON, LEVELS, Typed, attribute

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Shapes = Mapping[str, tuple[int, ...]]

MOST = 0.25
"""Of the scale: the most that roundings excuse, however many there are. A model of 24 layers in half precision would come to
two thirds, with which hardly an answer is wrong."""

SMALL = 4096
"""Elements up to which a constant's values are read: biases, axes and shapes, not weights."""


@dataclass(frozen=True)
class Contribution:
    """What one node adds to an output's error."""

    op: str
    name: str
    relative: float
    """Share of the scale."""


@dataclass(frozen=True)
class Tolerance:
    """How far one output of a model may be from the reference."""

    output: str
    dtype: str
    relative: float
    """Allowed error as a share of the element's scale; 0 where nothing on the way rounds."""
    measured: float = 0.0
    """The same by measurement of the model's own sensitivity, where that was needed (``conditioning``)."""
    steps: int = 0
    """Allowed error of an integer output that a quantising operator makes; other integers must be equal."""
    natural: float = 0.0
    """Magnitude of what the last computation worked with, where the graph tells: 1 after a sigmoid."""
    nodes: int = 0
    """Nodes on the way that round."""
    assumed: int = 0
    """Nodes whose reduction length nothing told (``rounding.UNKNOWN_REDUCTION`` was taken)."""
    largest: tuple[Contribution, ...] = ()
    """The three largest contributions."""


def tolerance(
    model: Any, *, shapes: Shapes | None = None, backend: str | None = None, precision: str | None = None
) -> dict[str, Tolerance]:
    """What rounding can explain, for each output of ``model``.

    Each node on the way to an output adds its own rounding error (``rounding.rounding``: ULP by operator, by
    length of the reduction and by type), as a share of the largest magnitude. The errors of different nodes
    are independent, so they add in quadrature; each node counts once, with gain 1.

    Args:
        model: a model handle, a path, the bytes of an ONNX file, or an ``onnx.ModelProto``.
        shapes: of inputs and outputs of the call; they settle reduction lengths that depend on them.
        backend: where it runs; taken from a handle, and None allows for any.
        precision: ``"float16"`` where the backend is known to compute in half precision, as many NPUs do.

    Raises:
        SourceError: the model cannot be read, or draws random numbers.
        InputError: ``precision`` is not a floating-point type.
    """
    if precision is not None and precision not in EPSILON:
        raise InputError(
            f"precision is {precision!r}", where="tolerance()", remedy=f"one of {', '.join(EPSILON)}"
        )
    backend = backend or getattr(model, "backend", None)
    known = tuple(sorted((name, tuple(shape)) for name, shape in (shapes or {}).items()))
    source = getattr(model, "path", model)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            raise SourceError(
                f"no file {str(path)!r}", where="tolerance()", remedy="give the path of an ONNX file"
            )
        return dict(_of_file(str(path), state_of(path), known, backend, precision))
    return _analyse(_read(source), dict(known), backend, precision)


@functools.lru_cache(maxsize=64)
def _of_file(
    path: str,
    state: tuple[int, ...],
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    backend: str | None,
    precision: str | None,
) -> dict[str, Tolerance]:
    return _analyse(_read(path), dict(shapes), backend, precision)


def _read(source: Any) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        return model
    try:
        if isinstance(source, (bytes, bytearray, memoryview)):
            return onnx.load_from_string(bytes(source))
        if isinstance(source, str):
            return onnx.load(source, load_external_data=False)
    except DecodeError as error:
        what = repr(source) if isinstance(source, str) else f"{len(source)} bytes"
        raise InvalidModel(
            f"{what} is not an ONNX model", where="tolerance()", remedy="check the file"
        ) from error
    raise SourceError(
        f"a {type(source).__name__} is not a model",
        where="tolerance()",
        remedy="give the model handle, a path, bytes, or an onnx.ModelProto",
    )


def _analyse(
    model: ModelProto, shapes: Shapes, backend: str | None, precision: str | None
) -> dict[str, Tolerance]:
    import onnx.inliner

    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    typed = _typed(model, shapes)
    scope = _Scope(model.graph, typed)
    errors = [_node_error(node, typed, backend, precision) for node in scope.nodes]
    found = {}
    for output in model.graph.output:
        reached = [errors[i] for i in sorted(scope.ancestors(output.name))]
        found[output.name] = _sum_up(output.name, reached, scope)
    return found


def _sum_up(name: str, reached: Sequence[tuple[Contribution, bool]], scope: _Scope) -> Tolerance:
    round_ones = sorted((c for c, _ in reached if c.relative), key=lambda c: -c.relative)
    relative = min(MOST, math.sqrt(math.fsum(c.relative**2 for c in round_ones)))
    dtype = scope.typed.dtypes.get(name, "float32")
    maker = scope.maker(name)
    quantised = maker is not None and (maker.op_type.startswith("QLinear") or "Quantize" in maker.op_type)
    return Tolerance(
        output=name,
        dtype=dtype,
        relative=relative if dtype in EPSILON else 0.0,
        # one step of its own, and what the steps and roundings before it amount to
        steps=math.ceil(relative * LEVELS[dtype]) if quantised and dtype in LEVELS else 0,
        natural=scope.natural(name),
        nodes=len(round_ones),
        assumed=sum(assumed for _, assumed in reached),
        largest=tuple(round_ones[:3]),
    )


class _Scope:
    """One graph, or one body of a control-flow node with the graph around it."""

    def __init__(self, graph: GraphProto, typed: Typed, outer: _Scope | None = None) -> None:
        self.nodes = list(graph.node)
        self.typed, self.outer = typed, outer
        self.producers = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self._naturals: dict[str, float] = {}

    def ancestors(self, name: str) -> set[int]:
        """Indices of the nodes that ``name`` depends on."""
        found: set[int] = set()
        waiting = [name]
        while waiting:
            index = self.producers.get(waiting.pop())
            if index is not None and index not in found:
                found.add(index)
                waiting.extend(self.nodes[index].input)
                for graph in _graphs(self.nodes[index]):
                    # a body reads the values around it by name
                    waiting.extend(name for inner in graph.node for name in inner.input)
                    waiting.extend(output.name for output in graph.output)
        return found

    def maker(self, name: str) -> NodeProto | None:
        """The node that computes ``name``, past those that only move it."""
        index = self.producers.get(self._origin(name, rounding.PASS_THROUGH - {"Cast"}))
        return None if index is None else self.nodes[index]

    def _origin(self, name: str, moving: frozenset[str]) -> str:
        """What ``name`` was before the nodes of these kinds, which only move it."""
        for _ in self.nodes:  # not for ever round a circle
            index = self.producers.get(name)
            if index is None or self.nodes[index].op_type not in moving or not self.nodes[index].input:
                break
            name = self.nodes[index].input[0]
        return name

    def natural(self, name: str) -> float:
        """The magnitude that the last computation before ``name`` worked with, 0 if nothing tells."""
        if name not in self._naturals:
            self._naturals[name] = 0.0  # for what depends on itself
            self._naturals[name] = self._natural(self._origin(name, rounding.PASS_THROUGH - {"Concat"}))
        return self._naturals[name]

    def _natural(self, name: str) -> float:
        index = self.producers.get(name)
        if index is None:
            return self.outer.natural(name) if self.outer else 0.0
        node = self.nodes[index]
        kind = node.op_type
        if kind in rounding.BOUNDED:
            return 1.0
        if kind in ("LSTM", "GRU", "RNN"):
            return 0.0 if name == (*node.output, "", "")[2] else 1.0  # the cell state has no bound
        if kind == "If":
            position = list(node.output).index(name)
            bodies = [attribute(node, branch, None) for branch in ("then_branch", "else_branch")]
            return min(_Scope(b, self.typed, self).natural(b.output[position].name) for b in bodies)
        if kind == "Concat":
            return min(map(self.natural, node.input))
        return self._bias(node)

    def _bias(self, node: NodeProto) -> float:
        """The largest bias that ``node`` adds to a sum of products: the sum may cancel against it."""
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            return _magnitude(node.input[2], self.typed) if len(node.input) > 2 else 0.0
        if node.op_type == "Add":
            makers = {self.nodes[self.producers[i]].op_type for i in node.input if i in self.producers}
            return max(_magnitude(i, self.typed) for i in node.input) if "MatMul" in makers else 0.0
        return 0.0


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of a control-flow node, at any depth."""
    for a in node.attribute:
        for graph in (a.g, *a.graphs) if a.HasField("g") else a.graphs:
            yield graph
            for inner in graph.node:
                yield from _graphs(inner)


def _inner(node: NodeProto) -> Iterator[NodeProto]:
    for graph in _graphs(node):
        yield from graph.node


def _node_error(
    node: NodeProto, typed: Typed, backend: str | None, precision: str | None
) -> tuple[Contribution, bool]:
    """The node's own error, with that of its bodies (counted once), and whether a length was assumed."""
    variance, assumed = 0.0, False
    for part in (node, *_inner(node)):
        if rounding.random(part, typed):
            raise SourceError(
                f"the model draws random numbers ({part.op_type} {part.name!r})",
                where="tolerance()",
                remedy="compare a model that gives the same answer twice",
            )
        own = rounding.rounding(part, typed, backend)
        dtype = typed.dtype(part)
        if own.ulps and dtype in EPSILON:
            epsilon = max(EPSILON[dtype], EPSILON.get(precision or "", 0.0))
            variance += (own.ulps * epsilon) ** 2
            assumed |= own.assumed
        variance += (own.steps / LEVELS.get(dtype, 255)) ** 2
    return Contribution(op=node.op_type, name=node.name, relative=math.sqrt(variance)), assumed


def _magnitude(name: str, typed: Typed) -> float:
    """The largest finite magnitude of a small constant."""
    import numpy as np
    import onnx

    tensor = typed.constants.get(name)
    if tensor is None or math.prod(tensor.dims) > SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return 0.0
    values = np.abs(onnx.numpy_helper.to_array(tensor).astype(np.float64))
    return float(np.max(values, initial=0.0, where=np.isfinite(values)))


# -- types and shapes ----------------------------------------------------------------------------------------


def _typed(model: ModelProto, shapes: Shapes) -> Typed:
    import onnx

    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > SMALL:
            # shape inference copies the model: the weights' values are not needed for it
            for values in (
                "raw_data",
                "float_data",
                "int32_data",
                "int64_data",
                "double_data",
                "uint64_data",
            ):
                tensor.ClearField(values)
    _bind(model, shapes)
    # where inference fails, what stays unknown is taken as UNKNOWN_REDUCTION and counted as assumed
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    typed = Typed()
    for graph in (model.graph, *(g for node in model.graph.node for g in _graphs(node))):
        _collect(graph, typed)
    return typed


def _collect(graph: GraphProto, typed: Typed) -> None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type:
            typed.dtypes[value.name] = _dtype(tensor.elem_type)
        if tensor.HasField("shape"):
            typed.shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None
                for d in tensor.shape.dim
            )
    constants = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and (value := attribute(node, "value", None)) is not None:
            constants[node.output[0]] = value
    for name, tensor in constants.items():
        typed.constants[name] = tensor
        typed.dtypes[name], typed.shapes[name] = _dtype(tensor.data_type), tuple(tensor.dims)


def _dtype(element_type: int) -> str:
    import onnx

    name = str(onnx.TensorProto.DataType.Name(element_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _bind(model: ModelProto, shapes: Shapes) -> None:
    """Put the sizes of ``shapes`` where the model has names, or nothing."""
    names: dict[str, int] = {}
    values = (*model.graph.input, *model.graph.output)
    for value in values:
        dims = value.type.tensor_type.shape.dim
        known = shapes.get(value.name)
        if known is not None and len(known) == len(dims):
            for dim, size in zip(dims, known, strict=True):
                if dim.dim_param:
                    names.setdefault(dim.dim_param, size)
                dim.dim_value = size
    for value in (*values, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_value = names[dim.dim_param]
