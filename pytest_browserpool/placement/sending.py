"""Sending: what an idle node runs next, what it may take over from others, what it should get ready and what give up."""

from __future__ import annotations

import random
from collections.abc import Mapping

from pytest_browserpool.placement.book import Book
from pytest_browserpool.placement.events import Command, Prewarm, Retire, Run
from pytest_browserpool.placement.explain import Explainer
from pytest_browserpool.placement.explore import probe, pulled
from pytest_browserpool.placement.history import Session
from pytest_browserpool.placement.migration import Migrations
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.placement.state import Batch, NodePlan, Test
from pytest_browserpool.placement.stealing import LEAST_URGENT, VICTIMS, Finishes, more_urgent, steal_for
from pytest_browserpool.placement.watch import Watch

URGENT_LOOKS = 32
"""Nodes whose plans are searched for more urgent work before less urgent work is begun."""
PREWARM_LEAD = 2.0
"""A set-up is announced when the work before it takes at most twice as long: early enough to hide wholly in
spite of wrong estimates, late enough not to hold memory for long, and not to be overtaken by a change of
plan."""


class Sender:
    """Sends tests to idle nodes. ``out`` collects the commands, in order; ``now`` is set by the engine."""

    def __init__(
        self,
        book: Book,
        config: EngineConfig,
        explainer: Explainer,
        migrations: Migrations,
        watch: Watch,
        rng: random.Random,
    ) -> None:
        self.book = book
        self.config = config
        self.explainer = explainer
        self.migrations = migrations
        self.watch = watch
        self.rng = rng
        self.finishes = Finishes()
        self.idle: dict[str, NodePlan] = {}
        self.out: list[Command] = []
        self.now = 0.0

    def serve_idle(self) -> None:
        for node in list(self.idle.values()):
            if not node.batches:
                self.steal(node)
            self.serve(node)

    def steal(self, node: NodePlan) -> bool:
        victims = self.finishes.last(self.book.nodes, VICTIMS)
        stolen = steal_for(node, victims, self.now, self.rng, self.book.is_free, self.book.prices)
        if stolen is None:
            return False
        self.finishes.note(stolen[0])
        self.finishes.note(node)
        return True

    def serve(self, node: NodePlan) -> None:
        """Send the idle ``node`` its next test, if there is one that may start."""
        if node.id not in self.idle:
            return
        batch = next((b for b in reversed(node.ordered()) if self.book.is_free(b.kind)), None)
        urgent = self._more_urgent(node, batch.kind.priority if batch else LEAST_URGENT + 1)
        if urgent is not None:
            batch = urgent
        if batch is None:
            return
        if len(batch.kind.options[node.profile]) > 1:
            if self.config.learn:
                self._learn(node, batch)
                return
            if any(node.setup_now(batch.session)):
                batch = self._reconsider(node, batch)
            batch = self._probe(node, batch)
        self._send(node, batch, batch.tests[-1])

    def _more_urgent(self, node: NodePlan, priority: int) -> Batch | None:
        if not any(n > 0 and p < priority for p, n in self.book.waiting.items()):
            return None
        nodes = list(self.book.nodes.values())
        if len(nodes) > URGENT_LOOKS:
            nodes = self.rng.sample(nodes, URGENT_LOOKS)
        found = more_urgent(node, priority, nodes, self.now, self.book.is_free, self.book.prices)
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

    def _probe(self, node: NodePlan, batch: Batch) -> Batch:
        """Where much work waits, let a test find out whether another browser is faster."""
        session = probe(self.book, node, batch)
        return batch if session is None else self._divert(node, batch, session)

    def _learn(self, node: NodePlan, batch: Batch) -> None:
        """Send the next test of ``batch`` to the session that the bandit pulls."""
        session = pulled(self.book, self.explainer, node, batch)
        trial = node.unit(session) > min(node.unit(s) for s in batch.kind.options[node.profile])
        if session != batch.session:
            batch = self._divert(node, batch, session)
        self._send(node, batch, batch.tests[-1], {"trial": 1.0} if trial else None)

    def _divert(self, node: NodePlan, batch: Batch, session: Session) -> Batch:
        """One test of ``batch``, the shortest, goes to another session of ``node``."""
        test = batch.tests[0]
        node.take(batch, [test])
        node.put(batch.kind, session, [test])
        return node.batches[batch.kind.index, session]

    def _send(self, node: NodePlan, batch: Batch, test: Test, why: Mapping[str, float] | None = None) -> None:
        """``why``: goes with the factors of the decision."""
        session, kind = batch.session, batch.kind
        decision = (
            self.explainer.decision(node, session, test, self.now, why) if self.config.explain else None
        )
        expected = sum(node.setup_now(session)) + test.scale * node.unit(session)
        node.take(batch, [test])
        if session[0]:
            node.warm_up(session[0], session)
        del self.idle[node.id]
        node.running, node.session = test, session
        node.started, node.expected_s = self.now, expected
        node.busy_until = self.now + expected
        self.book.wait(test, -1)
        if kind.key is not None:
            self.book.held[kind.key[0]] += 1
        self.migrations.sent(test, node, self.book.nodes, self.now)
        self.book.flying[session] += 1
        kind.pool.sent += 1
        self.watch.sent(node, session, test, self.now)
        test.node = node.id
        self.out.append(
            Run(
                node=node.id,
                test=test.nodeid,
                browser=session[0] or None,
                backend=session[1] or None,
                decision=decision,
            )
        )
        self.finishes.note(node)
        self.prewarm(node)

    def prewarm(self, node: NodePlan) -> None:
        """Name the next set-up that the node will pay, once it is near enough to hide behind what runs before
        it."""
        if not self.config.prewarm:
            return
        ahead = max(0.0, node.busy_until - self.now)
        for batch in reversed(node.ordered()):
            session = batch.session
            if session[0] and session not in node.warm:
                if session == node.prewarmed or ahead > PREWARM_LEAD * sum(node.setup_now(session)):
                    return
                node.prewarmed = session
                test = batch.tests[-1].nodeid
                self.out.append(Prewarm(node=node.id, browser=session[0], backend=session[1], test=test))
                # it is being paid for: elsewhere it would have to be paid again
                node.make(session)
                return
            ahead += batch.work * node.unit(session)

    def retire(self) -> None:
        """Browsers that no waiting test can use any more need not stay, once they are not in use."""
        in_use = set()
        for node in self.book.nodes.values():
            # sorted, as a set has another order in each process
            for browser in sorted(self.book.unwanted & node.browsers):
                if node.session is not None and node.session[0] == browser:
                    in_use.add(browser)
                    continue
                node.cool_down(browser, None, None)
                self.out.append(Retire(node=node.id, browser=browser))
        self.book.unwanted &= in_use
