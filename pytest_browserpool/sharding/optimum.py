"""The true optimum over all acyclic partitions, by exhaustion below a bound: for small graphs and narrow
ones.

Any partition into stages that run one after the other is a chain of downsets (node sets closed under "is read
by"), so dynamic programming over downsets finds the best one. Their number is the limit: a chain of n nodes
has n + 1, n independent nodes have 2ⁿ; networks made of blocks one after the other stay near n. A known
partition bounds the search: no stage may take longer, and the rest must fit into the hosts that are left.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from pytest_browserpool.sharding.graph import GIVEN, Graph
from pytest_browserpool.sharding.plan import Host, Load, load_of

Groups = list[tuple[int, list[int]]]

Quality = tuple[float, float]
"""Bottleneck and total time, both in seconds."""

SLACK = 1 + 1e-9
"""Sums in another order differ in the last bits."""


INFINITE = float("inf")

ORDER_LIMIT = 3_000
"""Unequal orders of hosts that are tried: five shards on four kinds of browsers have 1,024 at most, on seven 2,520 where
there is one of each; every order is a search of its own.
"""


class ExhaustedError(Exception):
    """The search would have to look at more than its budget."""


def optimum(
    graph: Graph, hosts: Sequence[Host], shards: int, *, ceiling: float, downset_limit: int, budget: int
) -> tuple[Groups, list[int]] | None:
    """The partition into ``shards`` stages with the least bottleneck, if there is one below ``ceiling``
    seconds.

    Returns groups for ``make_plan`` and the host number of each stage; None where no partition is that good.
    Raises ``ExhaustedError`` above ``ORDER_LIMIT`` orders of hosts, before it begins, and above ``downset_limit`` sets or
    ``budget`` nodes looked at.
    """
    if count_orders(hosts, shards) > ORDER_LIMIT:
        raise ExhaustedError
    search = _Search(graph, downset_limit, budget)
    best: Quality | None = None
    found: tuple[list[int], list[int]] | None = None
    for order in unequal_orders(hosts, shards):
        chain = search.chain([hosts[i] for i in order], min(ceiling, best[0] if best else ceiling))
        if chain and (best is None or chain[0] < best):
            best, found = chain[0], (chain[1], order)
    if found is None:
        return None
    masks, chosen = found
    return [(k, _positions(b & ~a)) for k, (a, b) in enumerate(itertools.pairwise(masks))], chosen


def _members(hosts: Sequence[Host]) -> list[list[int]]:
    """The numbers of the hosts of each kind, ascending."""
    members: dict[tuple[object, ...], list[int]] = {}
    for number, host in enumerate(hosts):
        members.setdefault(host.kind, []).append(number)
    return list(members.values())


def count_orders(hosts: Sequence[Host], shards: int) -> int:
    """How many ``unequal_orders`` there are, without going through them."""
    ways = [1] + [0] * shards  # by length: sequences of the kinds so far
    for own in _members(hosts):
        ways = [
            sum(math.comb(length, k) * ways[length - k] for k in range(min(len(own), length) + 1))
            for length in range(shards + 1)
        ]
    return ways[shards]


def unequal_orders(hosts: Sequence[Host], shards: int) -> Iterator[list[int]]:
    """Every way to put ``shards`` of the hosts (by number) in a row, hosts of one kind being equal; lowest numbers first,
    of equal hosts too.
    """
    members = _members(hosts)
    used = [0] * len(members)

    def longer(order: list[int]) -> Iterator[list[int]]:
        if len(order) == shards:
            yield order
            return
        for number, kind in sorted((own[used[k]], k) for k, own in enumerate(members) if used[k] < len(own)):
            used[kind] += 1
            yield from longer([*order, number])
            used[kind] -= 1

    yield from longer([])


class _Search:
    def __init__(self, graph: Graph, downset_limit: int, budget: int) -> None:
        self.graph, self.budget = graph, budget
        self.work = downsets(graph, downset_limit)
        self.sets = sorted(self.work, key=int.bit_count)
        self.loads: dict[int, Load] = {}

    def chain(self, hosts: Sequence[Host], ceiling: float) -> tuple[Quality, list[int]] | None:
        """The best chain for ``hosts`` in this order. Total times only break ties of one state, so they are
        near least.
        """
        reached: dict[int, tuple[float, float, list[int]]] = {0: (0.0, 0.0, [0])}
        whole = self.graph.total_seconds
        for number, host in enumerate(hosts):
            ends = self.sets[-1:]
            if rest := hosts[number + 1 :]:
                left = sum(h.speed for h in rest) * ceiling * SLACK
                ends = [s for s in self.sets if whole - self.work[s] <= left]
            following: dict[int, tuple[float, float, list[int]]] = {}
            for start, (worst, total, path) in reached.items():
                most = self.work[start] + ceiling * SLACK * host.speed
                for end in ends:
                    if start & ~end or start == end or self.work[end] > most:
                        continue
                    seconds = self._load(end & ~start).time_on(host)
                    candidate = (max(worst, seconds), total + seconds, [*path, end])
                    if (
                        seconds < INFINITE
                        and seconds <= ceiling * SLACK
                        and (end not in following or candidate[:2] < following[end][:2])
                    ):
                        following[end] = candidate
            reached = following
        if not reached:
            return None
        worst, total, path = next(iter(reached.values()))
        return (worst, total), path

    def _load(self, mask: int) -> Load:
        self.budget -= 1
        if mask not in self.loads:
            self.budget -= mask.bit_count()
            self.loads[mask] = load_of(self.graph, _positions(mask))
        if self.budget < 0:
            raise ExhaustedError
        return self.loads[mask]


def downsets(graph: Graph, limit: int) -> dict[int, float]:
    """Each downset that may be cut off, as a bit mask, with the seconds of its nodes.

    Raises ``ExhaustedError`` above ``limit`` sets.
    """
    needs = [sum(1 << p for p in before) for before in graph.predecessors]
    found = {0: 0.0}
    ready: dict[int, set[int]] = {0: {p for p, need in enumerate(needs) if not need}}
    frontier = [0]
    while frontier:
        grown: list[int] = []
        for mask in frontier:
            for node in ready[mask]:
                larger = mask | 1 << node
                if larger in found:
                    continue
                found[larger] = found[mask] + graph.nodes[node].seconds
                opened = {f for f in graph.followers[node] if not needs[f] & ~larger}
                ready[larger] = (ready[mask] - {node}) | opened
                grown.append(larger)
            if len(found) > limit:
                raise ExhaustedError
        frontier = grown
    return {mask: seconds for mask, seconds in found.items() if not _barred(graph, mask)}


def _barred(graph: Graph, mask: int) -> bool:
    """Whether a value that cannot pass is computed inside ``mask`` and read outside."""
    return any(
        mask >> graph.producer[name] & 1 and not mask >> reader & 1
        for name, value in graph.values.items()
        if value.barrier and graph.producer.get(name, GIVEN) != GIVEN
        for reader in graph.readers[name]
    )


def _positions(mask: int) -> list[int]:
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return found
