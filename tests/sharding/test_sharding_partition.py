"""Partitions: optimal against brute force, valid whatever the graph and the hosts, refused with the
reason.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sharding_graphs import chain, graphs, hosts

from pytest_browserpool.errors import ShardingError
from pytest_browserpool.sharding import optimum as exhaustive
from pytest_browserpool.sharding.graph import GIVEN, Graph, Node, Value, depth_first, shuffled, with_seconds
from pytest_browserpool.sharding.intervals import best_stages
from pytest_browserpool.sharding.partition import STRATEGIES, layer_balanced, partition
from pytest_browserpool.sharding.plan import Host, Plan, load_of, lower_bound, make_plan

relaxed = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


def brute_force_cuts(graph: Graph, browsers: list[Host], shards: int) -> float:
    """The least bottleneck over all contiguous cuts and all orders of hosts, by trying each."""
    count = len(graph.nodes)
    barred = {place for place, names in enumerate(graph.barriers()) if names}
    best = math.inf
    for places in itertools.combinations([p for p in range(1, count) if p not in barred], shards - 1):
        bounds = [0, *places, count]
        loads = [load_of(graph, range(a, b)) for a, b in itertools.pairwise(bounds)]
        for order in itertools.permutations(browsers, shards):
            best = min(best, max(load.time_on(host) for load, host in zip(loads, order, strict=True)))
    return best


def brute_force_stages(graph: Graph, browsers: list[Host], shards: int) -> float:
    """The least bottleneck over all assignments of nodes to stages in which no edge leads back."""
    best = math.inf
    for stages in itertools.product(range(shards), repeat=len(graph.nodes)):
        if len(set(stages)) != shards or not legal(graph, stages):
            continue
        loads = [load_of(graph, [p for p, s in enumerate(stages) if s == k]) for k in range(shards)]
        for order in itertools.permutations(browsers, shards):
            best = min(best, max(load.time_on(host) for load, host in zip(loads, order, strict=True)))
    return best


def legal(graph: Graph, stages: tuple[int, ...]) -> bool:
    for position, node in enumerate(graph.nodes):
        for name in node.inputs:
            producer = graph.producer[name]
            if producer == GIVEN:
                continue
            if stages[producer] > stages[position] or (
                graph.values[name].barrier and stages[producer] != stages[position]
            ):
                return False
    return True


def check_plan(graph: Graph, plan: Plan, browsers: list[Host], shards: int) -> None:
    """What must hold for any plan: each node once, only earlier values read, limits kept, figures that add
    up.
    """
    by_index = {node.index: node for node in graph.nodes}
    assert sorted(i for s in plan.segments for i in s.nodes) == sorted(by_index)
    assert len(plan.shards) == shards
    assert all(shard.segments for shard in plan.shards)
    known = set(graph.inputs)
    for segment in plan.segments:
        assert set(segment.inputs) <= known
        made = {name for i in segment.nodes for name in by_index[i].outputs}
        for i in segment.nodes:
            assert set(by_index[i].inputs) <= set(segment.inputs) | made
        assert not any(graph.values[n].barrier for n in segment.inputs if n not in graph.inputs)
        known |= set(segment.outputs)
    assert set(graph.outputs) <= known
    assert plan.bottleneck_s == pytest.approx(max(s.seconds for s in plan.shards))
    assert plan.bottleneck_s >= plan.lower_bound_s * (1 - 1e-9)
    if browsers[0].memory is not None and len({b.kind for b in browsers}) == 1:
        assert all(s.memory <= browsers[0].memory for s in plan.shards)


@relaxed
@given(graphs(), st.lists(hosts, min_size=1, max_size=4), st.integers(1, 4))
def test_cuts_of_one_order_are_optimal(graph: Graph, browsers: list[Host], shards: int) -> None:
    assume(shards <= min(len(browsers), len(graph.nodes)))
    places = [p for p, names in enumerate(graph.barriers()) if not names]
    stages = best_stages(graph, browsers, shards, places)
    best = brute_force_cuts(graph, browsers, shards)
    if stages is None:
        assert best == math.inf
        return
    assert len({s.host for s in stages}) == shards
    times = [load_of(graph, range(s.start, s.end)).time_on(browsers[s.host]) for s in stages]
    assert max(times) == pytest.approx(best)


@settings(relaxed, max_examples=25)
@given(graphs(most=6), st.lists(hosts, min_size=1, max_size=3), st.integers(1, 3))
def test_small_graphs_are_cut_optimally_over_all_orders(
    graph: Graph, browsers: list[Host], shards: int
) -> None:
    assume(shards <= min(len(browsers), len(graph.nodes)))
    best = brute_force_stages(graph, browsers, shards)
    try:
        plan = layer_balanced(graph, browsers, shards)
    except ShardingError:
        assert best == math.inf
        return
    assert plan.lower_bound_s <= best * (1 + 1e-9)
    # the search stops where it is within a percent of the lower bound
    assert plan.bottleneck_s <= max(best * (1 + 1e-9), plan.lower_bound_s * 1.01)
    assert plan.bottleneck_s >= best * (1 - 1e-9)


@settings(relaxed, max_examples=25)
@given(graphs(most=6), st.lists(hosts, min_size=2, max_size=3), st.integers(2, 3))
def test_the_exhaustive_search_is_exhaustive(graph: Graph, browsers: list[Host], shards: int) -> None:
    assume(shards <= min(len(browsers), len(graph.nodes)))
    found = exhaustive.optimum(graph, browsers, shards, ceiling=math.inf, downset_limit=10_000, budget=10**7)
    best = brute_force_stages(graph, browsers, shards)
    if found is None:
        assert best == math.inf
        return
    groups, order = found
    plan = make_plan(graph, groups, [browsers[i] for i in order], "optimum")
    assert plan.bottleneck_s == pytest.approx(best)


@relaxed
@given(
    graphs(most=12),
    st.lists(hosts, min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from(sorted(STRATEGIES)),
)
def test_every_plan_is_valid_or_refused(
    graph: Graph, browsers: list[Host], shards: int, strategy: str
) -> None:
    plan = planned(graph, browsers, shards, strategy)
    if isinstance(plan, ShardingError):
        assert f"shards={shards}" in str(plan) or f"into {shards} shards" in str(plan)
        assert plan.remedy
        return
    check_plan(graph, plan, browsers, shards)
    assert Plan.from_plain(plan.to_plain()) == plan


@relaxed
@given(graphs(most=8), st.lists(hosts, min_size=4, max_size=4))
def test_a_refusal_names_the_largest_number_that_works(graph: Graph, browsers: list[Host]) -> None:
    refusal = planned(graph, browsers, 4)
    assume(isinstance(refusal, ShardingError))
    works = [n for n in (1, 2, 3) if isinstance(planned(graph, browsers, n), Plan)]
    remedy = getattr(refusal, "remedy", "")
    if works:
        assert f"shards={max(works)}" in remedy
    else:
        assert "shards=" not in remedy


def planned(
    graph: Graph, browsers: list[Host], shards: int, strategy: str = "layer_balanced"
) -> Plan | ShardingError:
    try:
        return partition(graph, browsers, shards, strategy)
    except ShardingError as error:
        return error


@relaxed
@given(graphs(most=12), st.randoms(use_true_random=False))
def test_orders_are_topological(graph: Graph, generator: object) -> None:
    stages = [0] * len(graph.nodes)
    for position, before in enumerate(graph.predecessors):
        stages[position] = max((stages[p] for p in before), default=0) + position % 2
    for order in (depth_first(graph), shuffled(graph, stages, generator)):  # type: ignore[arg-type]
        assert sorted(order) == list(range(len(graph.nodes)))
        graph.reordered(order)  # raises where a value is read before it is computed
    assert [stages[p] for p in order] == sorted(stages)


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 5])
def test_a_chain_is_cut_evenly(shards: int) -> None:
    plan = partition(chain(60), [Host(name=f"h{i}") for i in range(shards)], shards)
    assert [len(s.nodes) for s in plan.segments] == [60 // shards] * shards


def test_a_faster_browser_gets_more_and_an_idle_one_is_possible() -> None:
    browsers = [Host(name="slow", speed=0.01), Host(name="fast", speed=3.0), Host(name="plain")]
    plan = partition(chain(40), browsers, 2)
    assert {s.host for s in plan.shards} == {"fast", "plain"}
    assert {plan.host_of(s): len(s.nodes) for s in plan.segments} == {"fast": 30, "plain": 10}


def test_memory_moves_the_cut() -> None:
    graph = chain(10)
    nodes = tuple(
        Node(n.index, n.op, n.inputs, n.outputs, (f"p{n.index}",), n.seconds, n.ops) for n in graph.nodes
    )
    heavy = Graph(nodes, graph.values, graph.inputs, graph.outputs, {f"p{i}": 1000 for i in range(10)})
    browsers = [Host(name="small", memory=7_000), Host(name="large")]
    plan = partition(heavy, browsers, 2)
    counts = {plan.host_of(s): len(s.nodes) for s in plan.segments}
    assert counts == {"small": 3, "large": 7}  # 3 × 1000 held twice, and 400 of tensors


def test_a_browser_without_the_operator_is_passed_over() -> None:
    graph = chain(6)
    nodes = list(graph.nodes)
    nodes[4] = Node(4, "LSTM", nodes[4].inputs, nodes[4].outputs, (), 1.0, frozenset({"LSTM"}))
    browsers = [Host(name="lacks", unsupported=frozenset({"LSTM"})), Host(name="has")]
    plan = partition(Graph(tuple(nodes), graph.values, graph.inputs, graph.outputs), browsers, 2)
    assert [plan.host_of(s) for s in plan.segments] == ["lacks", "has"]


def test_measured_costs_move_the_cut() -> None:
    graph = with_seconds(chain(10), {0: 8.0})
    plan = partition(graph, [Host(name="a"), Host(name="b")], 2)
    assert [len(s.nodes) for s in plan.segments] == [1, 9]


def test_values_that_stay_in_their_page_cost_nothing() -> None:
    values = {"x": Value("x", 10**9), "y": Value("y", 10**9)}
    node = Node(0, "Add", ("x",), ("y",), (), 1.0, frozenset({"Add"}))
    host = Host(name="a", latency_s=0.0)
    plain, resident = (
        Graph((node,), values, ("x",), ("y",), resident=frozenset(r)) for r in ((), ("x", "y"))
    )
    assert partition(plain, [host], 1).bottleneck_s == pytest.approx(11.0)
    assert partition(resident, [host], 1).bottleneck_s == pytest.approx(1.0)
    assert lower_bound(resident, [host]) == pytest.approx(1.0)


def test_refusals_say_why() -> None:
    browsers = [Host(name=f"h{i}") for i in range(6)]
    with pytest.raises(ShardingError, match="unknown sharding strategy 'layers'"):
        partition(chain(3), browsers, 2, "layers")
    with pytest.raises(ShardingError, match="shards=0"):
        partition(chain(3), browsers, 0)
    with pytest.raises(ShardingError, match="only 6 browser"):
        partition(chain(9), browsers, 7)
    with pytest.raises(ShardingError, match=r"2 place\(s\)(.|\n)*shards=3"):
        partition(chain(3), browsers, 5)
    with pytest.raises(
        ShardingError, match=r"0 place\(s\)(.|\n)*leave shards out; by this one it stays whole"
    ):
        partition(chain(1), browsers, 2)
    with pytest.raises(ShardingError, match="no attention block"):
        partition(chain(9), browsers, 2, "attention_feedforward")
    with pytest.raises(ShardingError, match="no name tells of a component"):
        partition(chain(9), browsers, 2, "component")
    nodes = tuple(dataclasses.replace(node, parameters=(f"w{node.index}",)) for node in chain(9).nodes)
    heavy = dataclasses.replace(chain(9), nodes=nodes, parameters={f"w{i}": 1000 for i in range(9)})
    for memory, remedy in (
        (3000, "use more shards"),
        (1000, "no number of shards works"),
    ):  # a node takes 2400 bytes
        with pytest.raises(ShardingError, match=rf"too small for its shard(.|\n)*remedy: {remedy}"):
            partition(heavy, [Host(name="a", memory=memory), Host(name="b", memory=memory)], 2)
    with pytest.raises(ShardingError, match="operators Add are not supported"):
        partition(chain(9), [Host(name=n, unsupported=frozenset({"Add"})) for n in "ab"], 2)


def test_five_thousand_nodes_are_cut_in_seconds() -> None:
    """Far above what it takes (0.8 s): this only guards against a search that has become quadratic in
    Python.
    """
    import time

    start = time.process_time()
    plan = partition(chain(5000), [Host(name="a"), Host(name="b", speed=2.0), Host(name="c")], 3)
    assert time.process_time() - start < 10
    assert sorted(len(s.nodes) for s in plan.segments) == [1250, 1250, 2500]


def test_a_browser_more_makes_no_cut_slower() -> None:
    """The search stopped at the bound of the browsers that it had taken first: four times the least bottleneck."""

    def node(index: int, op: str, given: str, made: str, seconds: float = 0.0) -> Node:
        return Node(index, op, (given,), (made,), (), seconds, frozenset({op}))

    steps = (
        node(0, "C", "x", "a"),
        node(1, "A", "x", "b"),
        node(2, "B", "a", "y", 0.1),
        node(3, "A", "b", "z"),
    )
    graph = Graph(steps, {name: Value(name, 0) for name in "xabyz"}, ("x",), ("y", "z"))
    fast = Host(name="fast", speed=4.0, unsupported=frozenset("A"), refused=frozenset({2}))
    slow = [Host(name="s1"), Host(name="s2")]
    two, three = partition(graph, [fast, slow[0]], 2), partition(graph, [fast, *slow], 2)
    assert three.bottleneck_s == two.bottleneck_s == pytest.approx(0.0255)
    assert three.lower_bound_s == pytest.approx(lower_bound(graph, [fast, slow[0]]))
