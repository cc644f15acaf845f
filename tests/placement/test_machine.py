"""The engine under any order of events: each test once or said to be unrunnable, never where it cannot
run."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pytest_browserpool.placement.engine import PlacementEngine
from pytest_browserpool.placement.events import (
    Abandoned,
    AllNodesKnown,
    BackendRefusedThere,
    Command,
    LaunchObserved,
    LoadObserved,
    NodeLost,
    NodeUp,
    Prewarm,
    Retire,
    Run,
    RunObserved,
    SessionGone,
    SessionMade,
    Shutdown,
    TestFinished,
    TestsCollected,
    TestStarted,
    Tick,
    Unrunnable,
)
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.values import (
    BACKENDS,
    BackendSupport,
    BrowserCapabilities,
    ModelNeeds,
    NodeCapabilities,
    TestNeeds,
)

FAMILIES = {"chromium": "chrome", "headless-shell": "chrome", "firefox": "firefox"}
BROWSERS = st.dictionaries(
    st.sampled_from(sorted(FAMILIES)), st.sets(st.sampled_from(["webgpu", "webnn", "wasm"])), max_size=3
)
NEEDS = st.none() | st.builds(
    ModelNeeds,
    source=st.sampled_from(["a", "b", "c", None]),
    type=st.sampled_from(["audio", "vision", None]),
    browsers=st.lists(st.sampled_from(["chrome", "firefox", "headless-shell"]), max_size=2, unique=True).map(
        tuple
    ),
    backends=st.lists(st.sampled_from(["webgpu", "webnn", "wasm"]), max_size=2, unique=True).map(tuple),
    min_memory=st.sampled_from([None, 2.0, 6.0]),
    priority=st.integers(1, 5),
    expected_duration=st.sampled_from([None, 0.1, 30.0]),
    concurrency_key=st.sampled_from([None, None, ("gpu", 1), ("disk", 2)]),
)


class Machine(RuleBasedStateMachine):
    """Plays the adapter and keeps its own, independent account."""

    @initialize(
        needs=st.lists(NEEDS, max_size=25),
        seed=st.integers(0, 3),
        expected=st.sampled_from([None, 0, 2]),
        learn=st.booleans(),
    )
    def begin(self, needs: list[ModelNeeds | None], seed: int, expected: int | None, learn: bool) -> None:
        self.tests = {f"t{i}": n for i, n in enumerate(needs)}
        self.engine = PlacementEngine(EngineConfig(seed=seed, expected_nodes=expected, learn=learn))
        self.up: dict[str, NodeCapabilities] = {}
        self.running: dict[str, Run] = {}
        self.lost: Counter[str] = Counter()
        self.ended: dict[str, str] = {}
        self.refused: set[tuple[str, str, str]] = set()
        self.clock = 0.0
        self.serial = 0
        self.collected = False
        self.shut: set[str] = set()

    # -- what the adapter does -------------------------------------------------------------------------------

    def tell(self, event: object) -> None:
        self.obey(self.engine.handle(event))  # type: ignore[arg-type]

    def obey(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Run():
                    self.check_run(command)
                    self.running[command.node] = command
                case Unrunnable():
                    self.check_unrunnable(command)
                    self.end(command.test, "unrunnable")
                case Abandoned():
                    assert (
                        self.lost[command.test] == self.engine.config.max_attempts == len(set(command.nodes))
                    )
                    self.end(command.test, "abandoned")
                case Prewarm():
                    assert command.node in self.up
                case Retire():
                    assert command.node in self.up
                    run = self.running.get(command.node)
                    assert run is None or run.browser != command.browser, "retired in use"
                case Shutdown():
                    assert len(self.ended) == len(self.tests)
                    self.shut.add(command.node)
                case _:
                    pytest.fail(f"unexpected {command}")

    def end(self, test: str, how: str) -> None:
        assert test not in self.ended, f"{test} ended twice: {self.ended[test]} and {how}"
        assert test not in {r.test for r in self.running.values()}
        self.ended[test] = how

    def check_run(self, run: Run) -> None:
        assert run.node in self.up, "sent to a node that is not there"
        assert run.node not in self.running, "a node holds one test at a time"
        assert run.test not in self.ended, "sent again after its end"
        assert run.test not in {r.test for r in self.running.values()}, "sent twice"
        assert self.lost[run.test] < self.engine.config.max_attempts, "tried once too often"
        needs, node = self.tests[run.test], self.up[run.node]
        assert (run.browser, run.backend) in possible(
            node, needs, self.refused, learn=self.engine.config.learn
        )
        if needs is not None:
            assert needs.min_memory is None or needs.min_memory <= node.memory_gib
            self.check_key(needs)
        assert run.decision is not None
        assert run.decision.expected_s > 0
        assert len(run.decision.alternatives) <= 5
        self.check_priority(run)

    def check_priority(self, run: Run) -> None:
        """On its node nothing more urgent was passed over."""
        needs = self.tests[run.test]
        priority = needs.priority if needs is not None else 3
        for batch in self.engine.book.nodes[run.node].batches.values():
            assert batch.kind.priority >= priority or not self.engine.book.is_free(batch.kind)

    def check_key(self, needs: ModelNeeds) -> None:
        if needs.concurrency_key is not None:
            name, n = needs.concurrency_key
            others = [self.tests[r.test] for r in self.running.values()]
            held = [o.concurrency_key for o in others if o is not None and o.concurrency_key is not None]
            assert sum(key == name for key, _ in held) < n, f"more than {n} of {name} at once"

    def check_unrunnable(self, command: Unrunnable) -> None:
        needs = self.tests[command.test]
        assert command.reasons
        for node in self.up.values():
            assert not possible(node, needs, self.refused), f"{command.test} could run on {node.node}"

    def later(self) -> float:
        self.clock += 0.5
        return self.clock

    # -- what may happen -------------------------------------------------------------------------------------

    @precondition(lambda self: not self.collected)
    @rule()
    def collect(self) -> None:
        self.collected = True
        tests = tuple(TestNeeds(nodeid=name, needs=needs) for name, needs in self.tests.items())
        self.tell(TestsCollected(at=self.later(), tests=tests))

    @precondition(lambda self: len(self.up) < 5)
    @rule(browsers=BROWSERS, memory=st.sampled_from([1.0, 4.0, 8.0]), machine=st.sampled_from(["", "shared"]))
    def node_up(self, browsers: dict[str, set[str]], memory: float, machine: str) -> None:
        self.serial += 1
        self.join(f"n{self.serial}", browsers, memory, machine)

    def join(self, name: str, browsers: dict[str, set[str]], memory: float, machine: str = "") -> None:
        self.up[name] = node(name, browsers, memory, machine)
        self.tell(NodeUp(at=self.later(), capabilities=self.up[name]))

    @precondition(lambda self: self.up)
    @rule(data=st.data(), replaced=st.booleans())
    def node_lost(self, data: st.DataObject, replaced: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.up)))
        del self.up[name]
        run = self.running.pop(name, None)
        if run is not None:
            self.lost[run.test] += 1
        self.tell(NodeLost(at=self.later(), node=name, replaced=replaced))

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(), seconds=st.sampled_from([0.01, 1.0, 100.0]), ok=st.sampled_from([True, False, None])
    )
    def finish(self, data: st.DataObject, seconds: float, ok: bool | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.finish_one(name, seconds, ok)

    def finish_one(self, name: str, seconds: float = 1.0, ok: bool | None = None) -> None:
        run = self.running.pop(name)
        self.end(run.test, "ran")
        self.clock += seconds
        self.tell(TestFinished(at=self.clock, node=name, test=run.test, seconds=seconds, ok=ok))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.3, 20.0]), kind=st.integers(0, 3))
    def measure(self, data: st.DataObject, seconds: float, kind: int) -> None:
        run = self.running[data.draw(st.sampled_from(sorted(self.running)))]
        needs = self.tests[run.test]
        browser, backend, model = run.browser or "", run.backend or "", needs.model_key if needs else ""
        at = self.later()
        place = {"at": at, "node": run.node, "browser": browser}
        if kind == 0:
            self.tell(TestStarted(at=at, node=run.node, test=run.test))
        elif kind == 1:
            self.tell(LaunchObserved(**place, seconds=seconds))  # type: ignore[arg-type]
        elif kind == 2:
            self.tell(LoadObserved(**place, backend=backend, model=model, seconds=seconds))  # type: ignore[arg-type]
        else:
            self.tell(RunObserved(**place, backend=backend, model=model, seconds=seconds, test=run.test))  # type: ignore[arg-type]

    @precondition(lambda self: self.up)
    @rule(
        data=st.data(),
        browser=st.sampled_from(sorted(FAMILIES)),
        backend=st.sampled_from(["webgpu", "wasm"]),
        model=st.sampled_from("abc"),
    )
    def session_made(self, data: st.DataObject, browser: str, backend: str, model: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.up)))
        self.tell(SessionMade(at=self.later(), node=name, browser=browser, backend=backend, model=model))

    @rule(data=st.data(), whole=st.booleans())
    def session_gone(self, data: st.DataObject, whole: bool) -> None:
        name = data.draw(st.sampled_from([*sorted(self.up), "nobody"]))
        browser = data.draw(st.sampled_from(sorted(FAMILIES)))
        model = None if whole else data.draw(st.sampled_from("abc"))
        backend = None if whole else "wasm"
        self.tell(SessionGone(at=self.later(), node=name, browser=browser, backend=backend, model=model))

    @rule(
        browser=st.sampled_from(sorted(FAMILIES)),
        backend=st.sampled_from(["webgpu", "wasm"]),
        model=st.sampled_from("abc"),
    )
    def refuse(self, browser: str, backend: str, model: str) -> None:
        self.refused.add((browser, backend, model))
        self.tell(BackendRefusedThere(at=self.later(), browser=browser, backend=backend, model=model))

    @rule(more=st.integers(0, 1))
    def all_known(self, more: int) -> None:
        self.tell(AllNodesKnown(at=self.later(), more=more))

    @rule()
    def crossed_on_the_wire(self) -> None:
        self.tell(TestFinished(at=self.later(), node="nobody", test="nothing", seconds=1.0))
        self.tell(NodeLost(at=self.later(), node="nobody"))

    @rule(seconds=st.sampled_from([0.1, 60.0]))
    def tick(self, seconds: float) -> None:
        self.clock += seconds
        self.tell(Tick(at=self.clock))

    @rule(iterations=st.integers(0, 60))
    def improve(self, iterations: int) -> None:
        self.obey(self.engine.improve(iterations))

    # -- what must hold always -------------------------------------------------------------------------------

    @invariant()
    def ledgers_add_up(self) -> None:
        if not hasattr(self, "engine"):
            return
        for plan in self.engine.book.nodes.values():
            load = plan.load
            warm = {s for b in plan.batches.values() if (s := b.session)[0]}
            fresh = sum(b.work * plan.unit(b.session) for b in plan.batches.values())
            cold = warm - plan.warm
            fresh += sum(plan.estimates.of_load(s) * plan.slowness for s in cold - plan.made)
            fresh += sum(plan.estimates.of_first_run(s) * plan.slowness for s in cold & plan.made)
            launched = {s[0] for s in warm} - plan.browsers
            fresh += sum(plan.estimates.of_launch(b, plan.id) * plan.slowness for b in launched)
            assert load == pytest.approx(fresh, abs=1e-6, rel=1e-6)
            assert not plan.made & plan.warm
            assert {s[0] for s in plan.made} <= plan.browsers
            assert plan.used == Counter({s: n for s, n in _counts(plan).items() if n})

    @invariant()
    def nobody_idles_beside_work(self) -> None:
        """A node without a test has nothing planned, unless a concurrency key holds it back."""
        if not hasattr(self, "engine"):
            return
        for name in set(self.up) - set(self.running):
            for batch in self.engine.book.nodes[name].batches.values():
                assert not self.engine.book.is_free(batch.kind)

    def teardown(self) -> None:
        """Whatever happened, it comes to an end, and every test is accounted for once."""
        if not hasattr(self, "engine"):
            return
        if not self.collected:
            self.collect()
        everything = {name: {"webgpu", "webnn", "wasm"} for name in FAMILIES}
        self.join("last", everything, 8.0)
        self.tell(AllNodesKnown(at=self.later()))
        for _ in range(len(self.tests) + 1):
            if not self.running:
                break
            self.finish_one(sorted(self.running)[0])
        assert not self.running
        assert set(self.ended) == set(self.tests)
        assert set(self.up) <= self.shut or not self.tests
        assert self.engine.improve(50) == []


def _counts(plan: object) -> Counter[tuple[str, str, str]]:
    counts: Counter[tuple[str, str, str]] = Counter()
    for batch in plan.batches.values():  # type: ignore[attr-defined]
        counts[batch.session] += len(batch.tests)
    return counts


def node(name: str, browsers: dict[str, set[str]], memory: float, machine: str) -> NodeCapabilities:
    return NodeCapabilities(
        node=name,
        machine=machine,
        cores=2,
        memory_gib=memory,
        browsers=tuple(
            BrowserCapabilities(
                name=b,
                family=FAMILIES[b],
                version="1",
                backends=tuple(BackendSupport(name=x, available=x in backends) for x in BACKENDS),
            )
            for b, backends in browsers.items()
        ),
    )


def possible(
    node: NodeCapabilities,
    needs: ModelNeeds | None,
    refused: set[tuple[str, str, str]],
    *,
    learn: bool = False,
) -> set[tuple[str | None, str | None]]:
    """What may run there, said again in other words than the engine's."""
    if needs is None:
        return {(None, None)}
    if needs.min_memory and needs.min_memory > node.memory_gib:
        return set()
    if not (needs.source or needs.type or needs.browsers or needs.backends):
        return {(None, None)}
    found: set[tuple[str | None, str | None]] = set()
    for browser in node.browsers:
        if needs.browsers and browser.name not in needs.browsers and browser.family not in needs.browsers:
            continue
        for backend in needs.backends or ("webgpu", "webnn", "wasm"):
            if backend in browser.usable and (browser.name, backend, needs.source or "") not in refused:
                found.add((browser.name, backend))
                if needs.backends or not learn:
                    break
    return found


def test_engine_under_any_order_of_events() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
