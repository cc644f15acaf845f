"""The placement engine: hears events, plans, and says what to do. Pure; docs/scheduling.md has the reasons."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from pytest_browserpool.placement import planning
from pytest_browserpool.placement.book import Book
from pytest_browserpool.placement.events import (
    Abandoned,
    AllNodesKnown,
    BackendRefusedThere,
    Command,
    Event,
    LaunchObserved,
    LoadObserved,
    NodeLost,
    NodeUp,
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
from pytest_browserpool.placement.explain import Explainer
from pytest_browserpool.placement.history import History
from pytest_browserpool.placement.migration import Migrations
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.placement.revising import revise
from pytest_browserpool.placement.search import Search
from pytest_browserpool.placement.sending import Sender
from pytest_browserpool.placement.state import Kind, NodePlan, Test
from pytest_browserpool.placement.stealing import relieve
from pytest_browserpool.placement.views import EngineViews
from pytest_browserpool.placement.watch import Watch

OVERDUE = 0.25
"""A test that takes longer than expected is expected to take this share of what it took so far on top."""
REPLAN_PAIRS = 20_000
"""kinds × nodes up to which everything is planned anew for a node that comes up before the first test ended (tens of
milliseconds); above, it takes work off the others."""
JOIN_ROUNDS = 24
"""Times that a joining node may take part of a group off the node that ends last: a constant."""
REFRESH_SHARE = 1.0
"""Ledgers are summed anew once this many times their number of batches has been measured since: amortised,
constant."""


class PlacementEngine(EngineViews):
    """Decides where each test runs.

    ``handle`` takes one event and returns the commands that follow from it, in order. ``improve`` spends a
    budget of search iterations on the plan of what has not been sent yet. The same calls give the same
    commands. Events about nodes or tests that are not known (any more) are ignored: they may have crossed a
    loss on the wire.
    """

    def __init__(self, config: EngineConfig | None = None, history: History | None = None) -> None:
        self.config = config or EngineConfig()
        self.book = Book(self.config, history)
        self.explainer = Explainer(self.book, history)
        self.migrations = Migrations()
        self.watch = Watch(self.config, self.explainer)
        self.rng = random.Random(self.config.seed)
        self.sender = Sender(self.book, self.config, self.explainer, self.migrations, self.watch, self.rng)
        self.finishes = self.sender.finishes
        self.now = 0.0
        self.collected = False
        self.begun = False
        self._ledgers = 0

    # -- the two entries -------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Command]:
        """Take in one event; the commands that follow."""
        self.now = self.sender.now = max(self.now, event.at)
        self._route(event)
        out, self.sender.out = self.sender.out, []
        return out

    def improve(self, iterations: int, enough: Callable[[], bool] = lambda: False) -> list[Command]:
        """Search for a better plan of what is not sent yet, until ``enough`` says so before an iteration; the commands that
        follow (idle nodes may get work)."""
        if not self.collected or not self.book.remaining:
            return []
        self._refresh(force=True)
        search = Search(list(self.book.nodes.values()), self.rng, self.now, self.book.prices)
        search.run(iterations, enough)
        for name in search.changed:
            self.finishes.note(self.book.nodes[name])
        if not self.begun:
            self.migrations.settle(self.book.tests.values())
        for node in list(self.sender.idle.values()):
            if node.batches:
                self.sender.serve(node)
        out, self.sender.out = self.sender.out, []
        return out

    def _route(self, event: Event) -> None:
        match event:
            case TestFinished():
                self._finished(event)
            case RunObserved() | LoadObserved() | LaunchObserved():
                self._observed(event)
            case TestStarted():
                self._started(event)
            case Tick():
                self._tick()
            case NodeUp():
                self._node_up(event)
            case NodeLost():
                self._node_lost(event)
            case TestsCollected():
                self._tests_collected(event)
            case SessionMade():
                self._session_made(event)
            case SessionGone():
                self._session_gone(event)
            case BackendRefusedThere():
                self._refused(event)
            case AllNodesKnown():
                self.book.more = event.more
                self._report_unrunnable()

    # -- nodes -----------------------------------------------------------------------------------------------

    def _node_up(self, event: NodeUp) -> None:
        name = event.capabilities.node
        if name in self.book.nodes:
            self._node_lost(NodeLost(at=event.at, node=name, reason="came up again", replaced=True))
        node = self.book.add_node(event.capabilities, self.now, event.lacks)
        self.sender.idle[name] = node
        if not self.collected:
            return
        if not self.book.remaining:
            self._shutdown(node)
            return
        self._place_waiting()
        if not self.begun and len(self.book.kinds) * len(self.book.nodes) <= REPLAN_PAIRS:
            self._replan()
        else:
            for _ in range(JOIN_ROUNDS):
                if not self.sender.steal(node):
                    break
        self.sender.serve_idle()
        self._report_unrunnable()

    def _node_lost(self, event: NodeLost) -> None:
        node = self.book.nodes.get(event.node)
        if node is None:
            return
        if event.replaced:
            self.book.more = (self.book.more or 0) + 1 if self.book.more is not None else None
        self.sender.idle.pop(node.id, None)
        self.watch.predictor.lost(node.id, self.now)
        orphans = self.book.remove_node(node)
        self.book.lift_limits()
        test = node.running
        if test is not None:
            if node.session is not None:
                self.book.flying[node.session] -= 1
            self._release(test.kind)
            test.lost_on = (*test.lost_on, node.id)
            test.node = test.home = None
            if len(test.lost_on) >= self.config.max_attempts:
                self.sender.out.append(Abandoned(test=test.nodeid, nodes=test.lost_on))
                self._done(test)
            else:
                self.book.wait(test, 1)
                orphans.append(test)
        self._place(orphans)
        self._report_unrunnable()
        self.sender.serve_idle()
        self._shutdown_if_done()

    # -- tests -----------------------------------------------------------------------------------------------

    def _tests_collected(self, event: TestsCollected) -> None:
        self.book.limit_browsers()
        fresh = [t for t in event.tests if t.nodeid not in self.book.tests]
        tests = self.book.add_tests({t.nodeid: t for t in fresh}.values())
        self.collected = True
        self.watch.collected_at = self.now
        for test in tests:
            self.book.wait(test, 1)
        self._place(tests)
        self._first_search()
        self._report_unrunnable()
        self.sender.serve_idle()
        self._shutdown_if_done()

    def _started(self, event: TestStarted) -> None:
        node = self.book.nodes.get(event.node)
        if node is not None and node.running is not None and node.running.nodeid == event.test:
            node.started = event.at
            node.busy_until = event.at + node.expected_s

    def _finished(self, event: TestFinished) -> None:
        node = self.book.nodes.get(event.node)
        if node is None or node.running is None or node.running.nodeid != event.test:
            return
        self._begin()
        test, session = node.running, node.session
        node.running = node.session = None
        node.busy_until = self.now
        self.sender.idle[node.id] = node
        if session is not None:
            self.book.flying[session] -= 1
            self.explainer.outcome(session, event.ok)
        self.migrations.finished(test, self.now)
        self.watch.ended(node, test, self.now)
        keyed = test.kind.key is not None
        self._release(test.kind)
        self._done(test)
        self._refresh()
        self._look_ahead()
        if not node.batches:
            self.sender.steal(node)
        self.sender.serve(node)
        if keyed:
            self.sender.serve_idle()
        self.finishes.note(node)
        if self.book.unwanted and self.book.remaining:
            self.sender.retire()
        self._shutdown_if_done()

    def _done(self, test: Test) -> None:
        test.done = True
        test.node = None
        self.book.remaining -= 1

    def _release(self, kind: Kind) -> None:
        if kind.key is not None:
            self.book.held[kind.key[0]] -= 1

    def _shutdown_if_done(self) -> None:
        if self.collected and not self.book.remaining:
            for node in self.book.nodes.values():
                self._shutdown(node)

    def _shutdown(self, node: NodePlan) -> None:
        if not node.dismissed:
            node.dismissed = True
            self.sender.out.append(Shutdown(node=node.id))

    # -- measurements ----------------------------------------------------------------------------------------

    def _observed(self, event: RunObserved | LoadObserved | LaunchObserved) -> None:
        if event.node in self.book.nodes:
            self._begin()
            self.book.measured(event)

    def _session_made(self, event: SessionMade) -> None:
        node = self.book.nodes.get(event.node)
        if node is not None:
            node.make((event.browser, event.backend, event.model))
            self.finishes.note(node)

    def _session_gone(self, event: SessionGone) -> None:
        node = self.book.nodes.get(event.node)
        if node is not None:
            node.cool_down(event.browser, event.backend, event.model)
            self.finishes.note(node)

    def _refused(self, event: BackendRefusedThere) -> None:
        session = (event.browser, event.backend, event.model)
        if session in self.book.refused:
            return
        touched = {k.index for k in self.book.refuse(session)}
        moved: list[Test] = []
        for node in self.book.nodes.values():
            for batch in list(node.batches.values()):
                if batch.kind.index in touched and batch.session not in batch.kind.options[node.profile]:
                    tests = list(batch.tests)
                    node.take(batch, tests)
                    moved.extend(tests)
        self._place(moved)
        self._report_unrunnable()
        self.sender.serve_idle()
        self._shutdown_if_done()

    def _tick(self) -> None:
        self._refresh(force=True)
        self._look_ahead()
        stealing = True
        for node in list(self.sender.idle.values()):
            if stealing and not node.batches:
                # where one finds nothing to take, the next will not either
                stealing = self.sender.steal(node)
            self.sender.serve(node)
        for node in self.book.nodes.values():
            if node.running is not None:  # what was far off when its test was sent may be near now
                self.sender.prewarm(node)

    def _look_ahead(self) -> None:
        """Every few seconds: forecast, and relieve browsers that will be overloaded for those that will
        idle."""
        states = self.watch.look_ahead(self.book.nodes, self.now)
        if states is None or not all(states):
            return
        search = Search(list(self.book.nodes.values()), self.rng, self.now, self.book.prices)
        if relieve(search, *states):
            self.finishes.rebuild(self.book.nodes.values())
            self.sender.serve_idle()

    def _refresh(self, *, force: bool = False) -> None:
        """Bring the ledgers up to date where that is due, and look for tests that are overdue."""
        behind = self.book.costs.version - self.book.estimated_at
        if not force and behind < REFRESH_SHARE * self._ledgers:
            return
        if self.book.refresh():
            for node in self.book.nodes.values():
                revise(node)
        for node in self.book.nodes.values():
            if node.running is not None and self.now > node.busy_until:
                node.busy_until = self.now + OVERDUE * (self.now - node.started)
        self.finishes.rebuild(self.book.nodes.values())
        self._ledgers = self.book.batches + len(self.book.nodes)

    # -- planning --------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            self.migrations.settle(self.book.tests.values())

    def _place(self, tests: Iterable[Test]) -> None:
        """Plan ``tests``; those that no node here can run wait."""
        by_kind: dict[int, list[Test]] = {}
        for test in tests:
            by_kind.setdefault(test.kind.index, []).append(test)
        profiles = {n.profile for n in self.book.nodes.values()}
        for index in list(by_kind):
            if not any(self.book.kinds[index].options[p] for p in profiles):
                self.book.unplaced.setdefault(index, []).extend(by_kind.pop(index))
        self.book.refresh()
        kinds = [self.book.kinds[i] for i in by_kind]
        planning.plan(kinds, by_kind, list(self.book.nodes.values()), self.now)
        if self.begun:
            self.migrations.settle(t for tests_ in by_kind.values() for t in tests_)
        self.finishes.rebuild(self.book.nodes.values())

    def _place_waiting(self) -> None:
        waiting, self.book.unplaced = self.book.unplaced, {}
        self._place(t for tests in waiting.values() for t in tests)

    def _replan(self) -> None:
        tests = self.book.withdraw(list(self.book.nodes.values()))
        self._place(t for group in tests.values() for t in group)
        self._first_search()

    def _first_search(self) -> None:
        """Improve the plan before the first tests are sent."""
        Search(list(self.book.nodes.values()), self.rng, self.now, self.book.prices).run(
            self.config.first_iterations
        )
        self.finishes.rebuild(self.book.nodes.values())

    def _report_unrunnable(self) -> None:
        if self.book.more is None or self.book.more > 0 or not self.collected:
            return
        for index, tests in list(self.book.unplaced.items()):
            reasons = self.book.reasons(self.book.kinds[index])
            for test in tests:
                self.sender.out.append(Unrunnable(test=test.nodeid, reasons=reasons))
                self.book.wait(test, -1)
                self._done(test)
            del self.book.unplaced[index]
        self._shutdown_if_done()
