"""The rows of one run, by kind: what a report is made from, live or from the history. Pure."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_browserpool.records import (
    AppliedRecord,
    AttachmentRecord,
    BrowserRecord,
    DecisionRecord,
    FaultRecord,
    ForecastRecord,
    JournalRecord,
    MetricRecord,
    ModelRecord,
    NodeRecord,
    OperationRecord,
    RunRecord,
    StealRecord,
    TestRecord,
)
from pytest_browserpool.store import columns
from pytest_browserpool.values import Plain


@dataclass(frozen=True, kw_only=True)
class RunRows:
    """Everything that is recorded of one run."""

    run: RunRecord
    nodes: tuple[NodeRecord, ...] = ()
    browsers: tuple[BrowserRecord, ...] = ()
    models: tuple[ModelRecord, ...] = ()
    tests: tuple[TestRecord, ...] = ()
    operations: tuple[OperationRecord, ...] = ()
    decisions: tuple[DecisionRecord, ...] = ()
    faults: tuple[FaultRecord, ...] = ()
    metrics: tuple[MetricRecord, ...] = ()
    forecasts: tuple[ForecastRecord, ...] = ()
    steals: tuple[StealRecord, ...] = ()
    attachments: tuple[AttachmentRecord, ...] = ()
    applied: tuple[AppliedRecord, ...] = ()
    journal: tuple[JournalRecord, ...] = ()


MAX_OPERATIONS = 200_000
"""Operations of one run kept for its report: about 120 MiB. Of more, the latest are shown; the history
has all.
"""

MAX_SAMPLES = 200_000
"""Metric samples kept for the report: 55 hours of one a second."""


class RunCollector:
    """Keeps the rows of the running run for its report, but for its journal, which no report shows and of which each
    operation has a row. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[Plain] = []
        self._operations: deque[Plain] = deque(maxlen=MAX_OPERATIONS)
        self._metrics: deque[Plain] = deque(maxlen=MAX_SAMPLES)

    def add(self, rows: Iterable[Plain]) -> None:
        """Take ``rows``, records of one run."""
        with self._lock:
            for row in rows:
                if isinstance(row, OperationRecord):
                    self._operations.append(row)
                elif isinstance(row, MetricRecord):
                    self._metrics.append(row)
                elif not isinstance(row, JournalRecord):
                    self._rows.append(row)

    def rows(self) -> RunRows | None:
        """All of it, of several rows with one key the last; None before the run's own record came."""
        with self._lock:
            everything = [*self._rows, *self._operations, *self._metrics]
        if not any(isinstance(row, RunRecord) for row in everything):
            return None
        return run_rows(everything)


_FIELDS = {"operations_log": "operations"}


def run_rows(rows: Iterable[Plain]) -> RunRows:
    """``rows`` (records of one run in the order they came; of several with one key the last counts) as
    ``RunRows``.

    Raises:
        ValueError: there is no ``RunRecord`` among them, or there are several runs'.
    """
    grouped = columns.by_table(rows)
    runs = grouped.pop("runs", [])
    if len(runs) != 1 or not isinstance(runs[0], RunRecord):
        raise ValueError(f"{len(runs)} runs among the rows, expected 1")
    return RunRows(run=runs[0], **{_FIELDS.get(t, t): tuple(group) for t, group in grouped.items()})  # type: ignore[arg-type]
