"""The first plan: kinds packed as groups under a common deadline, split only where they do not fit.

The deadline is found by bisection (the dual approximation of scheduling theory): with a guess T every kind,
scarce ones and big ones first, goes where it takes the fewest seconds among the nodes where it ends before T;
one that fits nowhere is split over the nodes with the most room. The smallest T that packs wins. Local search
(search.py) takes it from there.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from pytest_browserpool.placement.history import Session
from pytest_browserpool.placement.sharing import Prices, together
from pytest_browserpool.placement.state import Kind, NodePlan, Test

BISECTIONS = 9
"""Halvings of the interval that the deadline lies in: 1/500 of it is finer than the search that follows."""
PACK_BUDGET = 300_000
"""(kind, node) pairs that the bisection may look at in all: about half a second of Python."""
LOOSER = (1.15, 1.35, 1.6, 2.0)
"""Times the least deadline that are tried besides where nodes share cores: with twice the time everything fits on one
of two nodes."""
SCAN_LIMIT = 96
"""Nodes looked at per kind when there are more kinds × nodes than the budget: the least loaded of them."""


@dataclass(slots=True)
class Share:
    """Work (sum of scales) of one kind for one session of one node."""

    node: NodePlan
    session: Session
    work: float


@dataclass(slots=True)
class Bin:
    """One node while packing: what it would hold, without touching its ledger."""

    node: NodePlan
    finish: float
    sessions: set[Session] = field(default_factory=set)
    browsers: set[str] = field(default_factory=set)

    def setup(self, session: Session) -> float:
        browser = session[0]
        if not browser or session in self.sessions:
            return 0.0
        node = self.node
        seconds = 0.0 if session in node.warm or session in node.used else node.estimates.of_load(session)
        if browser not in self.browsers and browser not in node.browsers and browser not in node.browser_used:
            seconds += node.estimates.of_launch(browser, node.id)
        return seconds * node.slowness

    def put(self, session: Session, work: float) -> None:
        self.finish += self.setup(session) + work * self.node.unit(session)
        self.sessions.add(session)
        self.browsers.add(session[0])


def plan(kinds: Sequence[Kind], tests: dict[int, list[Test]], nodes: Sequence[NodePlan], now: float) -> None:
    """Put ``tests`` (kind index → its unplaced tests) on ``nodes``. Every kind must have a node that can run
    it."""
    todo, tests = _families([k for k in kinds if tests.get(k.index)], tests)
    if not todo or not nodes:
        return
    shares = Packing(todo, tests, nodes, now).best(Prices(nodes).shared.keys())
    for kind in todo:
        _deal(tests[kind.index], shares[kind.index])


def _families(kinds: list[Kind], tests: dict[int, list[Test]]) -> tuple[list[Kind], dict[int, list[Test]]]:
    """Kinds that can run in the same sessions everywhere, whatever their priority, are packed as one: the
    most urgent stands for all of them."""
    families: dict[tuple[object, ...], list[Kind]] = {}
    for kind in kinds:
        families.setdefault(tuple(sorted(kind.options.items())), []).append(kind)
    heads, together = [], {}
    for family in families.values():
        head = min(family, key=lambda k: (k.priority, k.index))
        heads.append(head)
        together[head.index] = [t for k in family for t in tests[k.index]]
    return heads, together


def _able(kinds: Iterable[Kind], nodes: Sequence[NodePlan]) -> dict[int, list[int]]:
    """Kind → indexes of the nodes that can run it."""
    by_profile: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        by_profile.setdefault(node.profile, []).append(i)
    return {
        k.index: sorted(i for p in k.options if k.options[p] for i in by_profile.get(p, ())) for k in kinds
    }


Shares = dict[int, list[Share]]
"""Kind → where its work goes."""


class Packing:
    """``tests`` of ``kinds`` put on ``nodes`` so that all end before a deadline."""

    def __init__(
        self, kinds: list[Kind], tests: dict[int, list[Test]], nodes: Sequence[NodePlan], now: float
    ) -> None:
        self.nodes = nodes
        self.now = now
        self.works = {k.index: sum(t.scale for t in tests[k.index]) for k in kinds}
        self.longest = {k.index: max(t.scale for t in tests[k.index]) for k in kinds}
        self.able = _able(kinds, nodes)
        self.order = sorted(kinds, key=self._rank)
        self.pairs = sum(map(len, self.able.values()))
        self.crowded = len(kinds) * len(nodes) > 4 * PACK_BUDGET

    def best(self, shared: Collection[str]) -> Shares:
        """The packing for the least deadline that it holds. On machines in ``shared``, whose nodes fill their cores, a
        later one may end sooner: it splits fewer groups."""
        rounds = min(BISECTIONS, PACK_BUDGET // max(1, self.pairs))
        low = self._lower()
        high, best = low, None
        for _ in range(12):
            best = self.pack(high)
            if best is not None or rounds == 0:
                break
            low, high = high, self.now + (high - self.now) * 1.5
        for _ in range(rounds if best is not None else 0):
            middle = (low + high) / 2
            trial = self.pack(middle)
            if trial is None:
                low = middle
            else:
                high, best = middle, trial
        if best is None:
            best = self.pack(high, force=True)
        assert best is not None
        if shared and rounds:
            trials = [self.pack(self.now + (high - self.now) * factor) for factor in LOOSER]
            best = min((best, *(t for t in trials if t is not None)), key=self.end)
        return best

    def pack(self, deadline: float, *, force: bool = False) -> Shares | None:
        """Every kind placed so that all end before ``deadline``, or None; with ``force`` what does not fit goes where
        it ends soonest."""
        bins = [Bin(n, max(n.finish, self.now)) for n in self.nodes]
        shares: Shares = {}
        for kind in self.order:
            candidates = self.able[kind.index]
            if self.crowded and len(candidates) > SCAN_LIMIT:
                candidates = heapq.nsmallest(SCAN_LIMIT, candidates, key=lambda i: bins[i].finish)
            work, longest = self.works[kind.index], self.longest[kind.index]
            got = _place(kind, work, longest, candidates, bins, deadline, force=force)
            if got is None:
                return None
            shares[kind.index] = got
        return shares

    def end(self, shares: Shares) -> float:
        """When all would have ended, with the cores of each machine shared among its nodes."""
        bins = {n.id: Bin(n, max(n.finish, self.now)) for n in self.nodes}
        for kind in self.order:
            for share in shares[kind.index]:
                bins[share.node.id].put(share.session, share.work)
        hosts: dict[str, list[Bin]] = {}
        for one in bins.values():
            hosts.setdefault(one.node.machine or one.node.id, []).append(one)
        return self.now + max(
            together([b.finish - self.now for b in here], here[0].node.capabilities.cores)
            for here in hosts.values()
        )

    def _rank(self, kind: Kind) -> tuple[int, int, float, int]:
        node = self.nodes[self.able[kind.index][0]]
        session = kind.options[node.profile][0]
        seconds = self.works[kind.index] * node.unit(session) + node.setup(session)
        return (kind.priority, len(self.able[kind.index]), -seconds, kind.index)

    def _lower(self) -> float:
        """A time before which the plan cannot end (by estimates): the shared work, and each kind's longest
        test."""
        total = sum(max(n.finish, self.now) - self.now for n in self.nodes)
        least = 0.0
        for kind in self.order:
            best_work, best_one = float("inf"), float("inf")
            for i in self.able[kind.index][:SCAN_LIMIT]:
                node = self.nodes[i]
                for session in kind.options[node.profile]:
                    unit = node.unit(session)
                    best_work = min(best_work, self.works[kind.index] * unit)
                    best_one = min(best_one, self.longest[kind.index] * unit + node.setup(session))
            total += best_work
            least = max(least, best_one)
        return self.now + max(total / len(self.nodes), least, 1e-6)


def _place(
    kind: Kind,
    work: float,
    longest: float,
    candidates: list[int],
    bins: list[Bin],
    deadline: float,
    *,
    force: bool,
) -> list[Share] | None:
    """The whole kind on the cheapest node where it fits; else cut off pieces for those with the most room."""
    shares: list[Share] = []
    while work > 1e-12:
        fit, room, soon = _offers(kind, work, candidates, bins, deadline)
        if fit is not None:
            chosen, session, piece = fit[2], fit[3], work
        elif room is not None and (room[0] >= longest or shares):
            chosen, session, piece = room[1], room[2], min(work, room[0])
        elif force and soon is not None:
            chosen, session, piece = soon[1], soon[2], work
        else:
            return None
        bins[chosen].put(session, piece)
        shares.append(Share(bins[chosen].node, session, piece))
        work -= piece
    return shares


Offer = tuple[float, int, Session]


def _offers(
    kind: Kind, work: float, candidates: list[int], bins: list[Bin], deadline: float
) -> tuple[tuple[float, float, int, Session] | None, Offer | None, Offer | None]:
    """(cheapest place where all of ``work`` ends in time, place with the most room, place where it ends soonest).

    The latter two are looked for only as long as the first was not found.
    """
    fit: tuple[float, float, int, Session] | None = None
    room: Offer | None = None
    soon: Offer | None = None
    for i in candidates:
        here = bins[i]
        for session in kind.options[here.node.profile]:
            unit = here.node.unit(session)
            setup = here.setup(session)
            cost = setup + work * unit
            end = here.finish + cost
            if end <= deadline and (fit is None or (cost, -here.finish) < fit[:2]):
                fit = (cost, -here.finish, i, session)
            if fit is None:
                space = (deadline - here.finish - setup) / unit
                if space > 1e-12 and (room is None or space > room[0]):
                    room = (space, i, session)
                if soon is None or end < soon[0]:
                    soon = (end, i, session)
    return fit, room, soon


def _deal(tests: list[Test], shares: list[Share]) -> None:
    """Hand out real tests to the shares, the longest first, each to the share with the most room left in
    seconds."""
    heap = [(-share.work * share.node.unit(share.session), i) for i, share in enumerate(shares)]
    heapq.heapify(heap)
    dealt: list[dict[int, list[Test]]] = [{} for _ in shares]
    for test in sorted(tests, reverse=True):
        room, i = heap[0]
        dealt[i].setdefault(test.kind.index, []).append(test)
        heapq.heapreplace(heap, (room + test.scale * shares[i].node.unit(shares[i].session), i))
    for share, chosen in zip(shares, dealt, strict=True):
        for group in chosen.values():
            share.node.put(group[0].kind, share.session, group)
