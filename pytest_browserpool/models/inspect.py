"""What an ONNX file says about itself, whether it is whole, and the same graph with every shape fixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool import contents
from pytest_browserpool.config import did_you_mean
from pytest_browserpool.contents import UNNAMED
from pytest_browserpool.errors import InputError, InvalidModel, SourceError

if TYPE_CHECKING:
    import onnx

Dim = int | str | None
"""A fixed size, a symbol that means the same size wherever it stands, or None: any size."""

OTHERS = frozenset({"sequence", "optional", "map", "sparse_tensor", "opaque", "unknown"})
"""``Tensor.dtype`` of what is no tensor."""

BITS = {"FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64, "BOOL": 8}
BITS |= {"FLOAT16": 16, "DOUBLE": 64, "UINT32": 32, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128}
BITS |= {"BFLOAT16": 16, "FLOAT8E4M3FN": 8, "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8, "FLOAT8E5M2FNUZ": 8}
BITS |= {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "FLOAT8E8M0": 8}
"""Bits per element of ``TensorProto.raw_data``, from the specification in onnx.proto."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph. ``dims`` is None where the model does not even say the rank."""

    name: str
    """As the graph has it: the key of inputs and outputs."""
    dtype: str
    """ONNX's own word in lower case (float, float16, int64, string …); else sequence, optional, map."""
    dims: tuple[Dim, ...] | None
    """One entry for each axis: a size, a symbol, or None for any size."""

    @property
    def shaped(self) -> bool:
        """Whether it is a tensor, the only kind that has a shape."""
        return self.dtype not in OTHERS

    @property
    def static(self) -> bool:
        """Whether every size is fixed."""
        return self.dims is not None and all(isinstance(d, int) for d in self.dims)

    def __str__(self) -> str:
        shape = (
            "any shape"
            if self.dims is None
            else "[" + ", ".join("?" if d is None else str(d) for d in self.dims) + "]"
        )
        return f"{self.name}: {self.dtype} {shape}"


@dataclass(frozen=True)
class ModelInfo:
    """What a model declares. ``inputs`` leaves out initializers, which a caller need not give."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opsets: Mapping[str, int]
    """Domain ("" is ONNX's own) → version."""
    operators: frozenset[tuple[str, str]]
    """(domain, operator), those of subgraphs and functions too."""
    external: tuple[str, ...]
    """Locations of external data, relative to the model, sorted."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    ir_version: int = 0
    nodes: int = 0

    @property
    def static(self) -> bool:
        """Whether every input has a fixed shape, as WebNN needs."""
        return all(t.static for t in self.inputs)


def inspect(model: Path | bytes) -> ModelInfo:
    """What ``model`` declares, after ``load`` has found it whole.

    Raises:
        SourceError: the file is not there or cannot be read. InvalidModel: not a complete ONNX model.
    """
    return describe(load(model))


def load(model: Path | bytes) -> onnx.ModelProto:
    """The model without its external data, checked for being a complete ONNX model.

    Raises:
        SourceError: the file is not there or cannot be read.
        InvalidModel: not a complete ONNX model, with the reason.
    """
    import onnx
    from google.protobuf.message import DecodeError

    where = str(model) if isinstance(model, Path) else None
    data = _read(model) if isinstance(model, Path) else model
    _refuse_other_formats(data, where)
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise _invalid(
            f"not an ONNX model, or one that was cut short ({len(data)} bytes: {error})", where
        ) from error
    _refuse_incomplete(proto, where)
    return proto


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"the model cannot be read: {error.strerror or error}",
            where=str(path),
            remedy="check the path in the marker",
        ) from error


def _invalid(reason: str, where: str | None) -> InvalidModel:
    return InvalidModel(reason, where=where, remedy="export or download the .onnx file again")


_OTHER_FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself: run git lfs pull"),
    (b"PK\x03\x04", "a zip archive (PyTorch or Keras?), not an ONNX model"),
    (b"GGUF", "a GGUF file, not an ONNX model"),
    (b"\x89HDF", "an HDF5 file (Keras?), not an ONNX model"),
    (b"<", "text in angle brackets (an HTML error page?), not an ONNX model"),
    (b"{", "JSON text, not an ONNX model"),
)


def _refuse_other_formats(data: bytes, where: str | None) -> None:
    if not data:
        raise _invalid("the file is empty", where)
    if data[4:8] == b"TFL3":
        raise _invalid("a TFLite model, not an ONNX model", where)
    if data[4:8] == b"ORTM":
        raise _invalid(
            "a model in onnxruntime's own ORT format; the .onnx file that it was made from is needed", where
        )
    for start, what in _OTHER_FORMATS:
        if data.startswith(start):
            raise _invalid(what, where)


def _refuse_incomplete(proto: onnx.ModelProto, where: str | None) -> None:
    if not proto.HasField("graph"):
        raise _invalid("no graph in it: not an ONNX model, or one that was cut short", where)
    if not proto.opset_import:
        raise _invalid("no opset in it: an ONNX model that was cut short", where)
    if not proto.graph.output:
        raise _invalid("its graph has no outputs: an ONNX model that was cut short", where)
    if not proto.graph.node:
        raise InvalidModel(
            "its graph has no nodes: no backend would compute anything",
            where=where,
            remedy="look at the export: a model that gives its inputs back needs at least an Identity",
        )
    for graph in _graphs(proto):
        for tensor in graph.initializer:
            _refuse_short_tensor(tensor, where)


def _refuse_short_tensor(tensor: onnx.TensorProto, where: str | None) -> None:
    import onnx

    if not tensor.HasField("raw_data") or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    bits = BITS.get(_type_name(tensor.data_type))
    elements = 1
    for size in tensor.dims:
        elements *= size
    if bits is not None and len(tensor.raw_data) != (elements * bits + 7) // 8:
        raise _invalid(
            f"initializer {tensor.name!r} of {list(tensor.dims)} has {len(tensor.raw_data)} bytes, "
            f"not {(elements * bits + 7) // 8}: damaged",
            where,
        )


def describe(proto: onnx.ModelProto) -> ModelInfo:
    """What a loaded model declares."""
    graph = proto.graph
    initializers = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    operators = {(n.domain, n.op_type) for g in _graphs(proto) for n in g.node}
    operators |= {(n.domain, n.op_type) for f in proto.functions for n in f.node}
    return ModelInfo(
        inputs=tuple(_tensor(v) for v in graph.input if v.name not in initializers),
        outputs=tuple(_tensor(v) for v in graph.output),
        opsets={o.domain: o.version for o in proto.opset_import},
        operators=frozenset(operators),
        external=tuple(sorted(contents.locations(proto))),
        metadata={p.key: p.value for p in proto.metadata_props},
        ir_version=proto.ir_version,
        nodes=sum(len(g.node) for g in _graphs(proto)),
    )


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and all those inside its nodes (If, Loop, Scan) and the model's functions."""
    waiting: list[Any] = [proto.graph]
    for function in proto.functions:
        waiting += [body for node in function.node for body in contents.subgraphs(node)]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [body for node in graph.node for body in contents.subgraphs(node)]


def _type_name(number: int) -> str:
    import onnx

    try:
        return str(onnx.TensorProto.DataType.Name(number))
    except ValueError:  # newer than the installed onnx, or damaged: onnxruntime-web will say
        return f"type {number}"


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Tensor(value.name, (kind or "unknown").removesuffix("_type"), None)
    tensor = value.type.tensor_type
    dims = tuple(_dim(d) for d in tensor.shape.dim) if tensor.HasField("shape") else None
    return Tensor(value.name, _type_name(tensor.elem_type).lower(), dims)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return None if dim.dim_param in UNNAMED else dim.dim_param


# -- static shapes -------------------------------------------------------------------------------------------


def with_static_shapes(model: Path | bytes, shapes: Mapping[str, Sequence[int]]) -> bytes:
    """The same model with every input fixed to ``shapes``, as bytes; external data stays where it is.

    Inferred shapes are dropped (onnxruntime infers them anew), outputs keep their rank.

    Args:
        shapes: input name → sizes, 0 allowed. Inputs that are static already may be left out.

    Raises:
        InputError: an unknown or missing input, a negative size, or a shape that contradicts the model's
            rank, its fixed sizes, or another input that uses the same symbol.
        SourceError, InvalidModel: as ``load``.
    """
    proto = load(model)
    info = describe(proto)
    where = str(model) if isinstance(model, Path) else None
    wanted = resolve_shapes(info, shapes, where=where)
    for value in proto.graph.input:
        if value.name in wanted:
            _set_shape(value, wanted[value.name])
    for value in proto.graph.output:
        _clear_sizes(value)
    for holder in (*_graphs(proto), *proto.functions):
        del holder.value_info[:]
    return bytes(proto.SerializeToString())


def static_name(sha256: str, shapes: Mapping[str, Sequence[int]]) -> str:
    """A file name for the model of that hash with its inputs fixed to ``shapes``: of one length, however many they are."""
    told = json.dumps(sorted((name, [int(size) for size in sizes]) for name, sizes in shapes.items()))
    return f"{sha256}-{hashlib.sha256(told.encode()).hexdigest()[:32]}.onnx"


def resolve_shapes(
    info: ModelInfo, shapes: Mapping[str, Sequence[int]], *, where: str | None = None
) -> dict[str, tuple[int, ...]]:
    """Every tensor input's shape, checked against what the model declares.

    Raises:
        InputError: as ``with_static_shapes``.
    """
    resolved, symbols = _given_shapes(info, shapes, where)
    for tensor in info.inputs:
        if tensor.name not in resolved and tensor.shaped:
            resolved[tensor.name] = _from_symbols(tensor, symbols, where)
    return resolved


def check_shapes(info: ModelInfo, shapes: Mapping[str, Sequence[int]], *, where: str | None = None) -> None:
    """Refuse ``shapes`` that the model cannot have; inputs may be left out.

    Raises:
        InputError: as ``with_static_shapes``, but for a missing input.
    """
    _given_shapes(info, shapes, where)


def _given_shapes(
    info: ModelInfo, shapes: Mapping[str, Sequence[int]], where: str | None
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, str]]]:
    inputs = {t.name: t for t in info.inputs}
    for name in shapes:
        if name not in inputs:
            raise InputError(
                f"no input {name!r}{did_you_mean(name, inputs)}",
                where=where,
                remedy=f"inputs: {_listed(info)}",
            )
    resolved: dict[str, tuple[int, ...]] = {}
    symbols: dict[str, tuple[int, str]] = {}
    for tensor in info.inputs:
        if tensor.name in shapes:
            resolved[tensor.name] = _checked(tensor, shapes[tensor.name], symbols, where)
    return resolved, symbols


def _listed(info: ModelInfo) -> str:
    return "; ".join(str(t) for t in info.inputs)


def _checked(
    tensor: Tensor, shape: Sequence[int], symbols: dict[str, tuple[int, str]], where: str | None
) -> tuple[int, ...]:
    sizes = tuple(int(s) for s in shape)
    remedy = f"the model declares {tensor}"
    if not tensor.shaped:
        raise InputError(
            f"shape {list(sizes)} of input {tensor.name!r}, which is no tensor", where=where, remedy=remedy
        )
    if any(s < 0 for s in sizes):
        raise InputError(
            f"shape {list(sizes)} of input {tensor.name!r} has a negative size", where=where, remedy=remedy
        )
    if tensor.dims is None:
        return sizes
    if len(sizes) != len(tensor.dims):
        raise InputError(
            f"shape {list(sizes)} of input {tensor.name!r} has rank {len(sizes)}, not {len(tensor.dims)}",
            where=where,
            remedy=remedy,
        )
    for axis, (size, dim) in enumerate(zip(sizes, tensor.dims, strict=True)):
        if isinstance(dim, int) and dim != size:
            raise InputError(
                f"axis {axis} of input {tensor.name!r} is {size}, but the model fixes it to {dim}",
                where=where,
                remedy=remedy,
            )
        if isinstance(dim, str):
            known, named_by = symbols.setdefault(dim, (size, f"{tensor.name!r} axis {axis}"))
            if known != size:
                raise InputError(
                    f"dimension {dim!r} is {size} in {tensor.name!r} axis {axis}, but {known} in {named_by}",
                    where=where,
                    remedy="give both the same size",
                )
    return sizes


def _from_symbols(
    tensor: Tensor, symbols: Mapping[str, tuple[int, str]], where: str | None
) -> tuple[int, ...]:
    sizes = [symbols[d][0] if isinstance(d, str) and d in symbols else d for d in tensor.dims or ()]
    if tensor.dims is None or not all(isinstance(s, int) for s in sizes):
        raise InputError(
            f"no shape for input {tensor.name!r}", where=where, remedy=f"give one in input_shapes: {tensor}"
        )
    return tuple(s for s in sizes if isinstance(s, int))


def _set_shape(value: onnx.ValueInfoProto, sizes: Sequence[int]) -> None:
    shape = value.type.tensor_type.shape
    shape.ClearField("dim")
    for size in sizes:
        shape.dim.add().dim_value = size
    value.type.tensor_type.shape.SetInParent()  # a scalar's shape has no dims but must be there


def _clear_sizes(value: onnx.ValueInfoProto) -> None:
    if value.type.WhichOneof("value") == "tensor_type" and value.type.tensor_type.HasField("shape"):
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
