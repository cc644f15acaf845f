"""Reads what can be read out of a damaged history into a sound one. A process of its own: a damaged file might take down
the process that reads it, or keep it busy.

DuckDB keeps a checksum with each block and refuses a block that does not match, so whatever it reads is what was written.
A table that cannot be read whole is read in ranges of rows, which are halved where they fail.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import KEYS, TABLES
from pytest_browserpool.store import migrate
from pytest_browserpool.store.connect import Trouble, open_file, trouble
from pytest_browserpool.store.integrity import in_words, remove_database
from pytest_browserpool.store.inventory import Batch, batches_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LEAF = 256
"""Rows that are given up together: a block that cannot be read costs a column of 2,048 rows or more, and half as many rows
at its two ends that would take more attempts (2 ms each) to tell from the bad ones."""

ORPHANED_S = 1.0
"""Seconds between looks whether the process that asked is still there."""


@dataclass(kw_only=True)
class Salvaged:
    """What came of it."""

    rows: int = 0
    """Rows that the sound file got: it lacked them, or had an earlier version."""
    runs: list[str] = field(default_factory=list)
    """The runs that they belong to, sorted."""
    unread: list[str] = field(default_factory=list)
    """Tables of which not all could be read."""
    missing: dict[str, int | None] = field(default_factory=dict)
    """Table → rows that cannot be read and that the sound file may lack, at most; None: nobody knows how many."""
    left_out: int = 0
    """Rows that could be read, of runs whose own row could not."""
    blind: bool = False
    """Whether the damaged file does not tell which batches it has: of a row in both files the sound one's stays."""
    hurried: bool = False
    """Whether the time was up before every range had been tried."""
    error: str = ""
    """Why nothing could be read; empty where something could, or where there was nothing to be read."""

    @property
    def complete(self) -> bool:
        """Whether all that the sound file lacked is in it now."""
        return not (self.unread or self.left_out or self.blind or self.error)


def salvage(
    damaged: Path, target: Path, again: Collection[str] = (), budget: float = 20.0, name: str = ""
) -> Salvaged:
    """Bring ``target``, a sound history that nobody else has open, up to date, and what it lacks of ``damaged`` into it, in
    one transaction. ``again``: names of batches that will be written in any case. ``budget``: seconds for reading. ``name``:
    what ``damaged`` will be called; empty: as it is.

    Rows of the target stay, but for those of which the damaged file has a later version: where it has taken every batch of
    the run that the target has.

    Raises:
        duckdb.Error: the damaged file cannot be opened, or the target cannot be written.
        HistoryError: one of them is no history, or is of another version.
    """
    con = open_file(target, read_only=False, deadline=1.0)
    try:
        if not migrate.is_current(con):  # such as a copy made before an upgrade
            migrate.apply(con)
        con.execute(f"SET temp_directory = '{_quoted(target.with_name(target.name + '.tmp'))}'")
        with _attached(con, damaged, target):
            return _Salvage(con, name or damaged.name, time.monotonic() + budget).run(again)
    finally:
        con.close()


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


@contextmanager
def _attached(con: DuckDBPyConnection, damaged: Path, target: Path) -> Iterator[None]:
    """``damaged`` as the catalog ``damaged``; without its log where that is damaged too: the file itself then is as it was
    when the log was begun.
    """
    bare = target.with_name(target.name + ".nolog")
    statement = "ATTACH '{}' AS damaged (READ_ONLY, TYPE duckdb)"
    try:
        try:
            con.execute(statement.format(_quoted(damaged)))
        except duckdb.Error:
            if not damaged.with_name(damaged.name + ".wal").exists():
                raise
            shutil.copyfile(damaged, bare)
            con.execute(statement.format(_quoted(bare)))
        _check_level(con, damaged)
        yield
    finally:
        with suppress(duckdb.Error):
            con.execute("DETACH damaged")
        remove_database(bare)


def _check_level(con: DuckDBPyConnection, damaged: Path) -> None:
    tables = _columns(con, "damaged")
    if "batches" not in tables or "runs" not in tables:
        raise HistoryError("the file is not a history", where=str(damaged))
    try:
        have = con.execute("SELECT max(number) FROM damaged.migrations").fetchall()[0][0]
    except duckdb.Error:  # the block of that small table is bad: its columns say what can be taken
        return
    if have and have > migrate.known()[-1].number:
        raise HistoryError(f"the file has the newer schema {have}", where=str(damaged))


def _columns(con: DuckDBPyConnection, catalog: str) -> dict[str, list[str]]:
    """Table → its columns."""
    rows = con.execute(
        "SELECT c.table_name, c.column_name FROM duckdb_columns() AS c "
        "JOIN duckdb_tables() AS t USING (table_oid, database_name) "
        "WHERE c.database_name = ? ORDER BY c.column_index",
        [catalog],
    ).fetchall()
    found: dict[str, list[str]] = {}
    for table, column in rows:
        found.setdefault(table, []).append(column)
    return found


class _Salvage:
    """One salvage; ``con`` has the target as ``history`` and the damaged file as ``damaged``."""

    def __init__(self, con: DuckDBPyConnection, name: str, ends_at: float) -> None:
        self.con, self.name, self.ends_at = con, name, ends_at
        self.out = Salvaged()
        self.needed: list[str] | None = None
        """The runs of which the target lacks something; None: nobody knows."""
        self.later: list[str] = []
        """Those of which the damaged file has all that the target has, and more."""
        self.lacking: dict[str, Batch] = {}
        self.fresh: dict[str, int] = {}
        """Run → rows that the target gets."""

    def run(self, again: Collection[str]) -> Salvaged:
        self._plan(again)
        if self.needed == []:
            return self.out
        there, here = _columns(self.con, "damaged"), _columns(self.con, "history")
        shared = {table: [c for c in here[table] if c in there[table]] for table in TABLES if table in there}
        unread = {table: self._read(table, columns) for table, columns in shared.items()}
        self.con.execute("BEGIN TRANSACTION")
        try:
            for table, columns in shared.items():  # runs come first: others need them
                self._take(table, columns)
            self.out.unread = [table for table in shared if unread[table] != 0]
            missing = {table: self._missing(table, unread[table]) for table in self.out.unread}
            self.out.missing = {table: rows for table, rows in missing.items() if rows != 0}
            self._record()
        except BaseException:
            with suppress(duckdb.Error):
                self.con.execute("ROLLBACK")
            raise
        self.con.execute("COMMIT")
        self.out.runs = sorted(self.fresh)
        return self.out

    def _plan(self, again: Collection[str]) -> None:
        here = batches_of(self.con, "history")
        try:
            there = batches_of(self.con, "damaged")
        except duckdb.Error:
            self.out.blind = True
            return
        self.lacking = {name: batch for name, batch in there.items() if name not in here}
        self.needed = sorted({b.run_id for name, b in self.lacking.items() if name not in again})
        ahead = {batch.run_id for name, batch in here.items() if name not in there}
        self.later = [run for run in self.needed if run not in ahead]

    def _read(self, table: str, columns: list[str]) -> int | None:
        """Fill the temporary table ``found_TABLE``; how many rows could not be read, None where nobody knows."""
        listed = _listed(columns)
        self.con.execute(f"CREATE TEMP TABLE found_{table} AS SELECT {listed} FROM history.{table} LIMIT 0")
        statement = (
            f"INSERT INTO found_{table} SELECT {listed} FROM damaged.{table} WHERE {self._wanted(table)}"
        )
        if self._tried(statement):
            return 0
        try:
            end = self.con.execute(f"SELECT max(rowid) + 1 FROM damaged.{table}").fetchall()[0][0] or 0
        except duckdb.Error:
            return None
        unread, waiting = 0, [(0, int(end))]
        while waiting:
            begin, end = waiting.pop()
            if self._tried(f"{statement} AND rowid >= {begin} AND rowid < {end}"):
                continue
            hurried = time.monotonic() > self.ends_at
            if hurried or end - begin <= LEAF:
                self.out.hurried |= hurried
                unread += self._count(table, begin, end)
            else:
                middle = (begin + end) // 2
                waiting += [(begin, middle), (middle, end)]
        return unread

    def _wanted(self, table: str) -> str:
        if self.needed is None or table == "models":
            return "true"
        return f"run_id IN ({', '.join(_text(run) for run in self.needed)})"

    def _tried(self, statement: str) -> bool:
        try:
            self.con.execute(statement)
        except duckdb.Error as error:
            if trouble(error) is Trouble.CORRUPT:
                return False
            raise
        return True

    def _count(self, table: str, begin: int, end: int) -> int:
        """Rows that could not be read in a range: of the runs that matter where that column can be read, else all."""
        for wanted in (self._wanted(table), "true"):
            with suppress(duckdb.Error):
                counted = f"SELECT count(*) FROM damaged.{table} WHERE {wanted} AND rowid >= {begin} AND rowid < {end}"
                return int(self.con.execute(counted).fetchall()[0][0])
        return end - begin

    def _take(self, table: str, columns: list[str]) -> None:
        """Bring into ``table`` what was found and is not there."""
        listed, key = _listed(columns), KEYS[table]
        if table not in ("runs", "models"):
            orphans = f"DELETE FROM found_{table} WHERE run_id NOT IN (SELECT run_id FROM history.runs)"
            self.out.left_out += self.con.execute(orphans).fetchall()[0][0]
        minus = "EXCEPT" if key else "EXCEPT ALL"
        self.con.execute(
            f"CREATE TEMP TABLE fresh_{table} AS "
            f"SELECT {listed} FROM found_{table} {minus} SELECT {listed} FROM history.{table}"
        )
        if key:
            same = " AND ".join(f'old."{name}" = new."{name}"' for name in key)
            earlier = "true"
            if table != "models" and self.later:
                earlier = f"new.run_id NOT IN ({', '.join(_text(run) for run in self.later)})"
            self.con.execute(
                f"DELETE FROM fresh_{table} AS new USING history.{table} AS old WHERE {same} AND {earlier}"
            )
            self.con.execute(f"DELETE FROM history.{table} AS old USING fresh_{table} AS new WHERE {same}")
        self.con.execute(f"INSERT INTO history.{table} BY NAME SELECT * FROM fresh_{table}")
        run = "''" if table == "models" else "run_id"
        for name, rows in self.con.execute(
            f"SELECT {run}, count(*) FROM fresh_{table} GROUP BY ALL"
        ).fetchall():
            self.out.rows += rows
            if name:
                self.fresh[name] = self.fresh.get(name, 0) + rows

    def _missing(self, table: str, unread: int | None) -> int | None:
        """Rows that the target may lack now: no more than could not be read, and than it has fewer than the damaged file."""
        if unread is None or self.needed is None or set(self.later) != set(self.needed):
            return unread
        wanted = self._wanted(table)
        found, now = (
            int(self.con.execute(f"SELECT count(*) FROM {name} WHERE {wanted}").fetchall()[0][0])
            for name in (f"found_{table}", f"history.{table}")
        )
        return min(unread, max(0, found + unread - now))

    def _record(self) -> None:
        now = time.time()
        complete = self.out.complete
        for run, rows in sorted(self.fresh.items()):
            self.con.execute(
                "INSERT INTO salvaged VALUES (?, ?, ?, ?, ?)", [run, self.name, now, rows, complete]
            )
        if complete:  # nothing of these batches is missing: whoever still has one need not write it again
            for name, batch in self.lacking.items():
                if batch.run_id in (self.needed or ()):
                    values = [name, batch.run_id, batch.rows, batch.written_at]
                    self.con.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", values)


def _listed(columns: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def to_json(salvaged: Salvaged) -> str:
    return json.dumps(dataclasses.asdict(salvaged))


def from_json(text: str) -> Salvaged:
    """What ``to_json`` made ``text`` from.

    Raises:
        ValueError, TypeError: it is something else.
    """
    plain: Mapping[str, Any] = json.loads(text)
    return Salvaged(**plain)


def _end_with(parent: int) -> None:
    """A process that nobody waits for must not go on writing beside the next run."""
    while os.getppid() == parent:
        time.sleep(ORPHANED_S)
    os._exit(1)


def main(damaged: str, target: str, budget: str, name: str = "") -> None:
    """Salvage with the names of ``again`` as a JSON list on standard input; prints a ``Salvaged`` as JSON."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    again = json.load(sys.stdin)
    try:
        done = salvage(Path(damaged), Path(target), again, float(budget), name)
    except (duckdb.Error, HistoryError, OSError) as error:
        done = Salvaged(error=in_words(error))
    print(to_json(done))


if __name__ == "__main__":
    main(*sys.argv[1:])
