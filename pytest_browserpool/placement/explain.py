"""Why a test goes where it goes: expected seconds, the factors of the score, and what the alternatives would
cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from pytest_browserpool.placement import scoring
from pytest_browserpool.placement.book import Book
from pytest_browserpool.placement.events import Decision
from pytest_browserpool.placement.history import History, Session
from pytest_browserpool.placement.state import Batch, Kind, NodePlan, Test
from pytest_browserpool.preferences import preferred

ALTERNATIVES = 5
"""Kept with a decision: enough to see what was close."""
NODES_COMPARED = 4
"""Other nodes looked at for alternatives, so that explaining costs the same on 4 nodes as on 1,000."""

CACHED = 20_000
"""Factors kept: they change with the forecast and the estimates, not with each test."""


class Explainer:
    """Scores candidates and writes decisions. Utilizations and successes are told to it."""

    def __init__(self, book: Book, history: History | None) -> None:
        self.book = book
        self.good: Counter[Session] = Counter()
        self.seen: Counter[Session] = Counter()
        self.utilization: Mapping[str, float] = {}
        self.predicted: Mapping[str, float] = {}
        self._cache: dict[tuple[int, Session, int], dict[str, float]] = {}
        self._fixed: dict[tuple[int, Session, int], tuple[bool, float, float] | None] = {}
        """Factors that no measurement changes."""
        self._version = -1
        for session, (good, n) in (history.successes if history else {}).items():
            self.good[session], self.seen[session] = good, n

    def outcome(self, session: Session, ok: bool | None) -> None:
        """A test in ``session`` ended; ``ok`` False: the infrastructure failed under it."""
        if ok is not None:
            self.seen[session] += 1
            self.good[session] += ok
            self._cache.clear()

    def told(self, utilization: Mapping[str, float], predicted: Mapping[str, float]) -> None:
        """Browser → its utilization in the last minute, and in the next."""
        self.utilization, self.predicted = utilization, predicted
        self._cache.clear()

    def factors(self, node: NodePlan, session: Session, test: Test) -> dict[str, float]:
        """The factors of the capability score, by name, and their product as ``score``."""
        key = (node.profile, session, test.kind.index)
        if len(self._cache) > CACHED or self._version != self.book.estimated_at:
            self._cache.clear()
            self._version = self.book.estimated_at
        found = self._cache.get(key)
        if found is None:
            found = self._factors(node, session, test)
            if found:
                found["score"] = scoring.product(found)
            self._cache[key] = found
        return found

    def _factors(self, node: NodePlan, session: Session, test: Test) -> dict[str, float]:
        key = (node.profile, session, test.kind.index)
        if key not in self._fixed:
            if len(self._fixed) > CACHED:
                self._fixed.clear()
            self._fixed[key] = self._unchanging(node, session, test.kind)
        fixed = self._fixed[key]
        if fixed is None:
            return {}
        applied, affinity, memory = fixed
        browser, _, model = session
        estimates = self.book.estimates
        rivals = [estimates.of_run(s) for s in test.kind.options[node.profile]]
        # 1: it weighs nothing, for a node that gives the applied way has no other; it says why
        return ({"applied": 1.0} if applied else {}) | {
            "affinity": affinity,
            "capacity": scoring.capacity(self.utilization.get(browser, 0.0)),
            "overload": scoring.overload(self.predicted.get(browser, 0.0)),
            "success": scoring.success(self.good[session], self.seen[session]),
            "latency": scoring.latency(sum(rivals) / len(rivals), estimates.of_run(session))
            if rivals and model
            else 1.0,
            "memory": memory,
        }

    def _unchanging(self, node: NodePlan, session: Session, kind: Kind) -> tuple[bool, float, float] | None:
        """Whether the way was applied, affinity and memory: what the needs of ``kind`` and the capabilities of ``node``
        say. None where it lacks the browser."""
        here = node.capabilities.browser(session[0])
        if here is None:
            return None
        wanted = scoring.AFFINITY.get(kind.type)
        prefer = preferred(self.book.config.preferences, kind.needs)
        affinity = scoring.affinity(
            kind.type,
            here.family,
            webnn=here.gives("webnn"),
            preferred_here=any(b.family == wanted for b in node.capabilities.browsers),
        )
        needed = kind.needs.min_memory if kind.needs else None
        return (
            prefer is not None and prefer.way == session[:2],
            affinity,
            scoring.memory(needed, node.capabilities.memory_gib),
        )

    def prefer(self, node: NodePlan, batch: Batch, near: float) -> Session:
        """The session for ``batch`` on ``node``: least seconds, and among near-ties the highest score."""
        options = batch.kind.options[node.profile]
        work = batch.work
        shared = node.used.get(batch.session, 0) > len(batch.tests)
        costs = {s: node.setup(s) + work * node.unit(s) for s in options}
        if not shared:
            # nobody else needs what the plan would set up: leaving it saves that
            costs[batch.session] += sum(node.setup_now(batch.session))
        limit = min(costs.values()) * (1 + near)
        close = [s for s in options if costs[s] <= limit]
        if len(close) == 1:
            return close[0]
        test = batch.tests[-1]
        return max(close, key=lambda s: self.factors(node, s, test).get("score", 1.0))

    def decision(
        self,
        node: NodePlan,
        session: Session,
        test: Test,
        now: float,
        why: Mapping[str, float] | None = None,
    ) -> Decision:
        """Why ``test`` runs on ``node`` in ``session`` now; ``why`` is added to the factors."""
        launch, load = node.setup_now(session)
        run = test.scale * node.unit(session)
        factors = self.factors(node, session, test)
        return Decision(
            expected_s=launch + load + run,
            breakdown={"queue": 0.0, "launch": launch, "load": load, "run": run},
            factors={**factors, **why} if why else factors,
            alternatives=tuple(self._alternatives(node, session, test, now)),
        )

    def _alternatives(
        self, node: NodePlan, chosen: Session, test: Test, now: float
    ) -> list[Mapping[str, Any]]:
        found: list[tuple[float, NodePlan, Session]] = []
        looked = 0
        options, scale = test.kind.options, test.scale
        for other in self.book.nodes.values():
            if other is node:
                for session in options[node.profile]:
                    if session != chosen:
                        launch, load = node.setup_now(session)
                        found.append((launch + load + scale * node.unit(session), node, session))
                continue
            if looked >= NODES_COMPARED:
                continue
            looked += 1
            queue, warm, used = max(0.0, other.finish - now), other.warm, other.used
            for session in options[other.profile]:
                setup = 0.0 if session in used or session in warm else other.setup(session)
                found.append((queue + setup + scale * other.unit(session), other, session))
            if looked >= NODES_COMPARED and len(self.book.nodes) > 4 * NODES_COMPARED:
                break
        found.sort(key=itemgetter(0))
        return [
            {
                "node": other.id,
                "browser": session[0],
                "backend": session[1],
                "expected_s": expected,
                "score": self.factors(other, session, test).get("score", 1.0),
            }
            for expected, other, session in found[:ALTERNATIVES]
        ]
