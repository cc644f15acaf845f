"""Write each segment of a plan as an ONNX model of its own, by file, without holding external data in
memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_browserpool import contents
from pytest_browserpool.errors import InvalidModel, ShardingError
from pytest_browserpool.sharding.plan import Plan, Segment
from pytest_browserpool.sharding.read import Source, reads
from pytest_browserpool.sharding.shapes import tensor_bytes
from pytest_browserpool.values import Plain

if TYPE_CHECKING:
    import onnx

LEAST_IR_VERSION = 4
"""Before it initialisers had to be listed among the inputs, which shards do not do."""

CHUNK = 8 * 1024 * 1024
"""Bytes copied at once from one data file to another."""

ALIGNMENT = 4096
"""Offsets in a data file, so that onnxruntime can map them: what ONNX's documentation advises."""


@dataclass(frozen=True, kw_only=True)
class SegmentFile(Plain):
    """A segment on disk. ``data`` is empty where the weights lie in the model file itself."""

    index: int
    shard: int
    path: str
    data: str = ""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bytes: int
    """Size of both files."""


def write_segments(source: Source, plan: Plan, folder: Path) -> tuple[SegmentFile, ...]:
    """Write ``plan``'s segments into ``folder`` as ``segment-000.onnx`` … and, for external data,
    ``….onnx.data``.

    Each has the model's opset, metadata and the functions it uses, its own copies of the weights and constant
    nodes it needs, and as inputs and outputs the tensors that cross, with the types and symbolic shapes of
    the whole. Raises ``ShardingError`` where a crossing value has no tensor type, ``InvalidModel`` where
    external data is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(_write(source, segment, folder) for segment in plan.segments)


def segment_model(source: Source, segment: Segment) -> onnx.ModelProto:
    """The ONNX model of one segment, with external data still where the whole model's is."""
    import onnx

    whole = source.model
    wanted = {*segment.nodes, *_constants_for(source, segment.nodes)}
    indices = [index for index in source.order if index in wanted]
    model = onnx.ModelProto()
    model.ir_version = max(whole.ir_version, LEAST_IR_VERSION)
    model.producer_name, model.producer_version = "pytest-browserpool", "1"
    model.opset_import.extend(whole.opset_import)
    model.metadata_props.extend(whole.metadata_props)
    graph = model.graph
    graph.name = f"{whole.graph.name or 'graph'}_segment_{segment.index}"
    graph.node.extend(whole.graph.node[i] for i in indices)
    names = {name for node in graph.node for name in (*reads(node), *node.output) if name}
    graph.initializer.extend(t for t in whole.graph.initializer if t.name in names)
    graph.sparse_initializer.extend(s for s in whole.graph.sparse_initializer if s.values.name in names)
    graph.quantization_annotation.extend(
        q for q in whole.graph.quantization_annotation if q.tensor_name in names
    )
    graph.input.extend(_declaration(source, name) for name in segment.inputs)
    graph.output.extend(_declaration(source, name) for name in segment.outputs)
    # no value_info: onnxruntime infers it anew, and what the whole states may be stale
    model.functions.extend(contents.called(graph.node, contents.functions(whole)))
    return model


def _constants_for(source: Source, nodes: Iterable[int]) -> set[int]:
    """Constant nodes that ``nodes`` read, those behind them included."""
    maker = {name: i for i in source.constants for name in source.model.graph.node[i].output if name}
    found: set[int] = set()
    waiting = list(nodes)
    while waiting:
        for name in reads(source.model.graph.node[waiting.pop()]):
            if name in maker and maker[name] not in found:
                found.add(maker[name])
                waiting.append(maker[name])
    return found


def _declaration(source: Source, name: str) -> onnx.ValueInfoProto:
    import onnx

    barrier = source.types.barrier(name)
    if barrier:
        raise ShardingError(
            f"{name!r} is {barrier} and cannot pass between browsers", remedy="use fewer shards"
        )
    return onnx.ValueInfoProto(name=name, type=source.types.declared[name])


def _write(source: Source, segment: Segment, folder: Path) -> SegmentFile:
    import onnx

    model = segment_model(source, segment)
    path = folder / f"segment-{segment.index:03d}.onnx"
    external = [t for t in contents.tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL]
    data = path.with_name(path.name + ".data")
    if external:
        _copy_data(external, source.folder, data)
    try:
        serialised = model.SerializeToString()
    except Exception as error:
        raise InvalidModel(
            f"segment {segment.index} cannot be written: {error}", remedy="save the model with external data"
        ) from error
    path.write_bytes(serialised)
    return SegmentFile(
        index=segment.index,
        shard=segment.shard,
        path=str(path),
        data=str(data) if external else "",
        inputs=segment.inputs,
        outputs=segment.outputs,
        bytes=len(serialised) + (data.stat().st_size if external else 0),
    )


def _copy_data(tensors: Sequence[onnx.TensorProto], folder: Path | None, target: Path) -> None:
    """Stream the tensors' bytes into ``target`` and point them there."""
    with target.open("wb") as out:
        for tensor in tensors:
            told = {e.key: e.value for e in tensor.external_data}
            location, length = told.get("location", ""), told.get("length")
            origin = _inside(folder, location, tensor.name)
            offset = int(told.get("offset", 0))
            count = int(length) if length is not None else tensor_bytes(tensor)  # optional in the format
            out.seek(-out.tell() % ALIGNMENT, 1)
            start = out.tell()
            _copy_range(origin, offset, count, out, tensor.name)
            del tensor.external_data[:]
            for key, value in (("location", target.name), ("offset", start), ("length", count)):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)


def _inside(folder: Path | None, location: str, name: str) -> Path:
    if folder is None:
        raise InvalidModel(
            f"tensor {name!r} has its data in {location!r}, but the model was not given as a file",
            remedy="give the path of the model",
        )
    origin = (folder / location).resolve()
    if not location or not origin.is_relative_to(folder.resolve()):
        raise InvalidModel(
            f"tensor {name!r} has its data in {location!r}, outside the model's folder",
            remedy="put the data beside the model",
        )
    return origin


def _copy_range(origin: Path, offset: int, count: int, out: object, name: str) -> None:
    from typing import BinaryIO, cast

    sink = cast(BinaryIO, out)
    try:
        with origin.open("rb") as file:
            file.seek(offset)
            left = count
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise InvalidModel(
                        f"{origin.name!r} ends {left} bytes before tensor {name!r} does",
                        remedy="fetch the data file again",
                    )
                sink.write(chunk)
                left -= len(chunk)
    except OSError as error:
        raise InvalidModel(
            f"cannot read the data of tensor {name!r}: {error}", remedy="put the data beside the model"
        ) from error
