"""The history as Parquet: a file for each table, and one of the view ``operations``, for pandas, Polars, Spark and others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import TABLES
from pytest_browserpool.store.integrity import in_words, is_damaged

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

VIEWS = ("operations", "run_summary", "test_costs")
"""Views that are written too: what most questions start from, with names instead of hashes."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One file that was written."""

    path: Path
    rows: int


def export(con: DuckDBPyConnection, directory: Path, runs: Sequence[str] | None = None) -> list[Exported]:
    """Write the tables and views to ``directory``, only of ``runs`` if given. A file that is there is replaced, whole.

    Raises:
        HistoryError: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritten("the directory cannot be made", directory, error) from error
    return [_one(con, name, directory, runs) for name in (*TABLES, *VIEWS)]


def _unwritten(what: str, where: Path, error: Exception) -> HistoryError:
    remedy = "make room there, or name another directory"
    why = getattr(error, "strerror", None) or in_words(error)
    return HistoryError(f"{what}: {why}", where=str(where), remedy=remedy)


def _one(con: DuckDBPyConnection, name: str, directory: Path, runs: Sequence[str] | None) -> Exported:
    path, partial = directory / f"{name}.parquet", directory / f"{name}.parquet.partial"
    where = ""
    if runs is not None:
        used = "sha256 IN (SELECT model FROM operations_log WHERE run_id IN (SELECT unnest($runs)))"
        where = f" WHERE {used if name == 'models' else 'run_id IN (SELECT unnest($runs))'}"
    # a path is no parameter of COPY: quotes are doubled
    target = str(partial).replace("'", "''")
    parameters = {"runs": list(runs)} if runs is not None else None
    try:
        written = con.execute(
            f"COPY (SELECT * FROM {name}{where}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)", parameters
        ).fetchone()
        partial.replace(path)
    except (duckdb.Error, OSError) as error:
        if is_damaged(error):  # what is read, not what is written
            raise
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise _unwritten(f"{path.name} cannot be written", path, error) from error
    return Exported(path=path, rows=int(written[0]) if written else 0)
