"""Attention and feed-forward blocks, found by structure: no name is looked at."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_browserpool.sharding.graph import GIVEN, Graph

FUSED = frozenset(
    {
        "Attention",
        "com.microsoft.Attention",
        "com.microsoft.MultiHeadAttention",
        "com.microsoft.GroupQueryAttention",
        "com.microsoft.DecoderMaskedMultiHeadAttention",
        "com.microsoft.PackedAttention",
        "com.microsoft.PackedMultiHeadAttention",
        "com.microsoft.QAttention",
        "com.microsoft.SparseAttention",
    }
)
"""Operators that are an attention block's core by themselves."""

PRODUCTS = frozenset(
    {
        "MatMul",
        "Einsum",
        "MatMulInteger",
        "QLinearMatMul",
        "com.microsoft.FusedMatMul",
        "com.microsoft.MatMulIntegerToFloat",
    }
)
"""Products of two computed values: query × key, and weights × value."""

SOFT = frozenset({"Softmax", "com.microsoft.BiasSoftmax", "com.microsoft.QLinearSoftmax"})

GLUE = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Where",
        "Cast",
        "CastLike",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Dropout",
        "Expand",
        "Concat",
        "Slice",
        "Split",
        "Gather",
        "Clip",
        "Max",
        "Min",
        "Neg",
        "Sqrt",
        "Sigmoid",
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Flatten",
    ]
)
"""What may stand between the products, the softmax and the projections."""

VIEWS = frozenset({"Reshape", "Expand", "Squeeze", "Unsqueeze", "Slice"})
"""Glue whose first input is the data and whose others are shapes."""

REACH = 12
"""Glue nodes between softmax and product at most; quantised exports have up to eight."""


def attention_regions(graph: Graph) -> list[set[int]]:
    """The node positions of each attention block: projections, products, softmax, output projection, norm and
    residual.

    A block is a softmax between two products of computed values, or one of ``FUSED``. The projections, and
    what only the block reads, belong to it.
    """
    taken: set[int] = set()
    regions = []
    for position, node in enumerate(graph.nodes):
        if position in taken or (node.op not in FUSED and node.op not in SOFT):
            continue
        core = {position} if node.op in FUSED else _core(graph, position)
        if not core or core & taken:
            continue
        region = _forward(graph, _backward(graph, core, taken), taken)
        taken |= region
        regions.append(region)
    return regions


def phases(graph: Graph, regions: Iterable[set[int]]) -> list[int]:
    """A number for each node that never falls along an edge: odd in attention blocks, even elsewhere.

    Nodes of one number can run together, so a number is a candidate for a segment.
    """
    attention = set().union(*regions)
    found: list[int] = []
    for position, before in enumerate(graph.predecessors):
        floor = max((found[p] for p in before), default=0)
        found.append(floor + ((floor % 2 == 1) != (position in attention)))
    return found


def _core(graph: Graph, softmax: int) -> set[int]:
    """The softmax, the product before it, the product after it and the glue between; empty where it is no
    attention.
    """
    after = _path(graph, softmax, forward=True)
    before = _path(graph, softmax, forward=False)
    return {softmax} | after | before if after and before else set()


def _path(graph: Graph, start: int, *, forward: bool) -> set[int]:
    """Nodes from ``start`` to the nearest product of two computed values, without ``start``; empty where
    there is none.
    """
    came = {start: start}
    frontier = [start]
    for _ in range(REACH):
        following = []
        for position in frontier:
            for neighbour in _readers(graph, position) if forward else sorted(graph.predecessors[position]):
                if neighbour in came:
                    continue
                came[neighbour] = position
                node = graph.nodes[neighbour]
                if node.op in PRODUCTS and not node.weighted:
                    path = set()
                    while neighbour != start:
                        path.add(neighbour)
                        neighbour = came[neighbour]
                    return path
                if node.op in GLUE:
                    following.append(neighbour)
        frontier = following
    return set()


def _readers(graph: Graph, position: int) -> list[int]:
    return sorted({r for name in graph.nodes[position].outputs for r in graph.readers[name]})


def _backward(graph: Graph, core: set[int], taken: set[int]) -> set[int]:
    """``core`` with everything before it that only it reads: first to the projections, then the norm before
    those.
    """
    region = set(core)
    for through_weights in (False, True):
        grown = True
        while grown:
            grown = False
            for position in sorted(region, reverse=True):
                if graph.nodes[position].weighted and not through_weights:
                    continue
                for before in sorted(graph.predecessors[position] - region - taken):
                    own = all(reader in region for reader in _readers(graph, before))
                    if own and not (through_weights and graph.nodes[before].weighted):
                        region.add(before)
                        grown = True
    return region


def _forward(graph: Graph, region: set[int], taken: set[int]) -> set[int]:
    """``region`` with what follows: glue up to the first weighted product, then bias and residual sums."""
    grown, projected = True, False
    while grown:
        grown = False
        inputs = {name for p in region for name in graph.nodes[p].inputs}
        made = {name for p in region for name in graph.nodes[p].outputs}
        for follower in sorted({r for p in region for r in _readers(graph, p)} - region - taken):
            node = graph.nodes[follower]
            data = node.inputs[:1] if node.op in VIEWS else node.inputs  # a shape may come from anywhere
            closed = all(name in made or name in inputs or graph.producer[name] == GIVEN for name in data)
            if not closed or (projected and node.op not in ("Add", "Sum", "Cast", "Mul", "DequantizeLinear")):
                continue
            if node.op in GLUE or node.op == "Sum" or (node.weighted and not projected):
                region = region | {follower}
                residual = node.op in ("Add", "Sum") and projected and len(node.inputs) > 1
                projected = projected or node.weighted
                grown = not residual
                if residual:
                    return region
                break
    return region
