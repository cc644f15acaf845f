"""Each test's outcome exactly once: holds a node's reports back until they are final, and makes those that
no node can.

pytest-xdist passes each report on as it comes. When the node dies after the set-up's report, JUnit XML is
left with a
nameless test case and HTML without a row. Here a test's reports are passed on together when the test is
complete.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

Emit = Callable[..., None]
"""``dsession.worker_testreport(node=…, rep=…)``."""


@dataclass
class _Held:
    open: list[Any] = field(default_factory=list)
    """Reports of the test that the node runs."""
    teardown: Any = None
    """The passed teardown report of the test before: a wider fixture's teardown may still fail under its
    name."""


class ReportGate:
    """Passes the reports of each node on, test by test. ``emit`` is xdist's own handler."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._nodes: dict[Any, _Held] = {}

    def on_report(self, node: Any, rep: Any) -> None:
        """A report arrived from ``node``."""
        held = self._nodes.setdefault(node, _Held())
        if (
            not held.open
            and held.teardown is not None
            and rep.when == "teardown"
            and rep.nodeid == held.teardown.nodeid
        ):
            held.teardown = (
                None  # the error of a wider fixture's teardown replaces the report that all went well
            )
            self._emit(node=node, rep=rep)
            return
        held.open.append(rep)

    def passed(self, node: Any) -> bool:
        """Whether no report of the test that ``node`` ran can end the run."""
        return (
            all(rep.outcome == "passed" for rep in self._nodes[node].open) if node in self._nodes else False
        )

    def on_complete(self, node: Any) -> None:
        """The test that ``node`` ran is complete."""
        self.flush(node)
        held = self._nodes.setdefault(node, _Held())
        reports, held.open = held.open, []
        for rep in reports[:-1]:
            self._emit(node=node, rep=rep)
        for rep in reports[-1:]:
            if rep.when == "teardown" and rep.passed:
                held.teardown = rep
            else:
                self._emit(node=node, rep=rep)

    def settle(self) -> None:
        """From time to time: the test before one that takes long is not kept from the reporters until that is over."""
        for node, held in list(self._nodes.items()):
            if held.open:
                self.flush(node)

    def end(self) -> None:
        """The run is over, perhaps by an interrupt: each completed test is whole for the reporters."""
        for node in list(self._nodes):
            self.flush(node)

    def flush(self, node: Any) -> None:
        """Nothing more can come for the test before: pass its teardown report on."""
        held = self._nodes.get(node)
        if held is not None and held.teardown is not None:
            rep, held.teardown = held.teardown, None
            self._emit(node=node, rep=rep)

    def drop(self, node: Any) -> list[Any]:
        """``node`` is gone: forget, and return, the reports of the test that it did not complete."""
        self.flush(node)
        held = self._nodes.pop(node, None)
        return held.open if held is not None else []


def failed(nodeid: str, text: str, *, node: Any = None, crashed: bool = False) -> list[pytest.TestReport]:
    """The three reports of a test that failed without a node to say so. ``node`` is the one that it was lost
    on; ``crashed`` makes that its outcome in the history."""
    call = _report(nodeid, "call", "failed", text, node)
    call.browserpool_crashed = crashed  # type: ignore[attr-defined]
    setup, teardown = (_report(nodeid, when, "passed", None, node) for when in ("setup", "teardown"))
    return [setup, call, teardown]


def skipped(nodeid: str, text: str) -> list[pytest.TestReport]:
    """The two reports of a test that was skipped before it reached a node."""
    reason = (nodeid.split("::")[0], None, f"Skipped: {text}")
    return [
        _report(nodeid, "setup", "skipped", reason, None),
        _report(nodeid, "teardown", "passed", None, None),
    ]


def _report(nodeid: str, when: Any, outcome: Any, longrepr: Any, node: Any) -> pytest.TestReport:
    path, _, inside = nodeid.partition("::")
    report = pytest.TestReport(
        nodeid=nodeid,
        location=(path, None, inside.replace("::", ".") or path),
        keywords={},
        outcome=outcome,
        longrepr=longrepr,
        when=when,
        duration=0.0,
    )
    if node is not None:
        report.node = node  # type: ignore[attr-defined]
    return report
