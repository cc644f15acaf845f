"""Which nodes lend browsers for shards: as few as will do, never their last one, and none that would change the backend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.errors import CapabilityError
from pytest_browserpool.node.cutting import WASM_MEMORY, Seat
from pytest_browserpool.node.reach import KEPT, alone, arrangements, further, why_no_more
from pytest_browserpool.values import BackendSupport, BrowserCapabilities, ModelNeeds, NodeCapabilities

GIB = 1 << 30


def browser(name: str, *backends: str) -> BrowserCapabilities:
    given = tuple(BackendSupport(name=each, available=True) for each in backends or ("wasm",))
    return BrowserCapabilities(name=name, version="1", family=name, backends=given)


def node(name: str, *browsers: str, most: int = 3, gib: float = 8.0) -> NodeCapabilities:
    found = tuple(browser(each) for each in browsers or ("chromium",))
    return NodeCapabilities(node=name, max_browsers=most, memory_gib=gib, browsers=found)


def needs(shards: int, **more: object) -> ModelNeeds:
    return ModelNeeds(shards=shards, **{"backends": ("wasm",), **more})  # type: ignore[arg-type]


def names(found: object) -> list[list[str]]:
    return [[seat.name for seat in each.places] for each in found]  # type: ignore[attr-defined]


def test_as_many_as_can_be_stay_at_home() -> None:
    own, other = node("gw0", most=2), node("gw1", most=4)
    found = list(arrangements(needs(4), own, [other], where="m"))
    assert names(found) == [
        ["chromium", "chromium#2", "chromium@gw1", "chromium#2@gw1"],
        ["chromium", "chromium@gw1", "chromium#2@gw1", "chromium#3@gw1"],
    ]
    assert found[0].lent == {"gw1": 2}


def test_the_fewest_nodes_and_those_with_the_most_memory() -> None:
    others = [node("small", most=3, gib=1.0), node("large", most=3, gib=16.0)]
    (found, *_) = arrangements(needs(3), node("gw0", most=1), others, where="m")
    assert found.lent == {"large": 2}
    (found, *_) = arrangements(needs(4), node("gw0", most=1), others, where="m")
    assert found.lent == {"large": 2, "small": 1}


def test_a_browser_with_an_open_breaker_is_neither_taken_nor_lent_while_another_can_be() -> None:
    own, other = node("gw0", "chromium", "firefox", most=1), node("gw1", "chromium", "firefox")
    assert names(arrangements(needs(2), own, [other], where="m")) == [["chromium", "chromium@gw1"]]
    avoiding = arrangements(needs(2), own, [other], where="m", avoid={"chromium@gw1"})
    assert names(avoiding) == [["chromium", "firefox@gw1"]]
    avoiding = arrangements(needs(2), own, [other], where="m", avoid={"chromium", "firefox@gw1"})
    assert names(avoiding) == [["firefox", "chromium@gw1"]]


def test_memory_is_shared_by_the_shards_of_a_node() -> None:
    own, other = node("gw0", most=2, gib=1.0), node("gw1", most=3, gib=64.0)
    (found, *_) = arrangements(needs(3), own, [other], where="m")
    assert [found.limit(seat) for seat in found.places] == [GIB // 2, GIB // 2, WASM_MEMORY]
    assert alone(own, 4) == GIB // 4


def test_a_node_keeps_its_last_browser() -> None:
    assert not list(arrangements(needs(2), node("gw0", most=1), [node("gw1", most=KEPT)], where="m"))
    told = why_no_more(node("gw0", most=1), [node("gw1", "firefox", most=1)])
    assert "gw0: 1 browsers" in told
    assert "gw1: lends 0 of 1 browsers (firefox)" in told


def test_kinds_that_the_marker_leaves_out_are_not_asked_for() -> None:
    own, others = node("gw0", most=1), [node("gw1", "firefox"), node("gw2", "firefox", "chromium")]
    (found, *_) = arrangements(needs(2, browsers=("chromium",)), own, others, where="m")
    assert names([found]) == [["chromium", "chromium@gw2"]]


def test_backends_are_one_order_for_all_shards() -> None:
    gpu = NodeCapabilities(node="gw1", memory_gib=8.0, browsers=(browser("firefox", "wasm"),))
    own = NodeCapabilities(
        node="gw0", memory_gib=8.0, max_browsers=1, browsers=(browser("chromium", "webgpu", "wasm"),)
    )
    ordered = needs(2, backends=("webgpu", "wasm"))
    assert not list(arrangements(ordered, own, [gpu], where="m"))
    assert list(arrangements(needs(2, backends=()), own, [gpu], where="m"))


def test_nothing_here_is_said() -> None:
    with pytest.raises(CapabilityError, match="nothing here"):
        list(arrangements(needs(2, browsers=("edge",)), node("gw0"), [node("gw1")], where="m"))


def test_in_place_of_a_lost_seat() -> None:
    lost = Seat("chromium", 0, ("wasm",), "gw1")
    others = [node("gw2", most=2), node("gw3", most=3), node("gw4", "firefox")]
    found = list(further(needs(3, browsers=("chromium",)), others, {"gw2": 1, "gw3": 1}, like=lost))
    assert [seat.name for seat in found] == ["chromium#2@gw3"]


@given(
    st.integers(2, 6),
    st.integers(1, 4),
    st.lists(
        st.tuples(st.integers(1, 4), st.floats(0.5, 64), st.sampled_from(["chromium", "firefox"])), max_size=4
    ),
)
def test_every_arrangement_can_be(shards: int, most: int, lenders: list[tuple[int, float, str]]) -> None:
    own = node("home", "chromium", "firefox", most=most)
    others = [node(f"n{i}", kind, most=lent, gib=gib) for i, (lent, gib, kind) in enumerate(lenders)]
    found = list(arrangements(needs(shards), own, others, where="m"))
    limits = {each.node: each.max_browsers - KEPT for each in others}
    for each in found:
        assert len(each.places) == len(set(each.places)) == shards
        assert all(count <= limits[name] for name, count in each.lent.items())
        assert 1 <= sum(not seat.node for seat in each.places) <= most
        assert {seat.browser for seat in each.places if seat.node} <= {kind for _, _, kind in lenders}
    if most + sum(limits.values()) >= shards > 1 and most < shards:
        assert found
    homes = [sum(not seat.node for seat in each.places) for each in found]
    assert homes == sorted(homes, reverse=True)
