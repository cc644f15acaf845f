"""What the scheduler sees and does, put on the record: its queue once a second, its forecasts, moves and times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_browserpool.placement import events
from pytest_browserpool.records import MetricRecord

if TYPE_CHECKING:
    from pytest_browserpool.ledger import Ledger
    from pytest_browserpool.placement.engine import PlacementEngine


class Observer:
    """Reads an engine's views and writes rows. ``tick`` is to be called about once a second, ``end`` once."""

    def __init__(self, ledger: Ledger, engine: PlacementEngine) -> None:
        self._ledger, self._engine = ledger, engine
        self._queued: dict[int, int] = {}
        self._spent: list[float] = []

    def handle(self, event: events.Event) -> Sequence[events.Command]:
        """``PlacementEngine.handle``, with the time that it took noted."""
        started = time.perf_counter()
        try:
            return self._engine.handle(event)
        finally:
            self._spent.append(time.perf_counter() - started)

    def tick(self) -> None:
        """The length of the queue by priority, where it changed."""
        waiting = {p: n for p, n in self._engine.book.waiting.items() if n or self._queued.get(p)}
        for priority, number in sorted(waiting.items()):
            if self._queued.get(priority) != number:
                self._queued[priority] = number
                self._point(f"queued_{priority}", number)

    def end(self) -> None:
        """What can only be summed up now: waits by priority, moves, errors of the forecasts, times of decisions."""
        self.tick()
        for priority, wait in self._engine.waits.items():
            self._point(f"wait_mean_s_{priority}", wait.mean)
            self._point(f"wait_longest_s_{priority}", wait.longest)
        self._point("migrations", self._engine.migrations.count)
        self._point("migrations_useful", self._engine.migrations.useful)
        score = self._engine.forecast_score
        if score.count:
            self._point("forecast_error", score.error)
            self._point("forecast_error_as_last_minute", score.naive_error)
        if self._spent:
            ordered = sorted(self._spent)
            self._point("decision_us_p50", 1e6 * ordered[len(ordered) // 2])
            self._point("decision_us_p99", 1e6 * ordered[int(0.99 * (len(ordered) - 1))])

    def _point(self, name: str, value: float) -> None:
        run_id = self._ledger.run_id
        row = MetricRecord(run_id=run_id, node="", at=time.time(), name=name, value=float(value))
        self._ledger.writer.add(row)
