"""Numbers of shards that do not work: the answer is the same for any number, and so is the work for it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharding_graphs import chain, graphs, hosts
from test_sharding_partition import planned, relaxed

from pytest_browserpool.errors import ShardingError
from pytest_browserpool.sharding import intervals, optimum
from pytest_browserpool.sharding.graph import Graph, Value
from pytest_browserpool.sharding.partition import STRATEGIES, check, most_shards, partition
from pytest_browserpool.sharding.plan import Host
from pytest_browserpool.sharding.reasons import Fewer, largest_below

pytestmark = pytest.mark.timeout(30)  # a search that goes through all orders of 50 hosts takes days


def equal(count: int, **more: Any) -> list[Host]:
    return [Host(name=f"h{i}", **more) for i in range(count)]


def heavy(count: int) -> Graph:
    """A chain whose nodes take 2,400 bytes each."""
    nodes = tuple(dataclasses.replace(n, parameters=(f"w{n.index}",)) for n in chain(count).nodes)
    parameters = {f"w{i}": 1000 for i in range(count)}
    return dataclasses.replace(chain(count), nodes=nodes, parameters=parameters)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A word for each search as it begins; they run as ever."""
    begun: list[str] = []
    chained, run = optimum._Search.chain, intervals._Search.run

    def told_chain(self: Any, *arguments: Any) -> Any:
        begun.append("order of hosts")
        return chained(self, *arguments)

    def told_run(self: Any) -> Any:
        begun.append("order of nodes")
        return run(self)

    monkeypatch.setattr(optimum._Search, "chain", told_chain)
    monkeypatch.setattr(intervals._Search, "run", told_run)
    return begun


@pytest.mark.parametrize("strategy", ["layer_balanced", "auto"])
@pytest.mark.parametrize("shards", [3, 16, 30, 50, 1000, 100_000])
def test_a_small_model_is_refused_alike_for_any_number(
    searches: list[str], shards: int, strategy: str
) -> None:
    for ask in (partition, check):
        with pytest.raises(
            ShardingError, match=r"can be cut in 1 place\(s\)(.|\n)*number that works is shards=2"
        ):
            ask(chain(2), equal(shards), shards, strategy)
    assert searches == []


@pytest.mark.parametrize("shards", [50, 200])
@pytest.mark.parametrize("unequal", [False, True])
def test_where_nothing_fits_no_number_is_searched_for_long(
    searches: list[str], shards: int, unequal: bool
) -> None:
    browsers = [
        dataclasses.replace(host, memory=2_400 + (i % 3 if unequal else 0))
        for i, host in enumerate(equal(shards))
    ]
    with pytest.raises(ShardingError, match=r"too small for its shard(.|\n)*use more shards"):
        partition(heavy(shards + 10), browsers, shards)
    assert len(searches) < 500


def test_half_of_the_browsers_is_found_among_many(searches: list[str]) -> None:
    browsers = equal(20) + equal(20, unsupported=frozenset({"Add"}))
    with pytest.raises(ShardingError, match="remedy: shards=20 works, shards=21 does not"):
        partition(chain(45), browsers, 40)
    assert len(searches) < 100


@pytest.mark.parametrize("least", [1, 2, 5, 9, 300])
@pytest.mark.parametrize("limit", [1, 2, 9, 17, 18, 100, 1000, 10**9])
def test_the_largest_number_takes_few_tries(limit: int, least: int) -> None:
    tried: list[int] = []

    def works(number: int) -> bool:
        assert 0 < number < limit
        tried.append(number)
        return number <= least

    found = largest_below(limit, works)
    assert (found is None) == (limit == 1)
    if found is not None:
        assert found.number == min(least, limit - 1)
        assert found.all_above_tried == set(tried).issuperset(range(found.number + 1, limit))
    assert len(tried) == len(set(tried)) <= 16 + 2 * limit.bit_length()


@pytest.mark.parametrize("limit", range(1, 18))
def test_up_to_seventeen_every_number_is_tried(limit: int) -> None:
    for only in range(1, limit):
        assert largest_below(limit, lambda number, only=only: number == only) == Fewer(only, True)  # type: ignore[misc]
    assert largest_below(limit, lambda number: False) is None


@given(st.lists(st.sampled_from((1.0, 2.0, 4.0)), max_size=6), st.integers(0, 5))
def test_equal_hosts_need_no_permutations(speeds: list[float], shards: int) -> None:
    browsers = [Host(name=f"h{i}", speed=speed) for i, speed in enumerate(speeds)]
    first: dict[tuple[float, ...], list[int]] = {}
    for order in itertools.permutations(range(len(speeds)), shards):
        first.setdefault(tuple(speeds[i] for i in order), list(order))
    assert list(optimum.unequal_orders(browsers, shards)) == list(first.values())
    assert optimum.count_orders(browsers, shards) == len(first)


def test_a_thousand_equal_hosts_have_one_order_and_unequal_ones_are_not_gone_through() -> None:
    assert list(optimum.unequal_orders(equal(1000), 5)) == [[0, 1, 2, 3, 4]]
    unequal = [Host(name=f"h{i}", speed=1 + i) for i in range(1000)]
    assert optimum.count_orders(unequal, 5) == 1000 * 999 * 998 * 997 * 996
    with pytest.raises(optimum.ExhaustedError):
        optimum.optimum(chain(9), unequal, 5, ceiling=9.0, downset_limit=100, budget=10**9)


@relaxed
@given(
    graphs(most=9),
    st.lists(hosts, min_size=1, max_size=6),
    st.integers(1, 6),
    st.sampled_from(sorted(STRATEGIES)),
)
def test_a_check_says_what_a_partition_says(
    graph: Graph, browsers: list[Host], shards: int, strategy: str
) -> None:
    found = planned(graph, browsers, shards, strategy)
    if isinstance(found, ShardingError):
        with pytest.raises(ShardingError) as caught:
            check(graph, browsers, shards, strategy)
        assert str(caught.value) == str(found)
    else:
        check(graph, browsers, shards, strategy)
        assert shards <= most_shards(graph, strategy) <= graph.most_segments <= len(graph.nodes)


@settings(relaxed, max_examples=30)
@given(graphs(most=7), st.sampled_from(sorted(STRATEGIES)))
def test_no_strategy_makes_more_than_it_is_said_to(graph: Graph, strategy: str) -> None:
    for shards in range(most_shards(graph, strategy) + 1, len(graph.nodes) + 2):
        with pytest.raises(ShardingError):
            STRATEGIES[strategy](graph, equal(shards), shards)


def test_nodes_that_a_value_keeps_together_count_once() -> None:
    graph = chain(9)
    values = {**graph.values, "v3": Value("v3", 1, "a sequence"), "v4": Value("v4", 1, "a sequence")}
    kept = dataclasses.replace(graph, values=values)
    assert (graph.most_segments, kept.most_segments) == (9, 7)
    with pytest.raises(
        ShardingError, match=r"'v3' is a sequence(.|\n)*the largest number that works is shards=7"
    ):
        partition(kept, equal(1000), 1000)
