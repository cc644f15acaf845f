"""Local search on a partition: move single nodes over a border while the bottleneck falls."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_browserpool.sharding.graph import GIVEN, Graph
from pytest_browserpool.sharding.plan import Host, load_of

VISITS = 150_000
"""Nodes looked at before the search stops, about half a second: its gains are mostly in the first few
moves.
"""


def refine(graph: Graph, stage_of: Sequence[int], hosts: Sequence[Host]) -> list[int]:
    """A stage for each node that is no worse than ``stage_of``: (bottleneck, total time) never rises.

    ``hosts[k]`` runs stage ``k``. Edges keep leading to the same or a later stage, no stage becomes empty,
    and values that cannot pass stay inside one.
    """
    stages = list(stage_of)
    members = [{p for p, s in enumerate(stages) if s == k} for k in range(len(hosts))]
    times = [load_of(graph, sorted(own)).time_on(host) for own, host in zip(members, hosts, strict=True)]
    visits, moved = 0, True
    while moved and visits < VISITS:
        moved = False
        worst = max(range(len(hosts)), key=times.__getitem__)
        for node, target in _moves(graph, stages, members, worst):
            source = stages[node]
            visits += len(members[source]) + len(members[target])
            before = (max(times), sum(times))
            trial = list(times)
            trial[source] = load_of(graph, sorted(members[source] - {node})).time_on(hosts[source])
            trial[target] = load_of(graph, sorted(members[target] | {node})).time_on(hosts[target])
            after = (max(trial), sum(trial))
            if after[0] < before[0] * (1 - 1e-9) or (
                after[0] <= before[0] and after[1] < before[1] * (1 - 1e-9)
            ):
                stages[node] = target
                members[source].remove(node)
                members[target].add(node)
                times, moved = trial, True
                break
            if visits >= VISITS:
                break
    return stages


def _moves(
    graph: Graph, stages: Sequence[int], members: Sequence[set[int]], worst: int
) -> list[tuple[int, int]]:
    """Nodes that may change to a neighbouring stage, those that leave or enter the ``worst`` stage."""
    found = []
    for node, stage in enumerate(stages):
        if len(members[stage]) == 1:
            continue
        for target in (stage - 1, stage + 1):
            if not 0 <= target < len(members) or worst not in (stage, target):
                continue
            if _may_move(graph, stages, node, target):
                found.append((node, target))
    return found


def _may_move(graph: Graph, stages: Sequence[int], node: int, target: int) -> bool:
    for name in graph.nodes[node].inputs:
        producer = graph.producer[name]
        if producer != GIVEN and (
            stages[producer] > target or (graph.values[name].barrier and stages[producer] != target)
        ):
            return False
    for name in graph.nodes[node].outputs:
        barrier = graph.values[name].barrier
        for reader in graph.readers[name]:
            if stages[reader] < target or (barrier and stages[reader] != target):
                return False
    return True
