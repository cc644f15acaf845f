"""The record of a run as the controller keeps it: rows for the history from reports, nodes, decisions and
losses."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool.artefacts import runtime
from pytest_browserpool.browsers import gpu
from pytest_browserpool.config import days_of
from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import (
    TABLES,
    AppliedRecord,
    AttachmentRecord,
    BrowserRecord,
    DecisionRecord,
    FaultRecord,
    JournalRecord,
    MetricRecord,
    NodeRecord,
    RunRecord,
    TestRecord,
)
from pytest_browserpool.recovery.rows import StateError
from pytest_browserpool.recovery.state import State
from pytest_browserpool.recovery.telling import under_way
from pytest_browserpool.report.details import Pictures, details_of, tail
from pytest_browserpool.store.writer import HistoryWriter
from pytest_browserpool.values import NodeCapabilities

DAY = 86_400.0

if TYPE_CHECKING:
    import pytest

    from pytest_browserpool.config import Settings
    from pytest_browserpool.placement.events import Run
    from pytest_browserpool.placement.history import History
    from pytest_browserpool.preferences import AppliedChange

RANK = ("passed", "xpassed", "xfailed", "skipped", "failed", "error", "crashed")
"""Of several reports of one test the gravest outcome counts."""

MESSAGE_CHARACTERS = 2000
"""Of a failure's text: its end has the assertion, and a history of a million rows must stay small."""


class Ledger:
    """Turns what happens into records and hands them to the history's writer."""

    def __init__(self, settings: Settings, run_id: str) -> None:
        self.settings, self.run_id = settings, run_id
        self.run: RunRecord | None = None
        self.nodes: dict[str, NodeRecord] = {}
        self.writer = HistoryWriter(
            Path(settings.db),
            run_id,
            copies=settings.history_copies,
            interval=settings.state_sync_interval,
            keep_s=keep * DAY if (keep := days_of(settings.keep)) is not None else None,
        )
        self.states: dict[str, State] = {}
        """Node → its browsers, models and operations, as far as its journal has come."""
        self._running: dict[str, BrowserRecord] = {}
        """Instance → its row, until its node tells of its end."""
        self._open: dict[str, TestRecord] = {}
        self._called: set[str] = set()
        """Of those, the tests whose call was reported: of the others nobody knows how they would have ended."""
        self._pictures = Pictures()
        self.losses: dict[str, list[str]] = defaultdict(list)
        """Test → a line for each node that was lost while it ran the test."""

    # -- the run and its nodes -------------------------------------------------------------------------------

    def begin(self, *, arguments: str, scheduler: str, host: str, version: str, kept: bool = True) -> None:
        """``kept``: false for a call that only looks at the suite: its rows stay in memory."""
        self.run = RunRecord(
            run_id=self.run_id,
            started_at=time.time(),
            arguments=arguments,
            scheduler=scheduler,
            host=host,
            version=version,
            runtime=runtime.label_of(self.settings),
        )
        if kept:
            self.writer.start()
        self.writer.add(self.run, *(_applied(self.run_id, change) for change in self.settings.applied))

    def end(self, exit_status: int) -> None:
        """The last rows, then wait until all is written."""
        now = time.time()
        self.writer.add(
            *(row for test, row in self._open.items() if test in self._called or row.outcome != "passed")
        )
        for node in self.nodes.values():
            if not node.down_at:
                self._went(node.node, now, "end")
        if self.run is not None:
            self.run = _changed(self.run, finished_at=now, exit_status=exit_status)
            self.writer.add(self.run)
        self.writer.close()

    def node_up(self, node: str, *, python: str, capabilities: NodeCapabilities | None = None) -> None:
        known = self.nodes.get(node) or NodeRecord(run_id=self.run_id, node=node, up_at=time.time())
        if capabilities is not None:
            known = _changed(
                known,
                host=capabilities.host,
                cores=capabilities.cores,
                memory_gib=capabilities.memory_gib,
                gpu=capabilities.gpu,
            )
        self.nodes[node] = _changed(known, python=python)
        self.writer.add(self.nodes[node])

    def only_node(self, memory_share: float) -> None:
        """Without xdist: this process is the run's only node."""
        import psutil

        memory = psutil.virtual_memory().total / (1 << 30) * memory_share
        here = NodeCapabilities(
            node="main",
            host=socket.gethostname(),
            cores=os.cpu_count() or 1,
            memory_gib=memory,
            gpu=gpu.name(),
        )
        self.node_up("main", python=platform.python_version(), capabilities=here)

    def node_down(self, node: str, reason: str, *, lost: bool, test: str) -> None:
        if node in self.nodes:
            self._went(node, time.time(), reason)
        if lost:
            left = under_way(self.states[node]) if node in self.states else ""
            self.writer.add(
                FaultRecord(
                    run_id=self.run_id,
                    node=node,
                    at=time.time(),
                    kind="node_lost",
                    nodeid=test,
                    detail=f"{reason}; it had {left}" if left else reason,
                )
            )

    def _went(self, node: str, at: float, reason: str) -> None:
        """``node`` is gone, and its browsers with it, whether it could tell or not: a watching process ends them."""
        self.nodes[node] = _changed(self.nodes[node], down_at=at, down_reason=reason)
        with_it = [row for row in self._running.values() if row.node == node]
        for row in with_it:
            del self._running[row.instance]
        told = (_changed(row, closed_at=at, close_reason=f"with its node: {reason}") for row in with_it)
        self.writer.add(self.nodes[node], *told)

    def beat(self, node: str, message: Mapping[str, Any]) -> None:
        """A heartbeat's measurements: a point of each series."""
        self.writer.add(
            *(
                MetricRecord(
                    run_id=self.run_id, node=node, at=message["at"], name=name, value=float(message[name])
                )
                for name in ("cpu_percent", "memory_bytes", "gpu_percent", "gpu_memory_bytes")
                if name in message
            )
        )

    # -- rows from nodes, decisions, reports -----------------------------------------------------------------

    def row(self, table: str, plain: Mapping[str, Any]) -> None:
        """A row that a node made; the run is the controller's to name."""
        kind = TABLES[table]
        given = {**plain, "run_id": self.run_id} if "run_id" in kind.__dataclass_fields__ else plain  # type: ignore[attr-defined]
        # the channel makes each string anew, and a run's report keeps thousands of rows that repeat the same names
        shared = {key: sys.intern(value) if type(value) is str else value for key, value in given.items()}
        record = kind.from_plain(shared)
        if isinstance(record, BrowserRecord):
            if record.closed_at is None:
                self._running[record.instance] = record
            else:
                self._running.pop(record.instance, None)
        self.writer.add(record)

    def journal(self, node: str, entry: Mapping[str, Any]) -> None:
        """A transaction of a node's state, in order: kept here as it is there, so that a lost node leaves it behind."""
        state = self.states.setdefault(node, State())
        try:
            state.apply(entry)
        except StateError as error:
            self.writer.warnings.append(f"the journal of node {node} cannot be followed: {error}")
        self.writer.add(
            JournalRecord(
                run_id=self.run_id,
                node=node,
                number=entry["number"],
                at=entry["at"],
                changes=json.dumps(entry["changes"]),
            )
        )

    def decision(self, command: Run) -> None:
        """Why a test goes where it goes."""
        made = command.decision
        self.writer.add(
            DecisionRecord(
                run_id=self.run_id,
                nodeid=command.test,
                at=time.time(),
                node=command.node,
                browser=command.browser or "",
                backend=command.backend or "",
                expected_s=made.expected_s if made else None,
                breakdown=json.dumps(dict(made.breakdown)) if made else "",
                factors=json.dumps(dict(made.factors)) if made else "",
                alternatives=json.dumps([dict(other) for other in made.alternatives]) if made else "",
            )
        )

    def report(self, report: pytest.TestReport) -> None:
        """One phase of one test; its row is written when the teardown's report came."""
        known = self._open.get(report.nodeid)
        if known is None:
            node = getattr(getattr(report, "node", None), "gateway", None)
            known = TestRecord(
                run_id=self.run_id,
                nodeid=report.nodeid,
                node=node.id if node is not None else "main",
                outcome="passed",
                started_at=getattr(report, "start", 0.0) or time.time(),
                duration_s=0.0,
            )
        known = _changed(known, **_from_report(known, report))
        if report.failed:
            self._attach(report)
        if report.when == "teardown":
            self._open.pop(report.nodeid, None)
            self._called.discard(report.nodeid)
            self.writer.add(known)
        else:
            self._open[report.nodeid] = known
            if report.when == "call":
                self._called.add(report.nodeid)

    def _attach(self, report: pytest.TestReport) -> None:
        """Keep what a failure left to look at; pictures only of the first failures: each takes as much as a thousand
        rows."""
        details = details_of(report)
        if details is None:
            return
        found = {
            "console": "\n".join(tail(details.console)),
            "page_errors": "\n".join(tail(details.page_errors)),
        }
        if details.screenshot and self._pictures.fits(details.screenshot):
            found["screenshot"] = details.screenshot
        self.writer.add(
            *(
                AttachmentRecord(run_id=self.run_id, nodeid=report.nodeid, kind=kind, content=content)
                for kind, content in found.items()
                if content
            )
        )

    def history(self) -> History | None:
        """What earlier runs measured, for the scheduler; None where there is nothing, or it cannot be read
        (the writer
        says so then: it will not be able to write it either)."""
        path = Path(self.settings.db)
        if not path.exists():
            return None
        from pytest_browserpool.placement.history import History
        from pytest_browserpool.store.connect import reading
        from pytest_browserpool.store.queries import warm_start

        try:
            with reading(path) as connection:
                known = warm_start(connection)
        except HistoryError as error:
            self.writer.warnings.append(f"the scheduler starts without history: {error.what} ({path})")
            return None
        return History.from_rows(
            launches=known.launches, loads=known.loads, runs=known.runs, successes=known.successes
        )


def _applied(run_id: str, change: AppliedChange) -> AppliedRecord:
    return AppliedRecord(
        run_id=run_id,
        id=change.id,
        title=change.title,
        evidence=change.evidence,
        applied_at=change.applied_at,
        expected_s=change.expected_s,
        change=json.dumps(change.to_plain()),
    )


def _changed(record: Any, **values: Any) -> Any:
    return dataclasses.replace(record, **values)


def _from_report(known: TestRecord, report: pytest.TestReport) -> dict[str, Any]:
    outcome = _outcome(report)
    values: dict[str, Any] = {"duration_s": known.duration_s + (report.duration or 0.0)}
    if RANK.index(outcome) > RANK.index(known.outcome):
        values["outcome"] = outcome
    if report.failed:
        values["message"] = str(report.longreprtext)[-MESSAGE_CHARACTERS:]
    used = getattr(report, "browserpool", None)
    if used:
        for name in ("browser", "backend", "model", "latency_ms", "degraded", "recoveries"):
            if used.get(name) is not None:
                values[name] = used[name]
    return values


def _outcome(report: pytest.TestReport) -> str:
    if getattr(report, "browserpool_crashed", False):
        return "crashed"
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.failed and report.when != "call":
        return "error"
    return report.outcome if report.outcome in RANK else "passed"
