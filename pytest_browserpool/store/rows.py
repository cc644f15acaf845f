"""The rows of one run, by kind: what a report is made from, live or from the history. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_browserpool.records import (
    BrowserRecord,
    DecisionRecord,
    FaultRecord,
    MetricRecord,
    ModelRecord,
    NodeRecord,
    OperationRecord,
    RunRecord,
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
