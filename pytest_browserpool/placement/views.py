"""Read-only figures of an engine, for reports and the live view."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from pytest_browserpool.placement.history import Session
from pytest_browserpool.placement.state import NodePlan


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
