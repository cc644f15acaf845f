"""The true optimum over all acyclic partitions, by exhaustion: exact for small graphs, and the measure of the search.

Any partition into stages that run one after the other is a chain of downsets (node sets closed under "is read by"),
so dynamic programming over downsets finds the best one. Their number is the limit: a chain of n nodes has n + 1,
n independent nodes have 2ⁿ.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pytest_browserpool.sharding.graph import GIVEN, Graph
from pytest_browserpool.sharding.plan import Host, Load, load_of

Groups = list[tuple[int, list[int]]]


def downsets(graph: Graph, limit: int) -> list[int] | None:
    """All downsets that may be cut off, as bit masks in ascending size; None where there are more than ``limit``."""
    needs = [sum(1 << p for p in before) for before in graph.predecessors]
    found = {0}
    frontier = [0]
    while frontier:
        grown = set()
        for mask in frontier:
            for node, need in enumerate(needs):
                if not mask >> node & 1 and need & ~mask == 0:
                    grown.add(mask | 1 << node)
        frontier = list(grown - found)
        found |= grown
        if len(found) > limit:
            return None
    return sorted((mask for mask in found if not _barred(graph, mask)), key=int.bit_count)


def _barred(graph: Graph, mask: int) -> bool:
    """Whether a value that cannot pass is computed inside ``mask`` and read outside."""
    return any(
        mask >> graph.producer[name] & 1 and not mask >> reader & 1
        for name, value in graph.values.items()
        if value.barrier and graph.producer.get(name, GIVEN) != GIVEN
        for reader in graph.readers[name]
    )


def optimum(graph: Graph, hosts: Sequence[Host], shards: int, limit: int) -> tuple[Groups, list[int]] | None:
    """The partition into ``shards`` stages with the least bottleneck, then the least total time.

    Returns groups for ``make_plan`` and the host number of each stage; None where no partition fits, or where the
    graph has more than ``limit`` downsets.
    """
    sets = downsets(graph, limit)
    if sets is None or len(hosts) < shards:
        return None
    loads: dict[int, Load] = {}
    best: tuple[float, float] | None = None
    found: tuple[list[int], list[int]] | None = None
    kinds: set[tuple[object, ...]] = set()
    for order in itertools.permutations(range(len(hosts)), shards):
        kind = tuple(hosts[i].kind for i in order)
        if kind in kinds:
            continue
        kinds.add(kind)
        chain = _chain(graph, [hosts[i] for i in order], sets, loads)
        if chain and (best is None or chain[0] < best):
            best, found = chain[0], (chain[1], list(order))
    if found is None:
        return None
    masks, order_found = found
    groups = [(k, _positions(b & ~a)) for k, (a, b) in enumerate(itertools.pairwise(masks))]
    return groups, order_found


def _chain(
    graph: Graph, hosts: Sequence[Host], sets: Sequence[int], loads: dict[int, Load]
) -> tuple[tuple[float, float], list[int]] | None:
    """The best chain of downsets for ``hosts`` in this order. Totals only break ties of one state, so they are near least."""
    reached: dict[int, tuple[float, float, list[int]]] = {0: (0.0, 0.0, [0])}
    for number, host in enumerate(hosts):
        last = number == len(hosts) - 1
        following: dict[int, tuple[float, float, list[int]]] = {}
        for end in sets[-1:] if last else sets:
            for start, (worst, total, path) in reached.items():
                if start & ~end or start == end:
                    continue
                if end & ~start not in loads:
                    loads[end & ~start] = load_of(graph, _positions(end & ~start))
                seconds = loads[end & ~start].time_on(host)
                candidate = (max(worst, seconds), total + seconds, [*path, end])
                if seconds < float("inf") and (end not in following or candidate[:2] < following[end][:2]):
                    following[end] = candidate
        reached = following
    if not reached:
        return None
    worst, total, path = next(iter(reached.values()))
    return (worst, total), path


def _positions(mask: int) -> list[int]:
    return [i for i in range(mask.bit_length()) if mask >> i & 1]
