"""``browserpool explain``: why a test ran where it did, what the alternatives would have cost, and what failed there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_browserpool.commands.asking import db_option, json_option, tell_what_waits
from pytest_browserpool.errors import HistoryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duckdb import DuckDBPyConnection
    from rich.console import Console

    from pytest_browserpool.records import DecisionRecord


@click.command
@click.argument("nodeid")
@click.option("--run", help="The run (an id or its beginning); the last one that has this test if left out.")
@click.option("--all", "everything", is_flag=True, help="Every decision about the test, not only the last.")
@db_option
@json_option
def explain(nodeid: str, run: str | None, everything: bool, db: Path, as_json: bool) -> None:
    """Say why the test NODEID ran where it did, and what became of the faults that it met there.

    Exit status: 0 explained, 1 no decision about such a test is recorded.

    \b
    Examples:
      browserpool explain tests/test_vad.py::test_silence
      browserpool explain tests/test_ocr.py::test_reads_text --run 20260101 --json
    """
    from pytest_browserpool.store import queries
    from pytest_browserpool.store.connect import reading

    with reading(db) as con:
        tell_what_waits(db)
        run_id = queries.find_run(con, run) if run else None
        decisions = queries.decisions_of(con, nodeid, run_id)
        if not decisions:
            raise _unknown(con, nodeid, run_id, db)
        shown = decisions if everything else decisions[:1]
        told = [
            (d, _seconds(con, d), queries.pool_at(con, d.run_id, d.node, d.at), _faults(con, d))
            for d in shown
        ]
    if as_json:
        plain = [{**as_plain(d, took), "pool": pool, "faults": faults} for d, took, pool, faults in told]
        click.echo(json.dumps(plain, indent=2))
        return
    from pytest_browserpool.commands.output import console

    for decision, took, pool, faults in told:
        show(decision, took, console(), pool, faults)


def _unknown(con: DuckDBPyConnection, nodeid: str, run_id: str | None, db: Path) -> HistoryError:
    from pytest_browserpool.store import queries

    near = queries.nodeids_like(con, nodeid.rpartition("::")[2])
    remedy = (
        f"did you mean: {', '.join(near)}"
        if near
        else "browserpool history tests lists the tests of the last run"
    )
    where = f"{db}, run {run_id}" if run_id else str(db)
    return HistoryError(f"no decision about {nodeid!r} is recorded", where=where, remedy=remedy)


def _seconds(con: DuckDBPyConnection, decision: DecisionRecord) -> dict[str, Any] | None:
    """What the test then took, from the view ``test_costs``."""
    row = con.execute(
        "SELECT outcome, duration_s, launch_s, load_s, run_s FROM test_costs WHERE run_id = ? AND test = ?",
        [decision.run_id, decision.nodeid],
    ).fetchone()
    return (
        dict(zip(("outcome", "duration_s", "launch_s", "load_s", "run_s"), row, strict=True)) if row else None
    )


def _faults(con: DuckDBPyConnection, decision: DecisionRecord) -> list[dict[str, Any]]:
    """What the test met in that run, and what was done about it, in order."""
    from pytest_browserpool.store import queries

    names = ("at", "kind", "browser", "strategy", "outcome", "recovery_ms")
    mine = (f for f in queries.faults_of(con, decision.run_id) if f["nodeid"] == decision.nodeid)
    return [{**{name: f[name] for name in names}, "attempts": _json(f["attempts"])} for f in mine]


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def as_plain(decision: DecisionRecord, took: dict[str, Any] | None) -> dict[str, Any]:
    """The decision with its JSON columns read, and ``took``."""
    plain = decision.to_plain()
    for name in ("breakdown", "factors", "alternatives"):
        plain[name] = _json(plain[name])
    return {**plain, "took": took}


def show(
    decision: DecisionRecord,
    took: dict[str, Any] | None,
    console: Console,
    pool: Mapping[str, Any] | None = None,
    faults: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Print one decision: where, the expected time and its parts beside what came, the score, the alternatives, the
    browsers that the node had then, and the faults that the test met.
    """
    from rich.markup import escape
    from rich.table import Table

    at = datetime.fromtimestamp(decision.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    where = "/".join(part for part in (decision.node, decision.browser, decision.backend) if part)
    console.print(f"[bold]{escape(decision.nodeid)}[/bold]")
    console.print(f"went to [bold]{escape(where)}[/bold] at {at}, run {escape(decision.run_id)}")
    if pool:
        advised = f"; the plan kept {pool['advised']}" if pool["advised"] is not None else ""
        running = ", ".join(pool["running"]) or "no browser"
        console.print(f"on {escape(decision.node)} ran {escape(running)} then{advised}")
    for fault in faults:
        console.print(escape(_story(fault)))
    plain = as_plain(decision, took)
    expected, factors = plain["breakdown"] or {}, plain["factors"] or {}
    if expected or took:
        console.print("\nseconds")
        table = Table(box=None, pad_edge=False)
        for name in ("", "expected", "measured"):
            table.add_column(name, justify="right" if name else "left")
        for part in dict.fromkeys(["queue", "launch", "load", "run", *expected]):
            table.add_row(part, _number(expected.get(part)), _number((took or {}).get(f"{part}_s")))
        table.add_row("end", _number(decision.expected_s), _number((took or {}).get("duration_s")))
        console.print(table)
    if factors:
        # without a scheduler a node chooses by an order, not by a score
        scored = decision.expected_s is not None
        console.print(
            "\nfactors of the capability score" if scored else "\nchosen by the node itself; lower goes first"
        )
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in factors.items():
            table.add_row(escape(str(name)), _number(value))
        console.print(table)
    _show_alternatives(plain["alternatives"] or [], console)


def _show_alternatives(alternatives: list[Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not alternatives:
        console.print("\nno alternative is recorded")
        return
    console.print("\nnot taken")
    table = Table(box=None, pad_edge=False)
    for name in ("node", "browser", "backend"):
        table.add_column(name)
    for name in ("expected_s", "score"):
        table.add_column(name, justify="right")
    for other in alternatives:
        if isinstance(other, dict):
            where = (escape(str(other.get(name) or "")) for name in ("node", "browser", "backend"))
            table.add_row(*where, _number(other.get("expected_s")), _number(other.get("score")))
    console.print(table)


def _story(fault: Mapping[str, Any]) -> str:
    """A fault in one line: what, where, what came of it, and the step that it ended with."""
    seconds = f" in {fault['recovery_ms'] / 1000:.3g} s" if fault["recovery_ms"] is not None else ""
    steps = [step for step in fault["attempts"] or [] if step["action"] != "begin"]
    last = f", {steps[-1]['action']} in {steps[-1]['browser']}" if steps else ""
    return f"met {fault['kind']} in {fault['browser']}: {fault['outcome']}{seconds}{last}"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (int, float)) else "–"


command = explain
