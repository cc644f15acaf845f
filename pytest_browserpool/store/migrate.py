"""Ordered migrations: each is applied with its record in one transaction; an older file is backed up
first.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_browserpool.errors import HistoryError

if TYPE_CHECKING:
    import duckdb

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_RECORD = "CREATE TABLE IF NOT EXISTS migrations (number BIGINT, name VARCHAR, applied_at DOUBLE)"


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    sql: str


def known() -> tuple[Migration, ...]:
    """Every migration of this version, in order.

    Raises:
        HistoryError: the files are not numbered 1, 2, 3 … without a gap.
    """
    found = []
    for file in resources.files("pytest_browserpool.store").joinpath("migrations").iterdir():
        if match := _NAME.fullmatch(file.name):
            sql = file.read_text(encoding="utf-8")
            found.append(Migration(number=int(match[1]), name=match[2], sql=sql))
    found.sort(key=lambda m: m.number)
    numbers = [m.number for m in found]
    if numbers != list(range(1, len(found) + 1)):
        raise HistoryError(f"migrations are numbered {numbers}", where="pytest_browserpool/store/migrations")
    return tuple(found)


def level(con: duckdb.DuckDBPyConnection) -> int:
    """The number of the last migration that the file has; 0 for an empty file.

    Raises:
        HistoryError: the file has tables, but no history's.
    """
    tables = {
        row[0] for row in con.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
    }
    if "migrations" in tables:
        row = con.execute("SELECT max(number) FROM migrations").fetchone()
        return int(row[0] or 0) if row else 0
    if tables:
        raise HistoryError(
            f"the DuckDB file has other tables than a history: {', '.join(sorted(tables)[:5])}",
            remedy="give --browserpool-db (or --db) a file of its own",
        )
    return 0


def is_current(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether nothing is left to apply.

    Raises:
        HistoryError: the file was written by a newer version, or is no history.
    """
    have, want = level(con), known()[-1].number
    if have > want:
        raise HistoryError(
            f"the history has schema {have}, this version knows up to {want}",
            remedy="upgrade pytest-browserpool, or give --browserpool-db another file",
        )
    return have == want


def apply(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Apply what is missing, each step and its record in one transaction. Returns the names of the steps."""
    have = level(con)
    done = []
    for migration in known():
        if migration.number <= have:
            continue
        con.execute("BEGIN TRANSACTION")
        try:
            con.execute(_RECORD)
            con.execute(migration.sql)
            con.execute(
                "INSERT INTO migrations VALUES (?, ?, ?)", [migration.number, migration.name, time.time()]
            )
        except BaseException:
            con.execute("ROLLBACK")
            raise
        con.execute("COMMIT")
        done.append(migration.name)
    return done


def backup(path: Path, have: int, of: Path | None = None) -> Path:
    """Copy ``path`` (closed, checkpointed), which is ``of`` or a copy of it, to ``OF.schemaNNNN``, which is kept; an earlier
    backup is not replaced.
    """
    of = of or path
    target = of.with_name(f"{of.name}.schema{have:04d}")
    if not target.exists():
        partial = target.with_name(target.name + ".partial")
        shutil.copy2(path, partial)
        partial.replace(target)
    return target
