"""Cuts that leave out what a browser's backend refused: never used again, and the best of the others."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sharding_graphs import chain, graphs, hosts
from test_sharding_partition import legal, planned

from pytest_browserpool.errors import ShardingError
from pytest_browserpool.sharding.graph import Graph, with_seconds
from pytest_browserpool.sharding.intervals import best_stages
from pytest_browserpool.sharding.partition import STRATEGIES, partition
from pytest_browserpool.sharding.plan import Host, Plan, load_of

relaxed = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)

nodes = st.frozensets(st.integers(0, 8), max_size=7)


def refusing(browsers: list[Host], refused: list[frozenset[int]]) -> list[Host]:
    """Each with a name of its own and what it refused."""
    named = enumerate(zip(browsers, refused, strict=True))
    return [dataclasses.replace(host, name=f"h{i}", refused=each) for i, (host, each) in named]


def used_again(plan: Plan, browsers: list[Host]) -> list[tuple[int, ...]]:
    refused = {host.name: host.refused for host in browsers}
    return [s.nodes for s in plan.segments if set(s.nodes) <= refused[plan.host_of(s)]]


def brute_force(graph: Graph, browsers: list[Host], shards: int) -> float:
    """The least bottleneck over all assignments in which each browser gets a node that it did not refuse: the rule is
    applied here, not by the costs."""
    best = math.inf
    free = [dataclasses.replace(host, refused=frozenset()) for host in browsers]
    for stages in itertools.product(range(shards), repeat=len(graph.nodes)):
        if len(set(stages)) != shards or not legal(graph, stages):
            continue
        members = [[p for p, s in enumerate(stages) if s == k] for k in range(shards)]
        loads = [load_of(graph, own) for own in members]
        for order in itertools.permutations(range(len(browsers)), shards):
            if any(set(own) <= browsers[i].refused for own, i in zip(members, order, strict=True)):
                continue
            best = min(best, max(load.time_on(free[i]) for load, i in zip(loads, order, strict=True)))
    return best


@relaxed
@given(
    graphs(),
    st.lists(hosts, min_size=3, max_size=3),
    st.lists(nodes, min_size=3, max_size=3),
    st.integers(1, 3),
    st.sampled_from(sorted(STRATEGIES)),
)
def test_what_was_refused_is_never_tried_again(
    graph: Graph, browsers: list[Host], refused: list[frozenset[int]], shards: int, strategy: str
) -> None:
    browsers = refusing(browsers, refused)
    plan = planned(graph, browsers, shards, strategy)
    assume(isinstance(plan, Plan))
    assert isinstance(plan, Plan)
    assert used_again(plan, browsers) == []


@settings(relaxed, max_examples=30)
@given(
    graphs(most=6),
    st.lists(hosts, min_size=3, max_size=3),
    st.lists(nodes, min_size=3, max_size=3),
    st.integers(2, 3),
)
def test_the_best_of_the_others_is_taken(
    graph: Graph, browsers: list[Host], refused: list[frozenset[int]], shards: int
) -> None:
    assume(shards <= len(graph.nodes))
    browsers = refusing(browsers, refused)
    best = brute_force(graph, browsers, shards)
    plan = planned(graph, browsers, shards)
    if isinstance(plan, ShardingError):
        assert best == math.inf
        return
    assert best * (1 - 1e-9) <= plan.bottleneck_s <= max(best * (1 + 1e-9), plan.lower_bound_s * 1.01)


@pytest.mark.parametrize("first", [0, 1])
def test_cutting_again_ends_with_a_segment_that_the_browser_runs(first: int) -> None:
    """A browser that is known as slow gets as little as possible, and here that is what it does not run."""
    graph = with_seconds(chain(20), dict.fromkeys([*range(4), *range(16, 20)], 0.001))
    runs = set(range(4, 16))
    refused: frozenset[int] = frozenset()
    cuts = list[set[int]]()
    while not cuts or not cuts[-1] & runs:
        assert len(cuts) < 9, f"still refused: {cuts}"
        browsers = [Host(name="slow", speed=1e-4, refused=refused), Host(name="fast")]
        plan = partition(graph, browsers[::-1] if first else browsers, 2)
        cuts.append(set(next(s.nodes for s in plan.segments if plan.host_of(s) == "slow")))
        assert not cuts[-1] <= refused
        refused |= cuts[-1]
    assert len(cuts[-1] & runs) == 1
    assert len(cuts) > 2


def test_a_large_graph_is_searched_roughly_first_and_still_keeps_to_it() -> None:
    graph = with_seconds(chain(1000), dict.fromkeys(range(1000), 1e-6))
    browsers = [Host(name="slow", speed=0.01, refused=frozenset(range(3, 990))), Host(name="fast")]
    stages = best_stages(graph, browsers, 2, range(1000))
    assert stages is not None
    slow = next(stage for stage in stages if stage.host == 0)
    assert not set(range(slow.start, slow.end)) <= browsers[0].refused


def test_where_no_cut_is_left_the_nodes_are_named() -> None:
    browsers = [Host(name="one", refused=frozenset(range(9))), Host(name="two")]
    words = r"no cut is left.*one refused 0 \(Add\), 1 \(Add\).* and 3 more(.|\n)*shards=1"
    with pytest.raises(ShardingError, match=words):
        partition(chain(9), browsers, 2)
    browsers += [Host(name="three", speed=0.1)]
    plan = partition(chain(9), browsers, 2)
    assert {shard.host for shard in plan.shards} == {"two", "three"}
