"""How many files should hold the history and how often the copies are renewed: recorded in the history itself, so that
who looks at it later knows what to expect beside it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from pytest_browserpool.config import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

DEFAULT_FILES = Settings.history_copies
"""Expected where nothing is recorded: what a run without the option keeps."""

DEFAULT_INTERVAL = 60.0
"""Seconds, where nothing is recorded: the shortest that a run has between two renewals."""


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """What a run does for the copies."""

    files: int = DEFAULT_FILES
    """How many files should hold the history, itself included."""
    renewed_every_s: float = DEFAULT_INTERVAL
    """Seconds in which each copy is renewed while a run goes on."""
    since: float = 0.0
    """Since when ``files`` is so; seconds since the epoch. This and ``renewed_at`` are found, not given."""
    renewed_at: float | None = None
    """When all copies were last renewed; None: not since then."""


def record(con: DuckDBPyConnection, wanted: Upkeep, now: float) -> None:
    """Write ``wanted`` where the history says something else; ``now`` in seconds since the epoch."""
    before = recorded(con)
    if before is not None and (before.files, before.renewed_every_s) == (
        wanted.files,
        wanted.renewed_every_s,
    ):
        return
    since, renewed_at = now, None
    if before is not None and before.files == wanted.files:
        since, renewed_at = before.since, before.renewed_at
    con.execute("BEGIN TRANSACTION")
    try:
        con.execute("DELETE FROM copies")
        values = [wanted.files, since, wanted.renewed_every_s, renewed_at]
        con.execute("INSERT INTO copies VALUES (?, ?, ?, ?)", values)
    except BaseException:
        with suppress(duckdb.Error):
            con.execute("ROLLBACK")
        raise
    con.execute("COMMIT")


def recorded(con: DuckDBPyConnection) -> Upkeep | None:
    """What the history says; None where no run has recorded it yet.

    Raises:
        duckdb.Error: the history is of an older schema, or damaged.
    """
    row = con.execute("SELECT files, since, renewed_every_s, renewed_at FROM copies").fetchone()
    if row is None:
        return None
    return Upkeep(files=row[0], since=row[1], renewed_every_s=row[2], renewed_at=row[3])


def renewed(con: DuckDBPyConnection, now: float) -> None:
    """Record that every copy was renewed just now."""
    con.execute("UPDATE copies SET renewed_at = ?", [now])


def due(con: DuckDBPyConnection) -> float | None:
    """When copies were to be renewed that lack rows of runs before this one, which did not end; seconds since the epoch.
    None: they lack nothing, or nothing is recorded.

    Raises:
        duckdb.Error: the history is of an older schema, or damaged.
    """
    known = recorded(con)
    if known is None or known.files < 2:
        return None
    last = known.since if known.renewed_at is None else known.renewed_at
    row = con.execute("SELECT max(written_at) FROM batches").fetchone()
    if row is None or row[0] is None or (known.renewed_at is not None and row[0] <= known.renewed_at):
        return None
    return last + known.renewed_every_s
