"""What the scheduler sees and does, put on the record: its queue once a second, its forecasts, moves and times."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_browserpool.placement import events
from pytest_browserpool.placement.prediction import HORIZON_S
from pytest_browserpool.records import ForecastRecord, MetricRecord, StealRecord
from pytest_browserpool.report.live import LiveView
from pytest_browserpool.report.progress import EndForecast, NodeNow, Progress
from pytest_browserpool.report.words import natural

if TYPE_CHECKING:
    from pytest_browserpool.ledger import Ledger
    from pytest_browserpool.placement.engine import PlacementEngine
    from pytest_browserpool.placement.state import NodePlan


class Observer:
    """Reads an engine's views, writes rows, and shows the run. ``tick`` is to be called about once a second on the main
    thread, ``end`` once."""

    def __init__(self, ledger: Ledger, engine: PlacementEngine, live: LiveView) -> None:
        self._ledger, self._engine, self._live = ledger, engine, live
        self._doing: dict[str, str] = {}
        """Node → the set-up or recovery that goes on there, in words."""
        self._forecast = EndForecast()
        self._queued: dict[int, int] = {}
        self._spent: list[float] = []

    def handle(self, event: events.Event) -> Sequence[events.Command]:
        """``PlacementEngine.handle``, with the time that it took noted."""
        started = time.perf_counter()
        try:
            return self._engine.handle(event)
        finally:
            self._spent.append(time.perf_counter() - started)

    def hears(self, node: str, message: Mapping[str, Any]) -> None:
        """``node`` says what it begins to do beside running a test; nothing: that is over."""
        self._doing[node] = " ".join(str(message[key]) for key in ("what", "of") if message.get(key))

    def tick(self) -> None:
        """A second has passed."""
        self._queue()
        self._drain()
        self._live.tick(self.progress(time.monotonic()))

    def progress(self, now: float) -> Progress:
        """The run as it is ``now``, by the engine's clock."""
        book = self._engine.book
        waiting = tuple(sorted((p, n) for p, n in book.waiting.items() if n))
        running = sum(node.running is not None for node in book.nodes.values())
        left = self._engine.expected_end - now if book.nodes and book.tests else None
        if left is not None:
            self._forecast.note(now, now + left)
        return Progress(
            done=max(0, len(book.tests) - sum(n for _, n in waiting) - running),
            tests=len(book.tests),
            nodes=tuple(
                self._node(node, now) for node in sorted(book.nodes.values(), key=lambda n: natural(n.id))
            ),
            queue=waiting,
            left_s=left,
            error_s=self._forecast.error,
        )

    def _node(self, node: NodePlan, now: float) -> NodeNow:
        test, session = node.running, node.session
        return NodeNow(
            node=node.id,
            test=test.nodeid if test is not None else "",
            where="/".join(part for part in session[:2] if part) if session else "",
            seconds=max(0.0, now - node.started) if test is not None else 0.0,
            doing=self._doing.get(node.id, ""),
            browsers=tuple(sorted(node.browsers)),
        )

    def _queue(self) -> None:
        """The length of the queue by priority, where it changed."""
        waiting = {p: n for p, n in self._engine.book.waiting.items() if n or self._queued.get(p)}
        for priority, number in sorted(waiting.items()):
            if self._queued.get(priority) != number:
                self._queued[priority] = number
                self._point(f"queued_{priority}", number)

    def _drain(self) -> None:
        """What came of forecasts and moves since the last tick; the engine's clock is the monotonic one."""
        ahead = time.time() - time.monotonic()
        run_id, add = self._ledger.run_id, self._ledger.writer.add
        predictor, migrations = self._engine.watch.predictor, self._engine.migrations
        while predictor.came:
            made, came = predictor.came.popleft()
            add(
                ForecastRecord(
                    run_id=run_id,
                    at=made.at + ahead,
                    browser=made.browser,
                    horizon_s=HORIZON_S,
                    utilization=made.utilization,
                    active_models=made.active_models,
                    overloaded=made.overloaded,
                    confidence=made.confidence,
                    as_last_minute=made.naive_utilization,
                    came=came,
                )
            )
        while migrations.over:
            move = migrations.over.popleft()
            there, took = move.expected_there_s, move.took_s
            add(
                StealRecord(
                    run_id=run_id,
                    nodeid=move.test,
                    at=move.at + ahead,
                    from_node=move.home,
                    to_node=move.node,
                    expected_there_s=there,
                    took_s=took,
                    useful=took < there if took is not None and there is not None else None,
                )
            )

    def end(self) -> None:
        """What can only be summed up now: waits by priority, moves, errors of the forecasts, times of decisions."""
        self._live.end()
        self._queue()
        self._drain()
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
