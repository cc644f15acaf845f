"""The rows of one run, by kind: what a report is made from, live or from the history. Pure."""

from __future__ import annotations

import itertools
import pickle
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
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
"""Operations of one run kept for its report. Of more, the latest are shown; the history has all."""

MAX_SAMPLES = 200_000
"""Metric samples kept for the report: 55 hours of one a second."""

PACK = 512
"""Rows that are packed together: a millisecond of the thread that brings the last one. A row takes 0.6 KiB as an object,
and a tenth of that packed; a run of two hours has a million."""


class _Packed:
    """Rows in order, packed where there are many: nobody looks at them before the run's end. ``most`` rows are kept, the
    latest, or up to ``PACK`` more."""

    def __init__(self, most: int | None = None) -> None:
        self._most = None if most is None else -(-most // PACK)
        self._packs: deque[bytes] = deque()
        self._open: list[Plain] = []

    def append(self, row: Plain) -> None:
        self._open.append(row)
        if len(self._open) == PACK:
            self._packs.append(zlib.compress(pickle.dumps(self._open), 1))
            self._open = []
            if self._most is not None and len(self._packs) > self._most:
                self._packs.popleft()

    def __iter__(self) -> Iterator[Plain]:
        # ours, from this process's own memory
        packs = (pickle.loads(zlib.decompress(pack)) for pack in list(self._packs))
        return itertools.chain(itertools.chain.from_iterable(packs), list(self._open))


class RunCollector:
    """Keeps the rows of the running run for its report, but for its journal, which no report shows and of which each
    operation has a row. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = _Packed()
        self._operations = _Packed(MAX_OPERATIONS)
        self._metrics = _Packed(MAX_SAMPLES)

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
