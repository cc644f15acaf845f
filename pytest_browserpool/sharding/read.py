"""From an ONNX model to the graph that the partitioner cuts: constants folded away, shapes inferred, nodes
costed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool.contents import Functions, function_of, functions, reached, subgraphs
from pytest_browserpool.errors import InvalidModel, ShardingError, UnsupportedOperator
from pytest_browserpool.sharding import costs
from pytest_browserpool.sharding.graph import NAMED, Graph, Node, Value
from pytest_browserpool.sharding.inlining import inlined
from pytest_browserpool.sharding.shapes import UNKNOWN_TYPE, Types, infer_types, tensor_bytes

if TYPE_CHECKING:
    import onnx

KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator domains that onnxruntime-web has kernels for."""

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Never constant: a copy in another shard would draw other numbers."""

WEIGHTED = frozenset(
    [
        "MatMul",
        "Gemm",
        "MatMulInteger",
        "QLinearMatMul",
        "MatMulNBits",
        "FusedMatMul",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "Conv",
        "QLinearConv",
        "ConvInteger",
        "Attention",
        "QAttention",
    ]
)
"""Operators that count as a projection where they read a parameter."""

ATTRIBUTES = ("transA", "K", "kernel_shape")
"""The only attributes that costs look at."""


@dataclass(frozen=True)
class Source:
    """A model read for cutting. ``model`` has its external data still outside."""

    model: onnx.ModelProto
    graph: Graph
    types: Types
    constants: frozenset[int]
    """Indices of nodes that depend on no input: each shard computes its own copy, onnxruntime folds them at
    load.
    """
    order: tuple[int, ...]
    """All node indices in a topological order."""
    path: Path | None = None
    """Where the model was read from; None where it was given as bytes or as a proto."""

    @property
    def folder(self) -> Path | None:
        """Where external data lies."""
        return self.path.parent if self.path else None


def load_model(source: onnx.ModelProto | bytes | str | Path) -> tuple[onnx.ModelProto, Path | None]:
    """The model and the file it was read from; external data is not read.

    Raises ``InvalidModel`` for what is no ONNX model.
    """
    import onnx

    path = None
    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        try:
            if isinstance(source, bytes):
                model = onnx.load_model_from_string(source)
            else:
                model, path = onnx.load(str(source), load_external_data=False), Path(source)
        except OSError as error:
            raise InvalidModel(f"cannot read {str(source)!r}: {error}", remedy="check the path") from error
        except Exception as error:
            raise InvalidModel(
                f"not an ONNX model: {error}", remedy="check that the file is complete"
            ) from error
    if not model.graph.node:
        raise InvalidModel("the model has no nodes", remedy="check that the file is complete")
    return model, path


def read(
    source: onnx.ModelProto | bytes | str | Path,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dimensions: Mapping[str, int] | None = None,
    resident: Iterable[str] = (),
    observed: Mapping[str, onnx.TypeProto] | None = None,
) -> Source:
    """Read a model and cost its graph at given shapes.

    ``input_shapes`` fixes inputs with open dimensions, ``dimensions`` symbolic dimensions by name (both only
    say for which sizes costs are estimated: the shards keep the model's own shapes); ``resident`` names
    inputs and outputs that stay in the page; ``observed`` has types and shapes that were seen in a run
    (``native.observe``), which are better than inferred ones.

    Raises ``InvalidModel``, ``UnsupportedOperator`` for a domain that onnxruntime-web does not know and for an input or
    output that is no tensor, and ``ShardingError`` where an open dimension is fixed by neither.
    """
    model, path = load_model(source)
    known = functions(model)
    _refuse_custom(model, known)
    types = infer_types(model, input_shapes or {}, dimensions or {}).corrected(observed or {})
    order = _topological(model)
    given = _given(model)
    _refuse_ends(model, given, types)
    weights = {t.name: tensor_bytes(t) for t in model.graph.initializer if t.name not in given}
    weights |= {s.values.name: tensor_bytes(s.values) for s in model.graph.sparse_initializer}
    drawing = {index for index in order if draws(model.graph.node[index], known)}
    constant, cone = _constants(model, order, weights, types, drawing)
    live = _live(model, order)
    steps, types = inlined(model, types, known)
    nodes = [
        _node(model, index, types, cone, known, steps.get(index))
        for index in order
        if index in live and index not in constant
    ]
    values = {name: _value(name, types) for node in nodes for name in (*node.inputs, *node.outputs)}
    values |= {name: _value(name, types) for name in given}
    graph = Graph(
        nodes=tuple(nodes),
        values=values,
        inputs=given,
        outputs=_wanted(model, given, weights, constant),
        parameters=weights
        | {name: types.size(name) for i in constant for name in model.graph.node[i].output if name},
        resident=frozenset(resident),
    )
    return Source(model=model, graph=graph, types=types, constants=constant, order=tuple(order), path=path)


def operator(node: onnx.NodeProto) -> str:
    """``Conv``, or ``com.microsoft.Gelu`` outside the standard domain."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def captured(graph: onnx.GraphProto) -> list[str]:
    """Names that a body reads from outside, nested bodies included, in order of use."""
    own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    own |= {s.values.name for s in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    read: dict[str, None] = {}
    for node in graph.node:
        read.update(dict.fromkeys(node.input))
        for body in subgraphs(node):
            read.update(dict.fromkeys(captured(body)))
    read.update(dict.fromkeys(o.name for o in graph.output))
    return [name for name in read if name and name not in own]


def reads(node: onnx.NodeProto) -> list[str]:
    """All names that a node reads, what its bodies capture included, each once."""
    names = [name for name in node.input if name] + [n for body in subgraphs(node) for n in captured(body)]
    return list(dict.fromkeys(names))


def _refuse_custom(model: onnx.ModelProto, known: Functions) -> None:
    for node in reached(model.graph.node, known):
        if node.domain not in KNOWN_DOMAINS and function_of(node, known) is None:
            raise UnsupportedOperator(
                f"operator {operator(node)!r} is a custom one that onnxruntime-web does not have",
                where=f"node {node.name!r}" if node.name else None,
                remedy="export it with standard operators, or with this one as a model-local function",
            )


def draws(node: onnx.NodeProto, known: Functions) -> bool:
    """Whether ``node``, its bodies or the functions that it calls draw random numbers."""
    return any(
        each.op_type in RANDOM or (each.op_type == "Dropout" and any(each.input[2:]))  # training_mode
        for each in reached([node], known)
    )


def _refuse_ends(model: onnx.ModelProto, given: Sequence[str], types: Types) -> None:
    """Raises ``UnsupportedOperator`` for an input or output that a browser cannot be given, or cannot give."""
    ends = [*(("input", name) for name in given), *(("output", o.name) for o in model.graph.output)]
    for word, name in ends:
        barrier = types.barrier(name)
        if barrier and not (word == "output" and barrier == UNKNOWN_TYPE):  # a run shows what that one is
            raise UnsupportedOperator(
                f"{word} {name!r} is {barrier.rstrip(',')}, and only tensors go into browsers and out of them",
                remedy="export the model with inputs and outputs that are tensors of numbers, bool or string",
            )


def _live(model: onnx.ModelProto, order: Sequence[int]) -> set[int]:
    """Nodes that an output depends on. The others are in no shard: a segment of such alone would have no output."""
    wanted = {o.name for o in model.graph.output}
    live = set()
    for index in reversed(order):
        node = model.graph.node[index]
        if wanted.intersection(node.output):
            live.add(index)
            wanted.update(reads(node))
    return live


def _given(model: onnx.ModelProto) -> tuple[str, ...]:
    """Inputs that the caller must give; before IR version 4 initialisers are listed among the inputs too."""
    weights = {t.name for t in model.graph.initializer}
    return tuple(i.name for i in model.graph.input if i.name not in weights)


def _wanted(
    model: onnx.ModelProto, given: Sequence[str], weights: Mapping[str, int], constant: frozenset[int]
) -> tuple[str, ...]:
    for output in model.graph.output:
        if output.name in given or output.name in weights:
            raise ShardingError(
                f"output {output.name!r} is an input or a constant of the model itself",
                remedy="remove the output, or put an Identity node before it",
            )
    return tuple(o.name for o in model.graph.output)


def _topological(model: onnx.ModelProto) -> list[int]:
    """Node indices in a topological order; the model's own where it is one, as the format demands."""
    nodes = model.graph.node
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waiting = [{maker[name] for name in reads(node) if name in maker} for node in nodes]
    order: list[int] = []
    done: set[int] = set()
    rest = list(range(len(nodes)))
    while rest:
        later = []
        for index in rest:
            if waiting[index] <= done:
                order.append(index)
                done.add(index)
            else:
                later.append(index)
        if len(later) == len(rest):
            raise InvalidModel(
                f"the model's nodes form a circle: {_circle(model, waiting, done, rest[0])}",
                remedy="check the model with onnx.checker.check_model",
            )
        rest = later
    return order


def _circle(model: onnx.ModelProto, waiting: Sequence[set[int]], done: set[int], start: int) -> str:
    """The names of nodes that wait for each other, found by going back from one that waits for them."""
    path = [start]
    while (before := min(waiting[path[-1]] - done)) not in path:
        path.append(before)
    members = [model.graph.node[index] for index in path[path.index(before) :]]
    told = [
        f"{node.name or next(filter(None, node.output), '')!r} ({operator(node)})" for node in members[:NAMED]
    ]
    return ", ".join(told) + (f" and {len(members) - NAMED} more" if len(members) > NAMED else "")


def _constants(
    model: onnx.ModelProto, order: Sequence[int], weights: Mapping[str, int], types: Types, drawing: Set[int]
) -> tuple[frozenset[int], dict[str, tuple[str, ...]]]:
    """Nodes that depend on no input, and for each constant name all the parameters behind it."""
    cone: dict[str, tuple[str, ...]] = {name: (name,) for name in weights}
    outputs = {o.name for o in model.graph.output}
    found = set()
    for index in order:
        node = model.graph.node[index]
        behind = reads(node)
        constant = all(name in cone for name in behind) and not outputs & set(node.output)
        if not constant or index in drawing or any(types.no_tensor(name) for name in node.output if name):
            continue
        found.add(index)
        for name in node.output:
            cone[name] = (name, *dict.fromkeys(p for b in behind for p in cone[b]))
    return frozenset(found), cone


def _value(name: str, types: Types) -> Value:
    return Value(name, types.size(name), types.barrier(name))


def _node(
    model: onnx.ModelProto,
    index: int,
    types: Types,
    cone: Mapping[str, tuple[str, ...]],
    known: Functions,
    steps: Sequence[onnx.NodeProto] | None,
) -> Node:
    """``steps``: the operators that the node stands for, where it calls functions."""
    node = model.graph.node[index]
    op, names = operator(node), reads(node)
    parameters = tuple(dict.fromkeys(p for name in names if name in cone for p in cone[name]))
    projection = node.op_type in WEIGHTED and any(name in cone for name in node.input[1:])
    return Node(
        index=index,
        op=op,
        inputs=tuple(name for name in names if name not in cone),
        outputs=tuple(name for name in node.output if name),
        parameters=parameters,
        seconds=sum(_seconds(each, types) for each in steps or [node]),
        ops=frozenset(operator(n) for n in reached([node], known)),
        name=node.name,
        scope=" ".join(name for name in node.input if name in cone),
        weighted=projection
        or (node.op_type in ("MatMul", "MatMulInteger") and any(n in cone for n in node.input[:2])),
    )


def _seconds(node: onnx.NodeProto, types: Types) -> float:
    """Estimated time; a body counts once for If (the dearest branch) and ``types.trips`` times for Loop and
    Scan.
    """
    import onnx

    if bodies := subgraphs(node):
        each = [sum(_seconds(inner, types) for inner in body.node) for body in bodies]
        return max(each) if node.op_type == "If" else sum(each) * types.trips(node)
    attributes: dict[str, Any] = {
        a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name in ATTRIBUTES
    }
    work = costs.flops(
        operator(node),
        [types.shape(n) for n in node.input],
        [types.shape(n) for n in node.output],
        attributes,
    )
    sizes = ([types.size(name) for name in names if name] for names in (node.input, node.output))
    return costs.seconds(operator(node), work, costs.moved(operator(node), *sizes))
