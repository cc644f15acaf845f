"""A model as the partitioner sees it: nodes, values and what they cost; pure, without ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random

from pytest_browserpool.errors import InvalidModel

NAMED = 6
"""Nodes that a message names: enough to find the place in a viewer of models, and still one line."""

GIVEN = -1
"""The producer of a value that the caller gives (a graph input)."""


@dataclass(frozen=True, slots=True)
class Value:
    """Something that one node computes and others read.

    ``size`` is in bytes at the shapes the graph was read with. ``barrier`` says why the value cannot pass
    from one browser to another ("a sequence", "of unknown type"), and is empty where it can.
    """

    name: str
    size: int
    barrier: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """One step that is never cut: an operator, a call of a model-local function, or an If, Loop or Scan with
    its body.

    ``inputs`` names values of other nodes and graph inputs, those that a body captures included;
    ``parameters`` names what does not depend on the graph's inputs and is copied into each shard that needs
    it. ``ops`` has every operator in it (``Conv``, ``com.microsoft.Gelu``), the body's too. ``seconds`` is
    the cost on a host of speed 1.
    """

    index: int
    """Position in the model's own node list, which is how a plan names it."""
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    seconds: float = 0.0
    ops: frozenset[str] = frozenset()
    name: str = ""
    scope: str = ""
    """Words that say which part of the model this is: the node's name and those of its parameters."""
    weighted: bool = False
    """Whether it multiplies by a parameter matrix (MatMul, Gemm, Conv with weights)."""


@dataclass(frozen=True)
class Graph:
    """Nodes in a topological order, the values between them, and the bytes of the parameters.

    Raises ``InvalidModel`` where a value has no producer, or two, or is read before it is computed.
    """

    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, int] = field(default_factory=dict)
    resident: frozenset[str] = frozenset()
    """Graph inputs and outputs that stay in the page from call to call (a KV cache): they cost no
    transfer.
    """

    def __post_init__(self) -> None:
        seen = dict.fromkeys(self.inputs, GIVEN)
        for position, node in enumerate(self.nodes):
            for name in node.inputs:
                if name not in seen:
                    raise InvalidModel(
                        f"value {name!r} is read by {self._told(node)} but not computed before it",
                        remedy="check the model with onnx.checker.check_model",
                    )
            for name in node.outputs:
                if name in seen:
                    first = "the caller" if seen[name] == GIVEN else self._told(self.nodes[seen[name]])
                    raise InvalidModel(
                        f"value {name!r} of {self._told(node)} is computed twice, by {first} too",
                        remedy="check the model with onnx.checker.check_model",
                    )
                seen[name] = position
        for name in self.outputs:
            if name not in seen:
                raise InvalidModel(
                    f"output {name!r} is computed by no node",
                    remedy="check the model with onnx.checker.check_model",
                )

    @staticmethod
    def _told(node: Node) -> str:
        return f"node {node.name or node.index!r} ({node.op})"

    @cached_property
    def producer(self) -> dict[str, int]:
        """Position of the node that computes each value; ``GIVEN`` for graph inputs."""
        made = dict.fromkeys(self.inputs, GIVEN)
        made.update((name, position) for position, node in enumerate(self.nodes) for name in node.outputs)
        return made

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """Positions of the nodes that read each value, ascending."""
        table: dict[str, list[int]] = {name: [] for name in self.producer}
        for position, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.inputs):
                table[name].append(position)
        return table

    @cached_property
    def predecessors(self) -> list[set[int]]:
        """For each node the nodes whose values it reads."""
        return [{self.producer[name] for name in node.inputs} - {GIVEN} for node in self.nodes]

    @cached_property
    def followers(self) -> list[list[int]]:
        """For each node the nodes that read its values, ascending."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for position, before in enumerate(self.predecessors):
            for producer in before:
                found[producer].append(position)
        return found

    def size(self, name: str) -> int:
        """Bytes that ``name`` costs when it passes between pages; 0 for what stays in its page."""
        return 0 if name in self.resident else self.values[name].size

    @cached_property
    def total_seconds(self) -> float:
        """Compute of all nodes on a host of speed 1."""
        return sum(node.seconds for node in self.nodes)

    def names_of(self, indices: Iterable[int]) -> str:
        """Nodes (``Node.index``) for people: name and operator, the first few of many."""
        wanted = set(indices)
        told = [f"{node.name or node.index} ({node.op})" for node in self.nodes if node.index in wanted]
        more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
        return ", ".join(told[:NAMED]) + more

    def barriers(self) -> list[tuple[str, ...]]:
        """For each place ``p`` between nodes ``p - 1`` and ``p`` (0 … n) the values that forbid a cut
        there.
        """
        found: list[list[str]] = [[] for _ in range(len(self.nodes) + 1)]
        for name, value in self.values.items():
            if not value.barrier or name not in self.producer or self.producer[name] == GIVEN:
                continue
            for place in range(
                self.producer[name] + 1, max(self.readers[name], default=self.producer[name]) + 1
            ):
                found[place].append(name)
        return [tuple(names) for names in found]

    @cached_property
    def most_segments(self) -> int:
        """An upper bound of the segments that any cut can have: nodes between which a value cannot pass stay together."""
        group = list(range(len(self.nodes)))

        def leader(position: int) -> int:
            while group[position] != position:
                group[position] = group[group[position]]
                position = group[position]
            return position

        for name, producer in self.producer.items():
            if producer != GIVEN and self.values[name].barrier:
                for reader in self.readers[name]:
                    group[leader(reader)] = leader(producer)
        return len({leader(position) for position in group})

    def reordered(self, order: Sequence[int]) -> Graph:
        """The same graph with its nodes in another topological order of positions."""
        return replace(self, nodes=tuple(self.nodes[position] for position in order))


def with_seconds(graph: Graph, seconds: Mapping[int, float]) -> Graph:
    """``graph`` with measured costs, by node index, in seconds; nodes that were not measured keep their
    estimate.
    """
    return replace(
        graph, nodes=tuple(replace(n, seconds=seconds.get(n.index, n.seconds)) for n in graph.nodes)
    )


def depth_first(graph: Graph) -> list[int]:
    """A topological order that finishes one branch before it starts the next, so that few values are
    alive.
    """
    order: list[int] = []
    done = [False] * len(graph.nodes)
    for end in range(len(graph.nodes)):
        stack = [end]
        while stack:
            node = stack[-1]
            waiting = [p for p in graph.predecessors[node] if not done[p]]
            if done[node] or not waiting:
                stack.pop()
                if not done[node]:
                    done[node] = True
                    order.append(node)
            else:
                stack.extend(sorted(waiting, reverse=True))
    return order


def shuffled(graph: Graph, stages: Sequence[int], generator: Random) -> list[int]:
    """A random topological order in which ``stages`` stay contiguous; half of the steps follow the newest
    branch.
    """
    waiting = [len(before) for before in graph.predecessors]
    ready: dict[int, list[int]] = {}
    for position, count in enumerate(waiting):
        if not count:
            ready.setdefault(stages[position], []).append(position)
    order: list[int] = []
    for stage in sorted(set(stages)):
        open_nodes = ready.setdefault(stage, [])
        while open_nodes:
            at = len(open_nodes) - 1 if generator.random() < 0.5 else generator.randrange(len(open_nodes))
            position = open_nodes.pop(at)
            order.append(position)
            for reader in graph.followers[position]:
                waiting[reader] -= 1
                if not waiting[reader]:
                    ready.setdefault(stages[reader], []).append(reader)
    return order


def by_rank(graph: Graph, ranks: Sequence[int]) -> list[int]:
    """A topological order sorted by ``ranks``, which must not fall along an edge; equal ranks keep their
    order.
    """
    return sorted(range(len(graph.nodes)), key=lambda position: (ranks[position], position))


def rising(graph: Graph, wanted: Iterable[int | None]) -> list[int]:
    """``wanted`` ranks made monotone: a node gets at least the rank of what it reads; None takes just
    that.
    """
    ranks: list[int] = []
    for own, before in zip(wanted, graph.predecessors, strict=True):
        floor = max((ranks[p] for p in before), default=0)
        ranks.append(floor if own is None else max(own, floor))
    return ranks
