"""Read-only figures of an engine, for reports and the live view."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_browserpool.placement.history import Session
from pytest_browserpool.placement.poolsize import PoolAdvice
from pytest_browserpool.placement.prediction import BrowserForecast, ForecastScore
from pytest_browserpool.placement.state import NodePlan

if TYPE_CHECKING:
    from pytest_browserpool.placement.book import Book
    from pytest_browserpool.placement.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Wait:
    """How long tests of one priority waited from collection until they were sent, in seconds."""

    count: int
    mean: float
    longest: float


@dataclass(frozen=True, kw_only=True)
class PlannedBatch:
    """Tests that a node is to run in one session, in order."""

    session: Session
    priority: int
    tests: tuple[str, ...]
    expected_s: float


class Waits:
    """Sums waits by priority as tests are sent."""

    def __init__(self) -> None:
        self.sums: dict[int, float] = defaultdict(float)
        self.counts: dict[int, int] = defaultdict(int)
        self.most: dict[int, float] = defaultdict(float)

    def note(self, priority: int, seconds: float) -> None:
        self.sums[priority] += seconds
        self.counts[priority] += 1
        self.most[priority] = max(self.most[priority], seconds)

    def view(self) -> dict[int, Wait]:
        """Priority → its waits."""
        return {
            p: Wait(count=n, mean=self.sums[p] / n, longest=self.most[p])
            for p, n in sorted(self.counts.items())
        }


def plan_of(node: NodePlan) -> tuple[PlannedBatch, ...]:
    """What ``node`` is to run, in order."""
    return tuple(
        PlannedBatch(
            session=batch.session,
            priority=batch.kind.priority,
            tests=tuple(t.nodeid for t in reversed(batch.tests)),
            expected_s=sum(node.setup_now(batch.session)) + batch.work * node.unit(batch.session),
        )
        for batch in reversed(node.ordered())
    )


class EngineViews:
    """What reports read of an engine. It changes nothing."""

    book: Book
    watch: Watch
    now: float

    @property
    def waits(self) -> dict[int, Wait]:
        """Priority → how long its tests waited to be sent."""
        return self.watch.waits.view()

    @property
    def plan(self) -> dict[str, tuple[PlannedBatch, ...]]:
        """Node → what it is to run, in order."""
        return {n.id: plan_of(n) for n in self.book.nodes.values()}

    @property
    def forecasts(self) -> dict[str, BrowserForecast]:
        """Browser → the latest forecast of its next minute."""
        return dict(self.watch.predictor.latest)

    @property
    def forecast_score(self) -> ForecastScore:
        """Error of the forecasts that came due, beside that of "as the last minute"."""
        return self.watch.predictor.score

    def pool_advice(self, node: str) -> PoolAdvice | None:
        """The browsers that ``node`` should keep; None if it is not up."""
        plan = self.book.nodes.get(node)
        return self.watch.advisor.advise(plan, self.now) if plan is not None else None

    @property
    def expected_end(self) -> float:
        """When all that is planned will have ended, by the estimates; same clock as the events."""
        return max((max(n.busy_until, self.now) + n.load for n in self.book.nodes.values()), default=self.now)
