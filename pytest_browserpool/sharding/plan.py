"""What a partition decides and predicts: hosts in, shards and segments out; plain values that travel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_browserpool.errors import ShardingError
from pytest_browserpool.sharding.graph import GIVEN, Graph
from pytest_browserpool.values import Plain

MIB = 1024 * 1024

PARAMETER_COPIES = 2.0
"""A page holds the model's bytes while onnxruntime-web makes its own copy, and wasm memory never shrinks
again.
"""


@dataclass(frozen=True, kw_only=True)
class Host(Plain):
    """A browser that can take one shard, as far as the partitioner cares."""

    name: str
    speed: float = 1.0
    """Compute relative to ``costs.REFERENCE``: 2.0 takes half of a node's ``seconds``."""
    memory: int | None = None
    """Bytes that a shard may use in it; None sets no limit."""
    unsupported: frozenset[str] = frozenset()
    """Operators that its backend lacks."""
    refused: frozenset[int] = frozenset()
    """Nodes (``Node.index``) of segments of which its backend was seen to run nothing. A segment that consists of such
    nodes alone is barred from it: providers take nodes one by one, so another choice among them gets none either."""
    bytes_per_s: float = 200e6
    """Tensor transfer between node process and page; 100 – 360 MB/s were measured over one WebSocket."""
    latency_s: float = 0.0005
    """One command and its answer: 0.24 – 0.4 ms were measured, and a run has two ends."""

    def __post_init__(self) -> None:
        for name, value, sound in (
            ("speed", self.speed, 0 < self.speed < math.inf),
            ("bytes_per_s", self.bytes_per_s, self.bytes_per_s > 0),
            ("latency_s", self.latency_s, 0 <= self.latency_s < math.inf),
            ("memory", self.memory, self.memory is None or self.memory >= 0),
        ):
            if not sound:  # nor is what is not a number
                raise ShardingError(
                    f"{name}={value!r} of host {self.name!r} makes no sense",
                    remedy="give speed and bytes_per_s above zero, latency_s and memory of zero or more",
                )

    @property
    def room(self) -> float:
        """Bytes that a shard may use, infinite where nothing limits them."""
        return math.inf if self.memory is None else self.memory

    @property
    def kind(self) -> tuple[object, ...]:
        """What makes two hosts interchangeable."""
        return (self.speed, self.memory, self.unsupported, self.refused, self.bytes_per_s, self.latency_s)

    def bars(self, nodes: Iterable[int]) -> bool:
        """Whether a segment of these nodes (``Node.index``) would leave its backend without any."""
        return bool(self.refused) and self.refused.issuperset(nodes)


@dataclass(frozen=True, kw_only=True)
class Segment(Plain):
    """A piece of the model that runs as one ONNX model in one browser."""

    index: int
    """Order of execution: a segment reads only the caller's inputs and values of earlier segments."""
    shard: int
    nodes: tuple[int, ...]
    """Indices in the model's node list. Constant nodes they need are not listed; each segment gets its own
    copy.
    """
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float
    """Predicted compute in its host."""
    bytes_in: int
    bytes_out: int
    parameter_bytes: int
    memory: int
    """Predicted peak in bytes: parameters held twice, the largest node's tensors, and what crosses."""


@dataclass(frozen=True, kw_only=True)
class Shard(Plain):
    """All segments of one browser."""

    index: int
    host: str
    segments: tuple[int, ...]
    seconds: float
    """Predicted compute and transfer for one request."""
    memory: int


@dataclass(frozen=True, kw_only=True)
class Considered(Plain):
    """A strategy that ``auto`` tried: what it predicts, or why it cannot be used."""

    strategy: str
    bottleneck_s: float | None = None
    latency_s: float | None = None
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan(Plain):
    """A partition. ``bottleneck_s`` is what one more request costs in a full pipeline, ``latency_s`` one
    request alone.
    """

    strategy: str
    shards: tuple[Shard, ...]
    segments: tuple[Segment, ...]
    bottleneck_s: float
    latency_s: float
    lower_bound_s: float
    """No partition into as many shards can have a smaller bottleneck, whichever of the hosts that there were are taken."""
    duplicated_bytes: int
    """Bytes of parameters that more than one segment holds, beyond the first copy (tied embeddings)."""
    considered: tuple[Considered, ...] = ()

    def host_of(self, segment: Segment) -> str:
        """The name of the host that runs ``segment``."""
        return self.shards[segment.shard].host

    def describe(self) -> str:
        """One line for each shard, for people."""
        lines = [
            f"{self.strategy}: bottleneck {self.bottleneck_s * 1e3:.2f} ms,"
            f" latency {self.latency_s * 1e3:.2f} ms"
        ]
        for shard in self.shards:
            parts = [self.segments[i] for i in shard.segments]
            lines.append(
                f"  shard {shard.index} on {shard.host}: {sum(len(p.nodes) for p in parts)} nodes"
                f" in {len(parts)} segment(s),"
                f" {sum(p.parameter_bytes for p in parts) / MIB:.1f} MiB of parameters,"
                f" in {sum(p.bytes_in for p in parts)} B, out {sum(p.bytes_out for p in parts)} B,"
                f" {shard.seconds * 1e3:.2f} ms"
            )
        return "\n".join(lines)


def make_plan(
    graph: Graph,
    groups: Sequence[tuple[int, Sequence[int]]],
    hosts: Sequence[Host],
    strategy: str,
    among: Sequence[Host] | None = None,
) -> Plan:
    """Evaluate ``groups``, pairs of shard and node positions in order of execution, on ``hosts[shard]``.

    ``among``: all the hosts that could have been taken, which the lower bound is of; ``hosts`` where None.
    Raises ``ShardingError`` where a group reads a value of a later one, a value that cannot pass crosses, a
    host lacks an operator or refused all nodes of a group, or a shard does not fit into its host's memory.
    """
    home = {position: number for number, (_, positions) in enumerate(groups) for position in positions}
    segments = []
    for number, (shard, positions) in enumerate(groups):
        segments.append(_segment(graph, number, shard, sorted(positions), hosts[shard], home))
    shards = [
        _shard(index, host, [s for s in segments if s.shard == index]) for index, host in enumerate(hosts)
    ]
    held = sum(s.parameter_bytes for s in segments)
    once = sum(graph.parameters[name] for name in {p for node in graph.nodes for p in node.parameters})
    return Plan(
        strategy=strategy,
        shards=tuple(shards),
        segments=tuple(segments),
        bottleneck_s=max(s.seconds for s in shards),
        latency_s=sum(s.seconds for s in shards),
        lower_bound_s=lower_bound(graph, among or hosts, len(hosts)),
        duplicated_bytes=held - once,
    )


def _shard(index: int, host: Host, segments: Sequence[Segment]) -> Shard:
    memory = sum(s.memory for s in segments)
    if host.memory is not None and memory > host.memory:
        raise ShardingError(
            f"shard {index} needs {memory / MIB:.1f} MiB, host {host.name!r} has {host.memory / MIB:.1f} MiB",
            remedy="use more shards, or a browser with more memory",
        )
    return Shard(
        index=index,
        host=host.name,
        segments=tuple(s.index for s in segments),
        seconds=sum(time_of(s.seconds, s.bytes_in + s.bytes_out, host) for s in segments),
        memory=memory,
    )


def time_of(seconds: float, moved: int, host: Host) -> float:
    """Time of a segment in ``host``: compute, the bytes that enter and leave its page, and one command."""
    return seconds + moved / host.bytes_per_s + host.latency_s


@dataclass(frozen=True, slots=True)
class Load:
    """What a set of nodes asks of a host: seconds at speed 1, bytes over its borders, parameters, largest
    node.
    """

    seconds: float
    reads: tuple[str, ...]
    sends: tuple[str, ...]
    bytes_in: int
    bytes_out: int
    parameters: int
    largest: int
    ops: frozenset[str]
    nodes: tuple[int, ...]
    """As ``Node.index``."""

    @property
    def memory(self) -> int:
        """Predicted peak in bytes: parameters held twice, the largest node's tensors, and what crosses."""
        return int(PARAMETER_COPIES * self.parameters) + self.largest + self.bytes_in + self.bytes_out

    def time_on(self, host: Host) -> float:
        """Seconds of one request on ``host``; infinite where it lacks an operator or the memory, or refused the nodes."""
        if self.ops & host.unsupported or (host.memory is not None and self.memory > host.memory):
            return float("inf")
        if host.bars(self.nodes):
            return float("inf")
        return time_of(self.seconds / host.speed, self.bytes_in + self.bytes_out, host)


def load_of(graph: Graph, positions: Sequence[int]) -> Load:
    """The load of the nodes at ``positions``."""
    nodes = [graph.nodes[p] for p in positions]
    reads, sends = crossing(graph, positions)
    return Load(
        seconds=sum(node.seconds for node in nodes),
        reads=reads,
        sends=sends,
        bytes_in=sum(graph.size(name) for name in reads),
        bytes_out=sum(graph.size(name) for name in sends),
        parameters=sum(graph.parameters[name] for name in {p for node in nodes for p in node.parameters}),
        largest=max(
            (sum(graph.values[n].size for n in {*node.inputs, *node.outputs}) for node in nodes), default=0
        ),
        ops=frozenset().union(*(node.ops for node in nodes)),
        nodes=tuple(node.index for node in nodes),
    )


def _segment(
    graph: Graph, number: int, shard: int, positions: Sequence[int], host: Host, home: dict[int, int]
) -> Segment:
    load = load_of(graph, positions)
    for name in load.reads:
        value, producer = graph.values[name], graph.producer[name]
        if producer != GIVEN and home[producer] >= number:
            raise ShardingError(f"segment {number} reads {name!r} of the later segment {home[producer]}")
        if producer != GIVEN and value.barrier:
            raise ShardingError(
                f"the cut before segment {number} goes through {name!r}, which is {value.barrier}",
                remedy="use fewer shards, so that the value stays in one of them",
            )
    if lacking := load.ops & host.unsupported:
        node = next(graph.nodes[p] for p in positions if graph.nodes[p].ops & lacking)
        raise ShardingError(
            f"node {node.name or node.index!r} needs {sorted(node.ops & lacking)},"
            f" which host {host.name!r} lacks",
            remedy="allow a browser or backend that has the operator",
        )
    if host.bars(load.nodes):
        raise ShardingError(
            f"segment {number} has only nodes that host {host.name!r} refused: {graph.names_of(load.nodes)}",
            remedy="allow another browser or backend, or ask for fewer shards",
        )
    return Segment(
        index=number,
        shard=shard,
        nodes=load.nodes,
        inputs=load.reads,
        outputs=load.sends,
        seconds=load.seconds / host.speed,
        bytes_in=load.bytes_in,
        bytes_out=load.bytes_out,
        parameter_bytes=load.parameters,
        memory=load.memory,
    )


def crossing(graph: Graph, positions: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The values that the nodes at ``positions`` read from outside, and those of theirs that are read
    outside.
    """
    inside = set(positions)
    wanted = set(graph.outputs)
    reads = dict.fromkeys(
        n for p in positions for n in graph.nodes[p].inputs if graph.producer[n] not in inside
    )
    sends = [
        name
        for p in positions
        for name in graph.nodes[p].outputs
        if name in wanted or any(reader not in inside for reader in graph.readers[name])
    ]
    return tuple(reads), tuple(sends)


def lower_bound(graph: Graph, hosts: Sequence[Host], shards: int | None = None) -> float:
    """Seconds below which no bottleneck can be, whichever ``shards`` of the ``hosts`` are taken (all of them where None):
    perfect balance, the largest node, and the tensors of inputs and outputs.

    Balance: the work, with the one transfer in of each input and out of each output, over the sum of the
    speeds, the fastest hosts' where there are more than shards.
    """
    count = len(hosts) if shards is None else shards
    speeds = sorted((h.speed for h in hosts), reverse=True)[:count]
    fastest, rate = speeds[0], max(h.bytes_per_s for h in hosts)
    latency = min(h.latency_s for h in hosts)
    outer = sum(graph.size(n) for n in graph.outputs) + sum(
        graph.size(n) for n in graph.inputs if graph.readers[n]
    )
    largest = max((node.seconds for node in graph.nodes), default=0.0)
    return max(
        graph.total_seconds / sum(speeds) + latency,
        largest / fastest + latency,
        (graph.total_seconds / fastest + outer / rate) / count + latency,
    )
