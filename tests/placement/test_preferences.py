"""What was applied decides where a test runs, as far as its marker leaves that open and a node can give it."""

from __future__ import annotations

from placement_support import collect, engine, finish, known_runs, node, runs, wanting

from pytest_browserpool.placement.events import BackendRefusedThere, NodeLost, Unrunnable
from pytest_browserpool.placement.history import History
from pytest_browserpool.placement.limits import excluded
from pytest_browserpool.preferences import Preference

PREFERENCE = Preference(model="m", browser="firefox", backend="wasm")
SLOW_THERE = History(runs=known_runs(firefox_m=9.0, chromium_m=1.0))
"""So that without the preference chromium is chosen."""


def test_a_preferred_way_is_taken_where_a_node_gives_it() -> None:
    made = engine(node("n1", "chromium", "firefox"), history=SLOW_THERE, preferences=(PREFERENCE,))
    (sent,) = runs(collect(made, wanting("t")))
    assert (sent.browser, sent.backend) == ("firefox", "wasm")
    assert sent.decision is not None
    assert sent.decision.factors["applied"] == 1.0
    plain = engine(node("n1", "chromium", "firefox"), history=SLOW_THERE)
    assert [r.browser for r in runs(collect(plain, wanting("t")))] == ["chromium"]


def test_the_marker_and_what_a_node_lacks_win_over_it() -> None:
    made = engine(node("n1", "chromium", "firefox"), history=SLOW_THERE, preferences=(PREFERENCE,))
    assert [r.browser for r in runs(collect(made, wanting("t", browsers=("chromium",))))] == ["chromium"]
    made = engine(node("n1", "chromium"), preferences=(PREFERENCE,))
    assert [r.browser for r in runs(collect(made, wanting("t")))] == ["chromium"]


def test_a_preferred_backend_that_refuses_the_model_is_left() -> None:
    made = engine(node("n1", "chromium", "firefox"), preferences=(PREFERENCE,))
    (first,) = runs(collect(made, wanting("a"), wanting("b")))
    made.handle(BackendRefusedThere(at=1.0, browser="firefox", backend="wasm", model="m"))
    assert [r.browser for r in runs(finish(made, first, 2.0))] == ["chromium"]


def test_a_browser_is_left_to_as_few_nodes_as_was_applied() -> None:
    nodes = [node(f"n{i}", "chromium", "firefox") for i in range(4)]
    limits = {"firefox": 1, "chromium": 3}
    left = excluded(nodes, limits)
    assert sum("firefox" not in left.get(n.node, ()) for n in nodes) == 1
    assert sum("chromium" not in left.get(n.node, ()) for n in nodes) == 3
    assert all(len(browsers) < 2 for browsers in left.values())
    made = engine(*nodes, browser_nodes=limits)
    sent = runs(collect(made, *(wanting(f"t{i}", model=f"m{i}", browsers=("firefox",)) for i in range(8))))
    assert len(sent) == 1


def test_the_only_node_with_a_browser_keeps_it_and_none_is_left_without() -> None:
    assert excluded([node("n1", "chromium"), node("n2", "firefox")], {"firefox": 1, "chromium": 1}) == {}
    alone = [node("n1", "firefox"), node("n2", "firefox")]
    assert excluded(alone, {"firefox": 1}) == {}


def test_a_lost_node_takes_no_browser_with_it() -> None:
    nodes = [node(f"n{i}", "chromium", "firefox") for i in range(2)]
    made = engine(*nodes, browser_nodes={"firefox": 1, "chromium": 1})
    tests = [wanting(f"{b}{i}", model=b, browsers=(b,)) for b in ("firefox", "chromium") for i in range(3)]
    sent = runs(collect(made, *tests))
    assert {r.browser for r in sent} == {"firefox", "chromium"}
    lost = next(r for r in sent if r.browser == "firefox")
    other = next(r for r in sent if r.browser == "chromium")
    said = made.handle(NodeLost(at=1.0, node=lost.node, reason="killed"))
    done = [other.test]
    for at in range(2, 12):
        assert not [c for c in said if isinstance(c, Unrunnable)]
        said = finish(made, other, float(at))
        if not runs(said):
            break
        (other,) = runs(said)
        assert other.node != lost.node
        done.append(other.test)
    assert sorted(done) == sorted(t.nodeid for t in tests)
