"""The controller's record of what its nodes cannot tell any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from pytest_browserpool.config import Settings
from pytest_browserpool.ledger import Ledger
from pytest_browserpool.records import BrowserRecord


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(Settings(rootdir=str(tmp_path), db=str(tmp_path / "h.duckdb"), history_copies=1), "run")
    ledger.begin(arguments="[]", scheduler="browserpool", host="here", version="0")
    for node in ("gw0", "gw1"):
        ledger.node_up(node, python="3.11.7")
    yield ledger
    ledger.writer.close()


def browser(
    ledger: Ledger, node: str, instance: str, closed_at: float | None = None, reason: str = ""
) -> None:
    row = BrowserRecord(
        run_id="",
        node=node,
        instance=instance,
        name="chromium",
        family="chrome",
        version="1",
        closed_at=closed_at,
        close_reason=reason,
    )
    ledger.row("browsers", row.to_plain())


def ends(ledger: Ledger) -> dict[str, tuple[float | None, str]]:
    with duckdb.connect(ledger.settings.db, read_only=True) as history:
        rows = history.sql("SELECT instance, closed_at, close_reason FROM browsers").fetchall()
        return {instance: (at, reason) for instance, at, reason in rows}


def down(ledger: Ledger) -> dict[str, float]:
    with duckdb.connect(ledger.settings.db, read_only=True) as history:
        return dict(history.sql("SELECT node, down_at FROM nodes").fetchall())


def test_the_browsers_of_a_lost_node_went_with_it(ledger: Ledger) -> None:
    browser(ledger, "gw0", "running")
    browser(ledger, "gw0", "retired")
    browser(ledger, "gw0", "retired", closed_at=5.0, reason="crashed")
    browser(ledger, "gw1", "another's")
    ledger.node_down("gw0", "not properly terminated", lost=True, test="t")
    browser(ledger, "gw1", "another's", closed_at=7.0, reason="end")
    ledger.end(0)
    assert ends(ledger) == {
        "running": (down(ledger)["gw0"], "with its node: not properly terminated"),
        "retired": (5.0, "crashed"),
        "another's": (7.0, "end"),
    }


def test_a_run_that_stops_at_once_closes_the_record_of_its_browsers(ledger: Ledger) -> None:
    browser(ledger, "gw0", "running")
    ledger.end(2)
    assert ends(ledger) == {"running": (down(ledger)["gw0"], "with its node: end")}


def test_what_a_node_tells_after_its_end_is_what_counts(ledger: Ledger) -> None:
    browser(ledger, "gw0", "running")
    ledger.node_down("gw0", "finished", lost=False, test="")
    browser(ledger, "gw0", "running", closed_at=9.0, reason="end of the run")
    ledger.end(0)
    assert ends(ledger) == {"running": (9.0, "end of the run")}
