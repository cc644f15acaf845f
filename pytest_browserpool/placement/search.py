"""Local search on the plan: groups, parts of groups and single tests move or change places where that ends
sooner.

Two kinds of gain are taken: the node that ends last ends sooner (and its partner does not become worse than
it was), or work disappears altogether (a set-up that is paid twice) while both nodes stay before the end.
Every move is tried on the ledgers first and undone if it does not help; so the plan never gets worse by the
estimates.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence

from pytest_browserpool.placement.history import Session
from pytest_browserpool.placement.policy import SPLIT_EPSILON_S
from pytest_browserpool.placement.sharing import Prices
from pytest_browserpool.placement.state import Batch, Kind, NodePlan, Test

Moves = list[tuple[Batch, list[Test], Session]]
"""Whole batches, their tests, and the sessions that they go to."""
BROWSER_BATCHES = 256
"""Batches of two nodes up to which all that uses one browser is tried elsewhere: a try looks at each of them."""
BROWSER_SHARE = {True: 0.05, False: 0.01}
"""Of the iterations, what tries that: between nodes that fill one machine, where a launch too many costs both, and between
others, where it hardly ever helps and the iterations are missed elsewhere."""
CRITICAL_SHARE = 0.75
"""Share of the iterations spent on the node that ends last; the rest looks for work to save anywhere."""


class Search:
    """A search over ``nodes``; ``changed`` collects the nodes whose plan it changed."""

    def __init__(
        self, nodes: Sequence[NodePlan], rng: random.Random, now: float, prices: Prices | None = None
    ) -> None:
        self.nodes = nodes
        self.rng = rng
        self.now = now
        self.changed: set[str] = set()
        self.moves = 0
        self.prices = prices or Prices(nodes)
        self.heap = [(-self.finish(n), i) for i, n in enumerate(nodes)]
        heapq.heapify(self.heap)
        self.index = {n.id: i for i, n in enumerate(nodes)}

    def finish(self, node: NodePlan) -> float:
        return (node.busy_until if node.busy_until > self.now else self.now) + node.load

    def critical(self) -> NodePlan:
        """The node that ends last."""
        while True:
            value, i = self.heap[0]
            actual = -self.finish(self.nodes[i])
            if actual - value <= SPLIT_EPSILON_S:
                return self.nodes[i]
            heapq.heapreplace(self.heap, (actual, i))

    def run(self, iterations: int, enough: Callable[[], bool] = lambda: False) -> None:
        """Try ``iterations`` moves, or until there were ``enough``."""
        if len(self.nodes) < 2:
            if self.nodes:
                self.rechoose(iterations, self.nodes[0])
            return
        rng = self.rng
        for _ in range(iterations):
            if enough():
                return
            last = self.critical()
            if rng.random() < CRITICAL_SHARE and last.batches:
                a = last
            else:
                a = self.nodes[rng.randrange(len(self.nodes))]
                if not a.batches:
                    continue
            batch = _any_batch(a, rng)
            b = self.partner(batch.kind, a)
            if b is None:
                continue
            self.attempt(a, b, batch, self.finish(last))

    def rechoose(self, iterations: int, node: NodePlan) -> None:
        """On one node alone: another browser for a whole batch."""
        for _ in range(min(iterations, len(node.batches))):
            batch = _any_batch(node, self.rng)
            self.attempt(node, node, batch, self.finish(node))

    def partner(self, kind: Kind, a: NodePlan) -> NodePlan | None:
        """A node that can run ``kind``: the one that ends first of three drawn at random."""
        best: NodePlan | None = None
        for _ in range(3):
            node = self.nodes[self.rng.randrange(len(self.nodes))]
            if not kind.options[node.profile] or (node is a and len(kind.options[node.profile]) < 2):
                continue
            if best is None or self.finish(node) < self.finish(best):
                best = node
        return best

    def attempt(self, a: NodePlan, b: NodePlan, batch: Batch, end: float) -> bool:
        """Try one move of (some of) ``batch`` from ``a`` to ``b``, or a swap."""
        options = batch.kind.options[b.profile]
        session = options[0] if len(options) == 1 else self.choose(b, batch, options)
        if a is b:
            return session != batch.session and self.transfer(a, b, batch, list(batch.tests), session, end)
        draw = self.rng.random()
        often = BROWSER_SHARE[a.machine in self.prices.shared and a.machine == b.machine]
        if draw < often and batch.session[0] and len(a.batches) + len(b.batches) <= BROWSER_BATCHES:
            return self.browsers(a, b, batch.session[0], end)
        if draw < 0.15 and a.used[batch.session] > len(batch.tests):
            return self.together(a, b, batch.session, end)
        if draw < 0.3:
            return self.transfer(a, b, batch, list(batch.tests), session, end)
        if draw < 0.55:
            return self.transfer(a, b, batch, self.part(a, b, batch, session), session, end)
        if draw < 0.65:
            return self.transfer(
                a, b, batch, [batch.tests[self.rng.randrange(len(batch.tests))]], session, end
            )
        return self.swap(a, b, batch, session, end, whole=draw < 0.8)

    def choose(self, b: NodePlan, batch: Batch, options: Sequence[Session]) -> Session:
        """Mostly the session that takes fewest seconds for the whole batch, at times another."""
        if self.rng.random() < 0.15:
            return options[self.rng.randrange(len(options))]
        return min(options, key=lambda s: b.setup(s) + batch.work * b.unit(s))

    def part(self, a: NodePlan, b: NodePlan, batch: Batch, session: Session) -> list[Test]:
        """The tests of ``batch`` that would make both nodes end together."""
        gap = self.finish(a) - self.finish(b) - b.setup(session)
        share = gap / (a.unit(batch.session) + b.unit(session))
        if share <= 0:
            return []
        return pick(batch.tests, share)

    def swap(
        self, a: NodePlan, b: NodePlan, batch: Batch, session: Session, end: float, *, whole: bool
    ) -> bool:
        """Give (a test of) ``batch`` for (a test of) one of the partner's batches."""
        if not b.batches:
            return False
        other = _any_batch(b, self.rng)
        back = other.kind.options[a.profile]
        if not back or (other.kind is batch.kind and whole):
            return False
        home = back[0] if len(back) == 1 else self.choose(a, other, back)
        if whole:
            return self.exchange(
                a, b, (batch, list(batch.tests), session), (other, list(other.tests), home), end
            )
        test = batch.tests[self.rng.randrange(len(batch.tests))]
        # the difference that would make both nodes end together, in the partner's scale
        gap = (self.finish(a) - self.finish(b)) / 2
        wanted = (test.scale * a.unit(batch.session) - gap) / a.unit(home)
        at = min(bisect_left(other.tests, wanted, key=lambda t: t.scale), len(other.tests) - 1)
        return self.exchange(a, b, (batch, [test], session), (other, [other.tests[at]], home), end)

    def relieve(self, a: NodePlan, b: NodePlan, batch: Batch, options: Sequence[Session]) -> bool:
        """Move ``batch``, or the part that makes both nodes end together, from ``a`` to one of ``options`` on
        ``b`` (or to another browser of the same node)."""
        end = self.finish(self.critical())
        session = min(options, key=lambda s: b.setup(s) + batch.work * b.unit(s))
        if self.transfer(a, b, batch, list(batch.tests), session, end):
            return True
        return a is not b and self.transfer(a, b, batch, self.part(a, b, batch, session), session, end)

    def together(self, a: NodePlan, b: NodePlan, session: Session, end: float) -> bool:
        """Move everything that shares ``session`` on ``a``, of whatever kind: only then is its set-up
        saved."""
        return self.regroup(a, b, _moves(a, b, lambda s: s == session), [], end)

    def browsers(self, a: NodePlan, b: NodePlan, browser: str, end: float) -> bool:
        """Move everything that uses ``browser`` on ``a``, so that it need not be launched there; half of the times for
        all that uses some browser on ``b``."""
        back: Moves | None = []
        others = [name for name in b.browser_used if name != browser]
        if others and self.rng.random() < 0.5:
            other = others[self.rng.randrange(len(others))]
            back = _moves(b, a, lambda s: s[0] == other)
        return self.regroup(a, b, _moves(a, b, lambda s: s[0] == browser), back, end)

    def regroup(self, a: NodePlan, b: NodePlan, there: Moves | None, back: Moves | None, end: float) -> bool:
        """Whole batches of ``a`` for whole batches of ``b``."""
        if not there or back is None:
            return False
        before = (self.finish(a), self.finish(b))
        both = [(a, b, *move) for move in there] + [(b, a, *move) for move in back]
        for source, _, batch, _, _ in both:
            source.discharge(batch.session, batch.work, len(batch.tests))
        for _, target, batch, tests, to in both:
            target.charge(to, batch.work, len(tests))
        good = self.better(a, b, before, end)
        for _, target, batch, tests, to in both:
            target.discharge(to, batch.work, len(tests))
        for source, _, batch, _, _ in both:
            source.charge(batch.session, batch.work, len(batch.tests))
        if good:
            for source, _, batch, tests, _ in both:
                source.take(batch, tests)
            for _, target, batch, tests, to in both:
                target.put(batch.kind, to, tests)
            self.note(a, b)
        return good

    # -- trying and doing ------------------------------------------------------------------------------------

    def transfer(
        self, a: NodePlan, b: NodePlan, batch: Batch, tests: list[Test], session: Session, end: float
    ) -> bool:
        if not tests:
            return False
        # all of a batch is tried often, and may be thousands
        work = batch.work if len(tests) == len(batch.tests) else sum(t.scale for t in tests)
        before = (self.finish(a), self.finish(b))
        a.discharge(batch.session, work, len(tests))
        b.charge(session, work, len(tests))
        good = self.better(a, b, before, end)
        b.discharge(session, work, len(tests))
        a.charge(batch.session, work, len(tests))
        if good:
            a.take(batch, tests)
            b.put(batch.kind, session, tests)
            self.note(a, b)
        return good

    def exchange(
        self,
        a: NodePlan,
        b: NodePlan,
        give: tuple[Batch, list[Test], Session],
        get: tuple[Batch, list[Test], Session],
        end: float,
    ) -> bool:
        (x, xs, to_b), (y, ys, to_a) = give, get
        work_x, work_y = sum(t.scale for t in xs), sum(t.scale for t in ys)
        before = (self.finish(a), self.finish(b))
        a.discharge(x.session, work_x, len(xs))
        b.discharge(y.session, work_y, len(ys))
        a.charge(to_a, work_y, len(ys))
        b.charge(to_b, work_x, len(xs))
        good = self.better(a, b, before, end)
        a.discharge(to_a, work_y, len(ys))
        b.discharge(to_b, work_x, len(xs))
        a.charge(x.session, work_x, len(xs))
        b.charge(y.session, work_y, len(ys))
        if good:
            a.take(x, xs)
            b.take(y, ys)
            a.put(y.kind, to_a, ys)
            b.put(x.kind, to_b, xs)
            self.note(a, b)
        return good

    def better(self, a: NodePlan, b: NodePlan, before: tuple[float, float], end: float) -> bool:
        """Whether the ledgers of ``a`` and ``b`` are better now than when they ended at ``before``."""
        after = (self.finish(a), self.finish(b))
        worst, new = max(before), max(after)
        saved = before[0] + before[1] - after[0] - after[1]
        if worst >= end - SPLIT_EPSILON_S:
            return new < worst + self.prices.between(a, b) * saved - SPLIT_EPSILON_S
        return new < end - SPLIT_EPSILON_S and saved > SPLIT_EPSILON_S

    def note(self, a: NodePlan, b: NodePlan) -> None:
        self.moves += 1
        for node in (a, b):
            self.changed.add(node.id)
            heapq.heappush(self.heap, (-self.finish(node), self.index[node.id]))


def _moves(a: NodePlan, b: NodePlan, wanted: Callable[[Session], bool]) -> Moves | None:
    """The batches of ``a`` in sessions that are ``wanted``, and their sessions on ``b``; None if one has none there."""
    moves: Moves = []
    for batch in a.batches.values():
        if wanted(batch.session):
            options = batch.kind.options[b.profile]
            if not options:
                return None
            to = batch.session if batch.session in options else options[0]
            moves.append((batch, list(batch.tests), to))
    return moves


def _any_batch(node: NodePlan, rng: random.Random) -> Batch:
    order = node.ordered()
    return order[rng.randrange(len(order))]


def pick(tests: Sequence[Test], share: float) -> list[Test]:
    """Tests (sorted by scale) whose scales sum to at most ``share``, the longest that fit first."""
    chosen: list[Test] = []
    hi = len(tests)
    while hi and share > 0:
        hi = min(hi, bisect_left(tests, share + SPLIT_EPSILON_S, key=lambda t: t.scale))
        if not hi:
            break
        hi -= 1
        chosen.append(tests[hi])
        share -= tests[hi].scale
    return chosen
