"""Copies, checksums, and what to do with a damaged file: it is set aside under a new name and the good
copy takes its place.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import KEYS, TABLES
from pytest_browserpool.store import migrate
from pytest_browserpool.store.connect import ROW_GROUP, Trouble, foreign, not_ours, open_file, trouble

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def copies_of(db: Path, copies: int) -> list[Path]:
    """Where the redundant copies of ``db`` are, for ``--browserpool-history-copies COPIES`` (the file
    itself counts).
    """
    return [db.with_name(f"{db.name}.copy{i}") for i in range(1, copies)]


def existing_copies(db: Path) -> list[Path]:
    """The copies that lie beside ``db``, whatever the setting was."""
    found = (db.with_name(f"{db.name}.copy{i}") for i in range(1, 10))
    return [path for path in found if path.exists()]


def checksum_file(copy: Path) -> Path:
    return copy.with_name(copy.name + ".sha256")


def digest(path: Path) -> str:
    """sha256 of the file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_copy(con: DuckDBPyConnection, copy: Path) -> None:
    """Make ``copy`` a consistent copy of the database that ``con`` has open, with its checksum beside it.

    All blocks in use are read for it, so a damaged history raises here and never reaches the copy. While the
    copy is replaced the checksum file names both the old bytes and the new, so a kill in between leaves a
    valid pair.

    Raises:
        duckdb.Error: the history is damaged, the disk is full.
        OSError: the directory cannot be written.
    """
    partial = copy.with_name(f"{copy.name}.partial")
    _remove_database(partial)
    source = con.execute("SELECT current_database()").fetchone()
    assert source is not None
    con.execute(f"ATTACH '{_quoted(partial)}' AS browserpool_copy (ROW_GROUP_SIZE {ROW_GROUP})")
    try:
        con.execute(f'COPY FROM DATABASE "{source[0]}" TO browserpool_copy')
        con.execute("CHECKPOINT browserpool_copy")
    except duckdb.Error:
        with suppress(duckdb.Error):
            con.execute("DETACH browserpool_copy")
        _remove_database(partial)
        raise
    con.execute("DETACH browserpool_copy")
    _sync(partial)
    new = digest(partial)
    sums = checksum_file(copy)
    old = _recorded(sums) if copy.exists() else []
    _write_sums(sums, copy.name, [*old, new])
    partial.replace(copy)
    _write_sums(sums, copy.name, [new])


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _remove_database(path: Path) -> None:
    for name in (path.name, path.name + ".wal"):
        path.with_name(name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_sums(path: Path, name: str, sums: list[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(f"{s}  {name}\n" for s in sums), encoding="ascii")
    _sync(partial)
    partial.replace(path)


def _recorded(path: Path) -> list[str]:
    try:
        return [
            line.split()[0]
            for line in path.read_text(encoding="ascii", errors="replace").splitlines()
            if line.strip()
        ]
    except OSError:
        return []


@dataclass(frozen=True, kw_only=True)
class Health:
    """What ``examine`` found of one file."""

    path: Path
    ok: bool
    detail: str
    damaged: bool = False
    """Whether its bytes are damaged: not merely busy, missing or out of reach."""
    rows: int = 0
    runs: int = 0


def examine(path: Path, *, checksum: bool = False, deadline: float = 10.0) -> Health:
    """Read every block in use of the database at ``path``; with ``checksum`` compare its bytes with the
    recorded sum first.
    """
    note = ""
    try:
        if checksum and (sums := _recorded(checksum_file(path))):
            if digest(path) not in sums:
                detail = "the bytes differ from the recorded checksum"
                return Health(path=path, ok=False, damaged=True, detail=detail)
            note = ", checksum right"
        con = open_file(path, read_only=True, deadline=deadline)
    except (duckdb.Error, OSError) as error:
        return Health(path=path, ok=False, damaged=is_damaged(error), detail=_words(error))
    try:
        rows, runs = _read_everything(con)
    except (duckdb.Error, HistoryError) as error:
        return Health(path=path, ok=False, damaged=is_damaged(error), detail=_words(error))
    finally:
        con.close()
    return Health(path=path, ok=True, detail=f"{rows} rows of {runs} runs{note}", rows=rows, runs=runs)


def read_blocks(con: DuckDBPyConnection) -> dict[str, int]:
    """Read every block in use of the open database; rows of each table.

    Raises:
        duckdb.Error: at the first damaged block.
    """
    tables = [
        row[0] for row in con.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
    ]
    rows = {}
    for table in tables:
        # a hash over whole rows cannot be answered from statistics: every column's blocks are read
        row = con.execute(f'SELECT count(*), bit_xor(hash(t)) FROM "{table}" AS t').fetchone()
        assert row is not None
        rows[table] = int(row[0])
    return rows


def _read_everything(con: DuckDBPyConnection) -> tuple[int, int]:
    """Rows and runs; raises duckdb.Error at the first damaged block, HistoryError where a key occurs
    twice.
    """
    if migrate.level(con) == 0:
        raise HistoryError("the file is an empty database, not a history")
    rows = {table: count for table, count in read_blocks(con).items() if table in TABLES}
    for table in rows:
        _no_duplicates(con, table)
    return sum(rows.values()), rows.get("runs", 0)


def _no_duplicates(con: DuckDBPyConnection, table: str) -> None:
    if not KEYS[table]:
        return
    key = ", ".join(f'"{name}"' for name in KEYS[table])
    twice = con.execute(f"SELECT {key} FROM {table} GROUP BY {key} HAVING count(*) > 1 LIMIT 1").fetchone()
    if twice is not None:
        raise HistoryError(f"table {table} has {twice!r} more than once")


def _words(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def repair(db: Path, why: str, *, again: Collection[str] = ()) -> list[str]:
    """Set the damaged ``db`` aside and put the latest good copy in its place; lines that tell the user, also of what
    the copy lacks. ``again``: names of batches that the caller writes after this.

    Call it while holding the writers' lock. A file that is missing is replaced too. Without a good copy
    nothing takes its place: the next writer starts a new file.

    Raises:
        OSError: the directory cannot be written.
        HistoryError: the file is not DuckDB's, and no copy says that it once was.
    """
    lines, aside = [f"the history {db} is missing, but a copy of it is there"], None
    if db.exists():
        aside = _set_aside(db)
        lines = [f"the history {db} was damaged ({why}); the damaged file is kept as {aside}"]
    for copy in sorted(existing_copies(db), key=lambda path: path.stat().st_mtime, reverse=True):
        health = examine(copy, checksum=True)
        if health.ok:
            partial = db.with_name(db.name + ".restoring")
            shutil.copyfile(copy, partial)
            _sync(partial)
            partial.replace(db)
            lines.append(f"it was repaired from {copy} ({health.detail})")
            return [*lines, *(_lacking(aside, db, copy, again) if aside else ())]
        lines.append(f"the copy {copy} cannot be used: {health.detail}")
    return [*lines, "no good copy was found: a new history begins"]


def _lacking(aside: Path, db: Path, copy: Path, again: Collection[str]) -> list[str]:
    """What the damaged file had and the copy in its place has not, as far as the damaged file can tell."""
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(copy.stat().st_mtime))
    try:
        there, here = _batches(aside), _batches(db)
    except (duckdb.Error, OSError, HistoryError) as error:
        return [
            f"the copy is of {made}: rows of later than that may be missing ({aside} does not tell: {_words(error)})"
        ]
    gone = [(run, rows) for name, (run, rows) in there.items() if name not in here and name not in again]
    if not gone:
        return []
    runs = sorted({run for run, _ in gone})
    named = ", ".join(runs[:3]) + (", ..." if len(runs) > 3 else "")
    return [
        f"{sum(rows for _, rows in gone)} rows of the runs {named} are MISSING now: they came after the copy of {made} and "
        f"are only in {aside}, as far as DuckDB can read it"
    ]


def _batches(path: Path) -> dict[str, tuple[str, int]]:
    """Run and number of rows of each batch that the history at ``path`` has taken."""
    con = open_file(path, read_only=True, deadline=1.0)
    try:
        return {
            row[0]: (row[1], row[2])
            for row in con.execute('SELECT batch, run_id, "rows" FROM batches').fetchall()
        }
    finally:
        con.close()


def _set_aside(db: Path) -> Path:
    """Rename ``db`` and its write-ahead log; returns the new name."""
    if foreign(db) and not existing_copies(db):
        raise not_ours(db)
    aside = _unused(db.with_name(f"{db.name}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"))
    wal = db.with_name(db.name + ".wal")
    if wal.exists():
        wal.replace(aside.with_name(aside.name + ".wal"))
    db.replace(aside)
    return aside


def _unused(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def is_damaged(error: BaseException) -> bool:
    """Whether ``error`` says that the file's bytes are damaged, rather than busy or out of reach."""
    return trouble(error) is Trouble.CORRUPT
