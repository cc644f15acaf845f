"""Work for a node that would be idle, and for one that would begin less urgent work than waits elsewhere.

Nothing that was sent is taken back: a node holds one test at a time, so a steal is a change of plan. It is
made only where the tests end sooner in their new place, set-up included.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable

from pytest_browserpool.placement.history import Session
from pytest_browserpool.placement.policy import SPLIT_EPSILON_S
from pytest_browserpool.placement.search import Search, pick
from pytest_browserpool.placement.sharing import Prices
from pytest_browserpool.placement.state import Batch, Kind, NodePlan, Test
from pytest_browserpool.values import ModelNeeds

VICTIMS = 6
"""Nodes that a dry node looks at: those that end last. More adds cost to each event and rarely finds more."""
RELIEF_MOVES, RELIEF_LOOKS, RELIEF_RECEIVERS = 8, 64, 4
"""Moves per round from overloaded browsers to underused ones, batches looked at for them, and nodes tried for
each: bounds, so that a round costs the same in any run."""
URGENT_PRICE = 2.0
"""A more urgent test is drawn to an idle node if it ends sooner there by more than this many times the set-up
that nobody would have had to pay otherwise."""
LEAST_URGENT, USUAL_PRIORITY = 5, ModelNeeds().priority
"""The last of all priorities, and that of a test whose marker names none."""
LOOKS = 12
"""Batches looked at per victim."""


class Finishes:
    """The nodes by their time of finishing, the last first, kept lazily: O(log nodes) per change."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, str]] = []

    def note(self, node: NodePlan) -> None:
        heapq.heappush(self.heap, (-node.finish, node.id))

    def rebuild(self, nodes: Iterable[NodePlan]) -> None:
        self.heap = [(-n.finish, n.id) for n in nodes]
        heapq.heapify(self.heap)

    def last(self, nodes: dict[str, NodePlan], count: int) -> list[NodePlan]:
        """At most ``count`` nodes with planned work, those that finish last first."""
        if len(self.heap) > 8 * len(nodes) + 64:
            self.rebuild(nodes.values())
        kept: list[tuple[float, str]] = []
        found: dict[str, NodePlan] = {}
        while self.heap and len(found) < count:
            value, name = heapq.heappop(self.heap)
            node = nodes.get(name)
            if node is None or name in found:
                continue
            if abs(-value - node.finish) > SPLIT_EPSILON_S:
                heapq.heappush(self.heap, (-node.finish, name))
                if -value < node.finish:
                    # it was noted too early in the order; look again in its right place
                    continue
                continue
            kept.append((value, name))
            found[name] = node
        for entry in kept:
            heapq.heappush(self.heap, entry)
        return [n for n in found.values() if n.batches]


def steal_for(
    node: NodePlan,
    victims: list[NodePlan],
    now: float,
    rng: random.Random,
    allowed: Callable[[Kind], bool],
    prices: Prices,
) -> tuple[NodePlan, list[Test]] | None:
    """Move to the dry ``node`` the tests whose move gains most; the victim and what was moved, or None.

    ``prices``: what a second of added set-up must gain.
    """
    best: tuple[float, NodePlan, Batch, Session] | None = None
    mine = max(node.busy_until, now) + node.load
    for victim in victims:
        if victim is node:
            continue
        theirs = max(victim.busy_until, now) + victim.load
        price = prices.between(victim, node)
        order = victim.ordered()
        looked = order if len(order) <= LOOKS else rng.sample(order, LOOKS)
        for batch in looked:
            if not allowed(batch.kind):
                continue
            for session in batch.kind.options[node.profile]:
                setup, unit, there = node.setup(session), node.unit(session), victim.unit(batch.session)
                # the whole gap shared between both, or the shortest test where that is already too much
                share = max((theirs - mine - setup) / (unit + there), batch.tests[0].scale)
                share = min(share, batch.work)
                gain = theirs - max(mine + setup + share * unit, theirs - share * there) - price * setup
                if gain > SPLIT_EPSILON_S and (best is None or gain > best[0]):
                    best = (gain, victim, batch, session)
    if best is None:
        return None
    _, victim, batch, session = best
    theirs = max(victim.busy_until, now) + victim.load
    share = (theirs - mine - node.setup(session)) / (node.unit(session) + victim.unit(batch.session))
    tests = pick(batch.tests, share) or [batch.tests[0]]
    victim.take(batch, tests)
    node.put(batch.kind, session, tests)
    return victim, tests


def relieve(search: Search, overloaded: list[str], underused: list[str]) -> int:
    """Move planned tests from overloaded browsers to underused ones, wherever those are; the moves made.

    The search's own rule decides: only where the plan ends sooner, or as soon with less work, set-up
    included.
    """
    receivers = [n for n in search.nodes if any(n.capabilities.browser(b) for b in underused)]
    before, looks = search.moves, 0
    for node in search.nodes:
        for batch in list(node.batches.values()):
            if batch.session[0] not in overloaded:
                continue
            if looks >= RELIEF_LOOKS or search.moves - before >= RELIEF_MOVES:
                return search.moves - before
            looks += 1
            for other in sorted(receivers, key=search.finish)[:RELIEF_RECEIVERS]:
                options = [s for s in batch.kind.options[other.profile] if s[0] in underused]
                if options and search.relieve(node, other, batch, options):
                    break
    return search.moves - before


def more_urgent(
    node: NodePlan,
    priority: int,
    others: list[NodePlan],
    now: float,
    allowed: Callable[[Kind], bool],
    prices: Prices,
) -> tuple[NodePlan, Batch, Test, Session] | None:
    """A test more urgent than ``priority`` that waits elsewhere and would end sooner on the idle ``node``.

    Of the most urgent such tests, the one that gains most. A node without work of its own takes any test so, but from a
    neighbour on the same machine, whose cores it would take with it, only those more urgent than usual: what the others
    are worth there ``steal_for`` has said.
    """
    best: tuple[int, float, NodePlan, Batch, Test, Session] | None = None
    for other in others:
        if other is node:
            continue
        near = other.machine == node.machine and other.machine in prices.shared
        bound = min(priority, USUAL_PRIORITY) if near else priority
        wait = max(other.busy_until, now) - now
        for batch in reversed(other.ordered()):
            if batch.kind.priority >= bound or (best is not None and batch.kind.priority > best[0]):
                break
            test = batch.tests[0]
            there_unit = other.unit(batch.session)
            wait += sum(other.setup_now(batch.session)) + batch.work * there_unit
            if not allowed(batch.kind):
                continue
            for session in batch.kind.options[node.profile]:
                # planned or warm here: its set-up is paid for anyway, only sooner
                price = URGENT_PRICE * node.setup(session)
                here = sum(node.setup_now(session)) + test.scale * node.unit(session)
                gain = wait - here - price
                if gain > SPLIT_EPSILON_S and (
                    best is None or (batch.kind.priority, -gain) < (best[0], -best[1])
                ):
                    best = (batch.kind.priority, gain, other, batch, test, session)
    return None if best is None else best[2:]
