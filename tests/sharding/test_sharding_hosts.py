"""Which browsers are taken where there are many unequal ones, and what a browser may be."""

from __future__ import annotations

import math

import pytest
from sharding_graphs import transformer

from pytest_browserpool.errors import ShardingError
from pytest_browserpool.sharding import intervals
from pytest_browserpool.sharding.graph import Graph, Node, Value
from pytest_browserpool.sharding.partition import partition
from pytest_browserpool.sharding.plan import MIB, Host, Plan
from pytest_browserpool.sharding.read import read


def heavy_chain(count: int, held: int) -> Graph:
    """Nodes one after the other, each with ``held`` bytes of parameters."""
    names = ["x", *(f"v{i}" for i in range(count))]
    nodes = tuple(
        Node(i, "MatMul", (names[i],), (names[i + 1],), (f"w{i}",), 1e-4, frozenset({"MatMul"}))
        for i in range(count)
    )
    values = {name: Value(name, 100) for name in names}
    return Graph(nodes, values, ("x",), (names[-1],), {f"w{i}": held for i in range(count)})


SMALL = [Host(name=f"small{i}", speed=3 + i / 10, memory=100 * MIB) for i in range(7)]


def taken(plan: Plan) -> set[str]:
    return {shard.host for shard in plan.shards}


def test_a_browser_without_a_limit_has_the_most_room() -> None:
    """It was taken for one without any memory, and all was refused."""
    browsers = [*SMALL, Host(name="big")]
    assert taken(partition(heavy_chain(300, MIB), browsers, 1)) == {"big"}
    with pytest.raises(ShardingError, match="the roomiest browser has no limit"):
        partition(heavy_chain(300, MIB), [Host(name="tiny", memory=1000), browsers[-1]], 2)


@pytest.mark.parametrize(("count", "browsers"), [(300, 6), (5000, 3)])
def test_slow_browsers_with_room_are_found_among_fast_small_ones(count: int, browsers: int) -> None:
    room = [Host(name=f"roomy{i}", speed=1 + i / 10, memory=400 * MIB) for i in range(2)]
    graph = heavy_chain(count, 300 * MIB // count)
    plan = partition(graph, [*SMALL[:browsers], *room], 2)
    assert taken(plan) == {"roomy0", "roomy1"}


def test_slow_browsers_with_all_operators_are_found_among_fast_ones_without() -> None:
    lacking = [Host(name=f"fast{i}", speed=5 + i, unsupported=frozenset({"MatMul"})) for i in range(8)]
    able = [Host(name=f"able{i}", speed=1 + i / 10, memory=4000 * MIB) for i in range(2)]
    assert not intervals.complete([*lacking, *able], 2, 300)
    assert taken(partition(heavy_chain(300, MIB), [*lacking, *able], 2)) == {"able0", "able1"}


def test_a_refusal_says_that_not_everything_was_tried() -> None:
    words = (
        r"in every cut that was tried some browser is too small(.|\n)*so many unequal browsers not every way"
    )
    browsers = [Host(name=f"b{i}", speed=1 + i, memory=(20 + i) * MIB) for i in range(8)]
    with pytest.raises(ShardingError, match=words):
        partition(heavy_chain(300, MIB), browsers, 2)
    with pytest.raises(ShardingError, match=": some browser is too small for its shard: ") as caught:
        partition(heavy_chain(300, MIB), browsers[:2], 2)
    assert "not every way" not in str(caught.value)


def test_attention_goes_to_browsers_with_room_among_many() -> None:
    graph = read(transformer(4), {"tokens": (2, 5)}).graph
    room = [Host(name="roomy1"), Host(name="roomy2", speed=0.9)]
    tiny = [Host(name=f"tiny{i}", speed=3 + i, memory=1000) for i in range(5)]
    assert taken(partition(graph, [*tiny, *room], 2, "attention_feedforward")) == {"roomy1", "roomy2"}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"speed": 0}, "speed=0 "),
        ({"speed": -1.0}, "speed=-1.0 "),
        ({"speed": math.nan}, "speed=nan "),
        ({"speed": math.inf}, "speed=inf "),
        ({"bytes_per_s": 0}, "bytes_per_s=0 "),
        ({"bytes_per_s": math.nan}, "bytes_per_s=nan "),
        ({"latency_s": -1e-3}, "latency_s=-0.001 "),
        ({"memory": -1}, "memory=-1 "),
    ],
)
def test_what_no_browser_can_be_is_refused(told: dict[str, float], words: str) -> None:
    """It became a division by zero, or a plan of numbers that are none."""
    with pytest.raises(ShardingError, match=f"{words}of host 'chromium'"):
        Host(name="chromium", **told)  # type: ignore[arg-type]


def test_no_browser_at_all_is_told_so() -> None:
    with pytest.raises(ShardingError, match="no browser can take a shard") as caught:
        partition(heavy_chain(3, 1), [], 2)
    assert "shards=0" not in str(caught.value)
