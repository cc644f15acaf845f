"""Single decisions of the engine, each with its reason."""

from __future__ import annotations

import pytest
from placement_support import collect, engine, finish, known_runs, node, runs, wanting

from pytest_browserpool.placement.events import (
    Abandoned,
    AllNodesKnown,
    BackendRefusedThere,
    NodeLost,
    NodeUp,
    Prewarm,
    Retire,
    Run,
    RunObserved,
    SessionGone,
    SessionMade,
    Shutdown,
    TestsCollected,
    Tick,
    Unrunnable,
)
from pytest_browserpool.placement.history import History, Sample
from pytest_browserpool.placement.policy import FIRST_RUN_SHARE
from pytest_browserpool.values import ModelNeeds, TestNeeds


def sure(value: float) -> Sample:
    return Sample(value, 1000)


def test_warm_session_keeps_its_tests() -> None:
    """Two models on two equal nodes: each model stays on one node, whatever ends first."""
    history = History(
        runs=known_runs(chromium_a=1.0, chromium_b=1.0),
        loads={("chromium", "wasm", "a"): sure(20.0), ("chromium", "wasm", "b"): sure(20.0)},
    )
    made = engine(node("n1"), node("n2"), history=history)
    current = runs(collect(made, *(wanting(f"{m}{i}", m) for i in range(4) for m in "ab")))
    places: dict[str, set[str]] = {"a": set(), "b": set()}
    at = 0.0
    while current:
        run = current.pop(0)
        places[run.test[0]].add(run.node)
        at += 1.0
        current += runs(finish(made, run, at))
    assert len(places["a"]) == len(places["b"]) == 1
    assert places["a"] != places["b"]


def test_group_is_split_when_that_ends_sooner() -> None:
    history = History(runs=known_runs(chromium_a=5.0), loads={("chromium", "wasm", "a"): sure(1.0)})
    made = engine(node("n1"), node("n2"), history=history)
    assert {r.node for r in runs(collect(made, *(wanting(f"t{i}", "a") for i in range(8))))} == {"n1", "n2"}


def test_group_is_not_split_when_set_up_costs_more() -> None:
    history = History(runs=known_runs(chromium_a=0.02), loads={("chromium", "wasm", "a"): sure(10.0)})
    made = engine(node("n1"), node("n2"), history=history)
    assert len(runs(collect(made, *(wanting(f"t{i}", "a") for i in range(8))))) == 1


def test_slow_node_stays_idle() -> None:
    history = History(
        runs=known_runs(chromium_a=1.0),
        loads={("chromium", "wasm", "a"): sure(0.1)},
        speeds={"fast": sure(10.0), "slow": sure(0.05)},
    )
    made = engine(node("fast"), node("slow"), history=history)
    assert [r.node for r in runs(collect(made, *(wanting(f"t{i}", "a") for i in range(6))))] == ["fast"]


def test_longest_first_and_priority_before_that() -> None:
    history = History(
        runs=known_runs(chromium_a=1.0),
        scales={"short": sure(0.5), "long": sure(3.0), "urgent": sure(0.1)},
    )
    made = engine(node("n1"), history=history)
    tests = (wanting("short", "a"), wanting("long", "a"), wanting("urgent", "a", priority=1))
    order = []
    current = runs(collect(made, *tests))
    while current:
        order.append(current[0].test)
        current = runs(finish(made, current[0], len(order) * 5.0))
    assert order == ["urgent", "long", "short"]


def test_scarce_node_is_kept_for_what_needs_it() -> None:
    history = History(runs=known_runs(chromium_a=1.0, firefox_f=1.0))
    made = engine(node("both", "chromium", "firefox"), node("one", "chromium"), history=history)
    tests = [wanting(f"f{i}", "f", browsers=("firefox",)) for i in range(4)]
    tests += [wanting(f"a{i}", "a", browsers=("chrome",)) for i in range(4)]
    first = {r.node: r for r in runs(collect(made, *tests))}
    assert first["both"].browser == "firefox"
    assert first["one"].browser == "chromium"


def test_backends_are_a_strict_order() -> None:
    made = engine(node("n1", backends=("webgpu", "wasm")))
    (run,) = runs(collect(made, wanting("t", "a", backends=("webnn", "wasm", "webgpu"))))
    assert run.backend == "wasm"


def test_measured_browser_beats_the_prior() -> None:
    """Vision is believed to run best in Chrome; the record says Firefox."""
    history = History(
        runs=known_runs(chromium_v=8.0, firefox_v=1.0),
        node_launches={("n1", b): sure(0.5) for b in ("chromium", "firefox")},
        loads={(b, "wasm", "v"): sure(0.5) for b in ("chromium", "firefox")},
    )
    made = engine(node("n1", "chromium", "firefox"), history=history)
    (run,) = runs(collect(made, *(wanting(f"t{i}", "v", type="vision") for i in range(5))))
    assert run.browser == "firefox"


@pytest.mark.parametrize(
    ("kind", "browser"), [("audio", "firefox"), ("vision", "chromium"), ("text", "edge")]
)
def test_prior_decides_a_tie(kind: str, browser: str) -> None:
    browsers = ("chromium", "firefox", "edge")
    history = History(
        runs={(b, "wasm", "m"): sure(1.0) for b in browsers},
        loads={(b, "wasm", "m"): sure(1.0) for b in browsers},
        launches={b: sure(1.0) for b in browsers},
    )
    made = engine(node("n1", *browsers), history=history)
    (run,) = runs(collect(made, wanting("t", type=kind)))
    assert run.browser == browser
    assert run.decision is not None
    assert set(run.decision.factors) == {
        "affinity",
        "capacity",
        "overload",
        "success",
        "latency",
        "memory",
        "score",
    }
    assert run.decision.factors["affinity"] == 1.2
    assert {a["browser"] for a in run.decision.alternatives} == set(browsers) - {browser}
    assert run.decision.breakdown == pytest.approx({"queue": 0.0, "launch": 1.0, "load": 1.0, "run": 1.0})
    assert run.decision.expected_s == pytest.approx(3.0)


def test_reasons_name_every_node() -> None:
    made = engine(node("n1", "chromium", memory=4.0), node("n2", "firefox"))
    commands = collect(
        made,
        wanting("webnn", "a", backends=("webnn",)),
        wanting("big", "a", min_memory=16.0),
        wanting("edge", "a", browsers=("edge",)),
    )
    reasons = {c.test: c.reasons for c in commands if isinstance(c, Unrunnable)}
    assert reasons["webnn"] == (
        "n1: chromium (webnn: createContext throws)",
        "n2: firefox (webnn: createContext throws)",
    )
    assert reasons["big"] == ("n1: needs 16 GiB, node has 4", "n2: needs 16 GiB, node has 8")
    assert reasons["edge"] == ("n1: no edge (has chromium)", "n2: no edge (has firefox)")


def test_unrunnable_waits_for_expected_nodes() -> None:
    made = engine(node("n1"))
    made.book.more = 1
    assert collect(made, wanting("t", browsers=("firefox",))) == []
    (run,) = runs(made.handle(NodeUp(at=1.0, capabilities=node("n2", "firefox"))))
    assert (run.node, run.browser) == ("n2", "firefox")


def test_lost_for_good_is_said_with_its_reason() -> None:
    made = engine(node("n1", "firefox"), node("n2"))
    collect(made, wanting("t", browsers=("firefox",)), wanting("other", browsers=("chrome",)))
    commands = made.handle(NodeLost(at=1.0, node="n1", reason="killed"))
    (said,) = [c for c in commands if isinstance(c, Unrunnable)]
    assert said.test == "t"
    assert "n1: lost" in said.reasons


def test_test_that_kills_nodes_is_tried_twice() -> None:
    made = engine(node("n1"), node("n2"), node("n3"))
    (first,) = runs(collect(made, wanting("killer")))
    (second,) = runs(made.handle(NodeLost(at=1.0, node=first.node)))
    assert second.node != first.node
    commands = made.handle(NodeLost(at=2.0, node=second.node))
    assert Abandoned(test="killer", nodes=(first.node, second.node)) in commands
    assert not runs(commands)
    assert any(isinstance(c, Shutdown) for c in commands)


def test_refused_backend_moves_on_to_the_next() -> None:
    made = engine(node("n1", backends=("webgpu", "wasm")))
    (run,) = runs(collect(made, *(wanting(f"t{i}", "a", backends=("webgpu", "wasm")) for i in range(3))))
    assert run.backend == "webgpu"
    made.handle(BackendRefusedThere(at=0.5, browser="chromium", backend="webgpu", model="a"))
    (after,) = runs(finish(made, run, 1.0))
    assert after.backend == "wasm"


def test_concurrency_key_holds_over_nodes() -> None:
    made = engine(node("n1"), node("n2"), node("n3"))
    tests = [wanting(f"g{i}", f"m{i}", concurrency_key=("gpu", 1)) for i in range(3)]
    current = runs(collect(made, *tests))
    seen = []
    for at in (1.0, 2.0, 3.0):
        assert len(current) == 1
        seen.append(current[0].test)
        current = runs(finish(made, current[0], at))
    assert sorted(seen) == ["g0", "g1", "g2"]


def test_more_urgent_test_is_drawn_to_an_idle_node() -> None:
    """Nothing less urgent begins on a node while something more urgent could end sooner there."""
    history = History(
        runs=known_runs(chromium_a=2.0),
        loads={("chromium", "wasm", "a"): sure(0.0)},
        launches={"chromium": sure(0.0)},
    )
    made = engine(node("n1"), node("n2"), history=history)
    tests = [wanting(f"p1-{i}", "a", priority=1) for i in range(5)] + [
        wanting(f"p5-{i}", "a", priority=5) for i in range(5)
    ]
    current = runs(collect(made, *tests))
    started: list[str] = []
    at = 0.0
    while current:
        run = current.pop(0)
        started.append(run.test)
        at += 1.0
        current += runs(finish(made, run, at))
    assert sorted(started[:5]) == [f"p1-{i}" for i in range(5)]


def test_prewarm_names_what_comes() -> None:
    history = History(
        runs=known_runs(chromium_a=1.0, chromium_b=1.0),
        loads={("chromium", "wasm", m): sure(5.0) for m in "ab"},
        launches={"chromium": sure(1.0)},
    )
    made = engine(node("n1"), history=history)
    commands = collect(made, wanting("a1", "a"), wanting("b1", "b"))
    (run,) = runs(commands)
    (hint,) = [c for c in commands if isinstance(c, Prewarm)]
    assert hint.test == ({"a1", "b1"} - {run.test}).pop()
    assert (hint.node, hint.browser, hint.backend) == ("n1", "chromium", "wasm")


def test_prewarm_waits_until_the_set_up_is_near() -> None:
    history = History(
        runs=known_runs(chromium_a=30.0, chromium_b=1.0),
        loads={("chromium", "wasm", m): sure(2.0) for m in "ab"},
    )
    made = engine(node("n1"), history=history)
    commands = collect(made, wanting("a1", "a", priority=1), wanting("b1", "b"))
    assert [c.test for c in commands if isinstance(c, Run)] == ["a1"]
    end = made.book.nodes["n1"].busy_until
    said = [
        (at, c)
        for at in range(1, int(end))
        for c in made.handle(Tick(at=float(at)))
        if isinstance(c, Prewarm)
    ]
    assert [hint.test for _, hint in said] == ["b1"]
    assert end - 4.0 <= said[0][0] <= end - 3.0, "twice the set-up of two seconds ahead of the end"


@pytest.mark.parametrize("ahead", [True, False])
def test_what_is_made_ahead_draws_its_tests(ahead: bool) -> None:
    """A long test holds its node up, and another node idles: what waits moves there unless its session is being made
    here."""
    history = History(
        runs=known_runs(chromium_long=30.0, chromium_short=1.0, chromium_b=10.0),
        loads={("chromium", "wasm", m): sure(s) for m, s in (("long", 1.0), ("short", 20.0), ("b", 1.0))},
    )
    made = engine(node("n1"), history=history, prewarm=ahead)
    commands = collect(made, wanting("long", "long"), wanting("short", "short", priority=5))
    (run,) = runs(commands)
    assert run.test == "long"
    assert [c.test for c in commands if isinstance(c, Prewarm)] == (["short"] if ahead else [])
    made.handle(Tick(at=20.0))
    moved = runs(made.handle(NodeUp(at=20.5, capabilities=node("n2"))))
    assert [r.test for r in moved] == ([] if ahead else ["short"])


def test_session_that_never_ran_still_has_its_first_run_to_pay() -> None:
    """WebGPU compiles when a model runs first: being made ahead takes little of that away."""
    session = ("chromium", "webgpu", "m")
    history = History(
        runs={session: sure(1.0)}, loads={session: sure(10.0)}, launches={"chromium": sure(2.0)}
    )
    made = engine(node("n1", backends=("webgpu",)), history=history, prewarm=False)
    made.handle(SessionMade(at=0.0, node="n1", browser="chromium", backend="webgpu", model="m"))
    (first,) = runs(collect(made, wanting("t1"), wanting("t2")))
    assert first.decision is not None
    assert first.decision.breakdown["launch"] == 0.0
    assert first.decision.breakdown["load"] == pytest.approx(10.0 * FIRST_RUN_SHARE["webgpu"])
    (second,) = runs(finish(made, first, 12.0))
    assert second.decision is not None
    assert second.decision.breakdown["load"] == 0.0


def test_browser_that_nobody_needs_any_more_is_retired() -> None:
    made = engine(node("n1", "chromium", "firefox"))
    tests = [wanting(f"f{i}", "f", browsers=("firefox",)) for i in range(2)]
    (run,) = runs(collect(made, *tests, wanting("c", "c", browsers=("chromium",), priority=5)))
    assert run.browser == "firefox"
    (run,) = runs(finish(made, run, 1.0))
    commands = finish(made, run, 2.0)
    assert Retire(node="n1", browser="firefox") in commands
    assert [r.test for r in runs(commands)] == ["c"]


def test_evicted_session_is_paid_for_again() -> None:
    history = History(
        runs=known_runs(chromium_a=1.0),
        loads={("chromium", "wasm", "a"): sure(7.0)},
        launches={"chromium": sure(2.0)},
    )
    made = engine(node("n1"), history=history)
    (first,) = runs(collect(made, *(wanting(f"t{i}", "a") for i in range(4))))
    (second,) = runs(finish(made, first, 10.0))
    assert second.decision is not None
    assert second.decision.expected_s == pytest.approx(1.0)
    made.handle(SessionGone(at=10.5, node="n1", browser="chromium"))
    (third,) = runs(finish(made, second, 11.0))
    assert third.decision is not None
    assert third.decision.expected_s == pytest.approx(10.0)


def test_overdue_node_gives_its_tests_away() -> None:
    history = History(
        runs=known_runs(chromium_a=1.0),
        loads={("chromium", "wasm", "a"): sure(0.1)},
        launches={"chromium": sure(0.1)},
    )
    made = engine(node("n1"), node("n2"), history=history)
    first = runs(collect(made, *(wanting(f"t{i}", "a") for i in range(6))))
    stuck, moving = first
    at, done = 1.0, 1
    current = runs(finish(made, moving, at))
    for _ in range(30):
        at += 1.0
        if current:
            done += 1
            current = runs(finish(made, current[0], at))
        else:
            current = [r for r in runs(made.handle(Tick(at=at))) if r.node == moving.node]
    assert done == 5, f"all but the one that hangs on {stuck.node}"
    assert made.migrations.count >= 1
    assert made.migrations.useful >= 1


def test_joining_node_takes_its_share() -> None:
    history = History(runs=known_runs(chromium_a=5.0), loads={("chromium", "wasm", "a"): sure(0.5)})
    made = engine(node("n1"), history=history)
    (run,) = runs(collect(made, *(wanting(f"t{i}", "a") for i in range(10))))
    finish(made, run, 6.0)
    (joined,) = runs(made.handle(NodeUp(at=7.0, capabilities=node("n2"))))
    assert joined.node == "n2"
    assert 3 <= sum(len(batch.tests) for batch in made.plan["n2"]) <= 5


def test_plain_test_runs_anywhere() -> None:
    made = engine(node("bare", memory=0.0))
    commands = collect(made, TestNeeds(nodeid="t"), TestNeeds(nodeid="marker", needs=ModelNeeds(priority=1)))
    (run,) = runs(commands)
    assert (run.test, run.browser, run.backend) == ("marker", None, None)


def test_nothing_collected_and_no_node() -> None:
    made = engine(node("n1"))
    assert made.handle(TestsCollected(at=0.0, tests=())) == [Shutdown(node="n1")]
    empty = engine()
    empty.handle(AllNodesKnown(at=0.0))
    (said,) = collect(empty, wanting("t"))
    assert said == Unrunnable(test="t", reasons=("no node came up",))


def test_same_events_same_commands() -> None:
    def play() -> list[object]:
        made = engine(node("n1", "chromium", "firefox"), node("n2"), seed=5)
        log: list[object] = list(collect(made, *(wanting(f"t{i}", f"m{i % 5}") for i in range(30))))
        current: list[Run] = runs(log)  # type: ignore[arg-type]
        at = 0.0
        while current:
            at += 0.7
            commands = [*finish(made, current.pop(0), at), *made.improve(50)]
            log += commands
            current += runs(commands)
        return log

    assert play() == play()


def test_views() -> None:
    made = engine(node("n1"), node("n2"))
    first = runs(collect(made, *(wanting(f"t{i}", f"m{i % 2}") for i in range(8))))
    planned = [t for batches in made.plan.values() for b in batches for t in b.tests]
    assert sorted([*planned, *(r.test for r in first)]) == [f"t{i}" for i in range(8)]
    finish(made, first[0], 3.0)
    assert made.waits[3].count == len(first) + 1
    assert made.waits[3].longest == 3.0
    assert made.expected_end > 3.0


def test_a_model_in_shards_has_times_of_its_own() -> None:
    made = engine(node("n1", "chromium"))
    commands = collect(made, wanting("whole", "m"), wanting("a", "m", shards=2), wanting("b", "m", shards=2))
    seen = {}
    while runs(commands):
        (run,) = runs(commands)
        model = "m" if run.test == "whole" else "m in 2 shards"
        seconds = seen[run.test] = 0.1 if run.test == "whole" else 9.0
        now = made.now
        made.handle(
            RunObserved(
                at=now,
                node="n1",
                browser="chromium",
                backend="wasm",
                model=model,
                seconds=seconds,
                test=run.test,
            )
        )
        commands = finish(made, run, now + seconds, seconds)
    assert set(seen) == {"whole", "a", "b"}
    estimates = made.book.estimates
    made.improve(0)
    made.book.refresh()
    assert estimates.of_run(("chromium", "wasm", "m in 2 shards")) > 10 * estimates.of_run(
        ("chromium", "wasm", "m")
    )


def test_improving_ends_when_there_was_enough() -> None:
    """Thousands of like tests make an iteration slow; the controller counts its time, not the iterations."""
    made = engine(node("n1"), node("n2"))
    collect(made, *(wanting(f"{m}{i}", m) for i in range(40) for m in "abc"))
    asked = 0

    def enough() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    made.improve(10_000, enough)
    assert asked == 6
