"""The placement engine: hears events, plans, and says what to do. Pure; docs/scheduling.md has the
reasons."""

from __future__ import annotations

import random
from collections.abc import Iterable

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
    Prewarm,
    Run,
    RunObserved,
    SessionGone,
    Shutdown,
    StealAnswered,
    TestFinished,
    TestsCollected,
    TestStarted,
    Tick,
    Unrunnable,
)
from pytest_browserpool.placement.explain import Explainer
from pytest_browserpool.placement.history import History, Session
from pytest_browserpool.placement.migration import Migrations
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.placement.search import Search
from pytest_browserpool.placement.state import Batch, Kind, NodePlan, Test
from pytest_browserpool.placement.stealing import VICTIMS, Finishes, more_urgent, steal_for

OVERDUE = 0.25
"""A test that takes longer than expected is expected to take this share of what it took so far on top."""
URGENT_LOOKS = 32
"""Nodes whose plans are searched for more urgent work before less urgent work is begun."""
JOIN_ROUNDS = 24
"""Times that a joining node may take part of a group off the node that ends last: a constant."""
PREWARM_LEAD = 2.0
"""A set-up is announced when the work before it takes at most twice as long: early enough to hide wholly in
spite of wrong estimates, late enough not to hold memory for long, and not to be overtaken by a change of
plan."""
REFRESH_SHARE = 0.25
"""Ledgers are summed anew once this share of their number of batches has been measured since: amortised,
constant."""


class PlacementEngine:
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
        self.finishes = Finishes()
        self.rng = random.Random(self.config.seed)
        self.now = 0.0
        self.collected = False
        self.begun = False
        self._idle: dict[str, NodePlan] = {}
        self._out: list[Command] = []

    # -- the two entries -------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Command]:
        """Take in one event; the commands that follow."""
        self.now = max(self.now, event.at)
        self._route(event)
        out, self._out = self._out, []
        return out

    def improve(self, iterations: int) -> list[Command]:
        """Search for a better plan of what is not sent yet; the commands that follow (idle nodes may get
        work)."""
        if not self.collected or not self.book.remaining:
            return []
        self._refresh(force=True)
        search = Search(list(self.book.nodes.values()), self.rng, self.now)
        search.run(iterations)
        for name in search.changed:
            self.finishes.note(self.book.nodes[name])
        if not self.begun:
            self.migrations.settle(self.book.tests.values())
        for node in list(self._idle.values()):
            if node.batches:
                self._dispatch(node)
        out, self._out = self._out, []
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
            case SessionGone():
                self._session_gone(event)
            case BackendRefusedThere():
                self._refused(event)
            case AllNodesKnown():
                self.book.more = event.more
                self._report_unrunnable()
            case StealAnswered():
                pass  # one test at a time: nothing is ever asked back

    # -- nodes -----------------------------------------------------------------------------------------------

    def _node_up(self, event: NodeUp) -> None:
        name = event.capabilities.node
        if name in self.book.nodes:
            self._node_lost(NodeLost(at=event.at, node=name, reason="came up again", replaced=True))
        node = self.book.add_node(event.capabilities, self.now, event.lacks)
        self._idle[name] = node
        if not self.collected:
            return
        if not self.book.remaining:
            self._out.append(Shutdown(node=name))
            return
        self._place_waiting()
        if not self.begun:
            self._replan()
        else:
            for _ in range(JOIN_ROUNDS):
                if not self._steal(node):
                    break
        self._dispatch_idle()
        self._report_unrunnable()

    def _node_lost(self, event: NodeLost) -> None:
        node = self.book.nodes.get(event.node)
        if node is None:
            return
        if event.replaced:
            self.book.more = (self.book.more or 0) + 1 if self.book.more is not None else None
        self._idle.pop(node.id, None)
        orphans = self.book.remove_node(node)
        test = node.running
        if test is not None:
            self._release(test.kind)
            test.lost_on = (*test.lost_on, node.id)
            test.node = test.home = None
            if len(test.lost_on) >= self.config.max_attempts:
                self._out.append(Abandoned(test=test.nodeid, nodes=test.lost_on))
                self._done(test)
            else:
                self.book.waiting[test.kind.priority] += 1
                orphans.append(test)
        self._place(orphans)
        self._report_unrunnable()
        self._dispatch_idle()
        self._shutdown_if_done()

    # -- tests -----------------------------------------------------------------------------------------------

    def _tests_collected(self, event: TestsCollected) -> None:
        fresh = [t for t in event.tests if t.nodeid not in self.book.tests]
        tests = self.book.add_tests({t.nodeid: t for t in fresh}.values())
        self.collected = True
        for test in tests:
            self.book.waiting[test.kind.priority] += 1
        self._place(tests)
        self._report_unrunnable()
        self._dispatch_idle()
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
        self._idle[node.id] = node
        if session is not None:
            self.explainer.outcome(session, event.ok)
        self.migrations.finished(test, self.now)
        keyed = test.kind.key is not None
        self._release(test.kind)
        self._done(test)
        self._refresh()
        if not node.batches:
            self._steal(node)
        self._dispatch(node)
        if keyed:
            self._dispatch_idle()
        self.finishes.note(node)
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
            self._out.extend(Shutdown(node=name) for name in self.book.nodes)

    # -- measurements ----------------------------------------------------------------------------------------

    def _observed(self, event: RunObserved | LoadObserved | LaunchObserved) -> None:
        node = self.book.nodes.get(event.node)
        if node is None:
            return
        self._begin()
        costs = self.book.costs
        if isinstance(event, LaunchObserved):
            costs.observe_launch(event.node, event.browser, event.seconds)
            self._warm(node, event.browser, None)
            return
        session = (event.browser, event.backend, event.model)
        kind = self.book.estimates.types.get(event.model, "")
        if isinstance(event, LoadObserved):
            costs.observe_load(event.node, session, kind, event.seconds)
            self._warm(node, event.browser, session)
        else:
            test = self.book.tests.get(event.test)
            costs.observe_run(event.node, session, kind, test.scale if test else 1.0, event.seconds)

    def _warm(self, node: NodePlan, browser: str, session: Session | None) -> None:
        """Take the set-ups that are done out of the ledger."""
        node.warm_up(browser, session)

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
        self._dispatch_idle()
        self._shutdown_if_done()

    def _tick(self) -> None:
        self._refresh(force=True)
        for node in list(self._idle.values()):
            if not node.batches and not self._steal(node):
                break
            self._dispatch(node)

    def _refresh(self, *, force: bool = False) -> None:
        """Bring the ledgers up to date where that is due, and look for tests that are overdue."""
        behind = self.book.costs.version - self.book.estimated_at
        if not force and behind < REFRESH_SHARE * self._ledger_size():
            return
        self.book.refresh()
        for node in self.book.nodes.values():
            if node.running is not None and self.now > node.busy_until:
                node.busy_until = self.now + OVERDUE * (self.now - node.started)
        self.finishes.rebuild(self.book.nodes.values())
        self._size = self.book.batches + len(self.book.nodes)

    _size = 0

    def _ledger_size(self) -> int:
        return self._size

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

    def _report_unrunnable(self) -> None:
        if self.book.more is None or self.book.more > 0 or not self.collected:
            return
        for index, tests in list(self.book.unplaced.items()):
            reasons = self.book.reasons(self.book.kinds[index])
            for test in tests:
                self._out.append(Unrunnable(test=test.nodeid, reasons=reasons))
                self.book.waiting[test.kind.priority] -= 1
                self._done(test)
            del self.book.unplaced[index]
        self._shutdown_if_done()

    # -- sending ---------------------------------------------------------------------------------------------

    def _dispatch_idle(self) -> None:
        for node in list(self._idle.values()):
            if not node.batches:
                self._steal(node)
            self._dispatch(node)

    def _steal(self, node: NodePlan) -> bool:
        victims = self.finishes.last(self.book.nodes, VICTIMS)
        stolen = steal_for(node, victims, self.now, self.rng, self.book.is_free)
        if stolen is None:
            return False
        self.finishes.note(stolen[0])
        self.finishes.note(node)
        return True

    def _dispatch(self, node: NodePlan) -> None:
        """Send the idle ``node`` its next test, if there is one that may start."""
        if node.id not in self._idle:
            return
        batch = next((b for b in reversed(node.ordered()) if self.book.is_free(b.kind)), None)
        urgent = self._more_urgent(node, batch.kind.priority if batch else 99)
        if urgent is not None:
            batch = urgent
        if batch is None:
            return
        if len(batch.kind.options[node.profile]) > 1 and any(node.setup_now(batch.session)):
            batch = self._reconsider(node, batch)
        self._send(node, batch, batch.tests[-1])

    def _more_urgent(self, node: NodePlan, priority: int) -> Batch | None:
        if not any(n > 0 and p < priority for p, n in self.book.waiting.items()):
            return None
        nodes = list(self.book.nodes.values())
        if len(nodes) > URGENT_LOOKS:
            nodes = self.rng.sample(nodes, URGENT_LOOKS)
        found = more_urgent(node, priority, nodes, self.now, self.book.is_free)
        if found is None:
            return None
        other, batch, test, session = found
        other.take(batch, [test])
        node.put(batch.kind, session, [test])
        self.finishes.note(other)
        return node.batches[batch.kind.index, session]

    def _reconsider(self, node: NodePlan, batch: Batch) -> Batch:
        """Before a set-up is paid: is another browser of this node as good, by the score?"""
        session = self.explainer.prefer(node, batch, self.config.near_tie)
        if session == batch.session:
            return batch
        tests = list(batch.tests)
        node.take(batch, tests)
        node.put(batch.kind, session, tests)
        return node.batches[batch.kind.index, session]

    def _send(self, node: NodePlan, batch: Batch, test: Test) -> None:
        session, kind = batch.session, batch.kind
        decision = self.explainer.decision(node, session, test, self.now) if self.config.explain else None
        expected = sum(node.setup_now(session)) + test.scale * node.unit(session)
        node.take(batch, [test])
        if session[0]:
            node.warm_up(session[0], session)
        del self._idle[node.id]
        node.running, node.session = test, session
        node.started, node.expected_s = self.now, expected
        node.busy_until = self.now + expected
        self.book.waiting[kind.priority] -= 1
        if kind.key is not None:
            self.book.held[kind.key[0]] += 1
        self.migrations.sent(test, node, self.book.nodes, self.now)
        test.node = node.id
        self._out.append(
            Run(
                node=node.id,
                test=test.nodeid,
                browser=session[0] or None,
                backend=session[1] or None,
                decision=decision,
            )
        )
        self.finishes.note(node)
        if self.config.prewarm:
            self._prewarm(node)

    def _prewarm(self, node: NodePlan) -> None:
        """Name the next set-up that the node will pay, once it is near enough to hide behind what runs before
        it."""
        ahead = node.expected_s
        for batch in reversed(node.ordered()):
            session = batch.session
            if session[0] and session not in node.warm:
                if session == node.prewarmed or ahead > PREWARM_LEAD * sum(node.setup_now(session)):
                    return
                node.prewarmed = session
                test = batch.tests[-1].nodeid
                self._out.append(Prewarm(node=node.id, browser=session[0], backend=session[1], test=test))
                return
            ahead += batch.work * node.unit(session)
