"""Forgetting old runs: every row of a run goes at once, or none."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import TYPE_CHECKING

import duckdb

from pytest_browserpool.records import TABLES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def runs_before(con: DuckDBPyConnection, before: float) -> list[str]:
    """Ids of the runs that began before ``before`` (seconds since the epoch), oldest first."""
    rows = con.execute(
        "SELECT run_id FROM runs WHERE started_at < ? ORDER BY started_at, run_id", [before]
    ).fetchall()
    return [str(row[0]) for row in rows]


def forget(con: DuckDBPyConnection, before: float) -> int:
    """Remove the runs that began before ``before``, and models that no run uses any more; how many runs that were.

    The file does not shrink: DuckDB uses the space again for what comes. The copies, which are written anew, do.
    """
    gone = runs_before(con, before)
    if not gone:
        return 0
    con.execute("BEGIN TRANSACTION")
    try:
        for table, record in TABLES.items():
            if any(field.name == "run_id" for field in dataclasses.fields(record)):  # type: ignore[arg-type]
                con.execute(f"DELETE FROM {table} WHERE run_id IN ?", [gone])
        con.execute("DELETE FROM batches WHERE run_id IN ?", [gone])
        con.execute("DELETE FROM salvaged WHERE run_id IN ?", [gone])
        con.execute("DELETE FROM models WHERE sha256 NOT IN (SELECT DISTINCT model FROM operations_log)")
    except BaseException:
        with suppress(duckdb.Error):
            con.execute("ROLLBACK")
        raise
    con.execute("COMMIT")
    return len(gone)
