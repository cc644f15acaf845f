"""What a node can give a test: backends are a strict order, browsers are a set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.placement.eligibility import sessions_on, why_not
from pytest_browserpool.values import (
    BACKENDS,
    BackendSupport,
    BrowserCapabilities,
    ModelNeeds,
    NodeCapabilities,
)

NAMES = ("chromium", "firefox", "headless-shell")
MODEL = "m"


def browser(name: str, gives: frozenset[str]) -> BrowserCapabilities:
    backends = tuple(BackendSupport(name=b, available=b in gives) for b in BACKENDS)
    family = "firefox" if name == "firefox" else "chrome"
    return BrowserCapabilities(name=name, family=family, version="1", backends=backends)


nodes = st.dictionaries(st.sampled_from(NAMES), st.frozensets(st.sampled_from(BACKENDS)), min_size=1).map(
    lambda found: NodeCapabilities(node="n", browsers=tuple(browser(n, g) for n, g in found.items()))
)
orders = st.lists(st.sampled_from(BACKENDS), min_size=1, unique=True).map(tuple)
refusals = st.frozensets(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(BACKENDS), st.just(MODEL)), max_size=6
)


@given(nodes, orders, refusals)
def test_of_the_backends_that_a_test_names_the_first_that_the_node_gives_is_the_only_one(
    node: NodeCapabilities, order: tuple[str, ...], refused: frozenset[tuple[str, str, str]]
) -> None:
    needs = ModelNeeds(source=MODEL, id=MODEL, backends=order)
    found = sessions_on(node, needs, refused)
    by_hand = [
        (b, [name.name for name in node.browsers if name.gives(b) and (name.name, b, MODEL) not in refused])
        for b in order
    ]
    first = next(((b, names) for b, names in by_hand if names), (None, []))
    assert [(s[0], s[1]) for s in found] == [(name, first[0]) for name in first[1]]
    assert bool(why_not(node, needs, refused)) is not bool(found)


@given(nodes, refusals)
def test_a_test_that_names_none_takes_of_each_browser_what_it_prefers(
    node: NodeCapabilities, refused: frozenset[tuple[str, str, str]]
) -> None:
    found = sessions_on(node, ModelNeeds(source=MODEL, id=MODEL), refused)
    for one in node.browsers:
        free = [b for b in one.preference if one.gives(b) and (one.name, b, MODEL) not in refused]
        assert [s[1] for s in found if s[0] == one.name] == free[:1]
