"""Copies, checksums, and what a file's bytes say of its health."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import KEYS, TABLES
from pytest_browserpool.store import migrate
from pytest_browserpool.store.connect import ROW_GROUP, Trouble, open_file, trouble

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

EMPTY = "the file is an empty database, not a history"


def copies_of(db: Path, copies: int) -> list[Path]:
    """Where the redundant copies of ``db`` are, for ``--browserpool-history-copies COPIES`` (the file
    itself counts).
    """
    return [db.with_name(f"{db.name}.copy{i}") for i in range(1, copies)]


def existing_copies(db: Path) -> list[Path]:
    """The copies that lie beside ``db``, whatever the setting was, in the order of their numbers."""
    prefix = f"{db.name}.copy"
    try:
        names = [path.name for path in db.parent.iterdir() if path.name.startswith(prefix)]
    except OSError:
        return []
    copies = [db.with_name(name) for name in names if name.removeprefix(prefix).isdecimal()]
    return sorted(copies, key=number_of)


def number_of(copy: Path) -> int:
    """Which copy it is: 1 for ``history.duckdb.copy1``."""
    return int(copy.name.rpartition(".copy")[2])


def earlier_copies(db: Path, copies: int) -> list[Path]:
    """Those that lie there from a time when more were kept than ``copies`` (the file itself counts)."""
    return [copy for copy in existing_copies(db) if number_of(copy) >= copies]


def renewed(copy: Path) -> str:
    """When ``copy`` was written, for people."""
    return utc(copy.stat().st_mtime)


def utc(at: float) -> str:
    """Seconds since the epoch, for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


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
    remove_database(partial)
    source = con.execute("SELECT current_database()").fetchone()
    assert source is not None
    con.execute(f"ATTACH '{_quoted(partial)}' AS browserpool_copy (ROW_GROUP_SIZE {ROW_GROUP})")
    try:
        con.execute(f'COPY FROM DATABASE "{source[0]}" TO browserpool_copy')
        con.execute("CHECKPOINT browserpool_copy")
    except duckdb.Error:
        with suppress(duckdb.Error):
            con.execute("DETACH browserpool_copy")
        remove_database(partial)
        raise
    con.execute("DETACH browserpool_copy")
    sync(partial)
    new = digest(partial)
    sums = checksum_file(copy)
    old = _recorded(sums) if copy.exists() else []
    _write_sums(sums, copy.name, [*old, new])
    partial.replace(copy)
    _write_sums(sums, copy.name, [new])


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def remove_database(path: Path) -> None:
    """Delete the half-made file ``path`` and its log, if they are there."""
    for name in (path.name, path.name + ".wal"):
        path.with_name(name).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the bytes of ``path`` are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_sums(path: Path, name: str, sums: list[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(f"{s}  {name}\n" for s in sums), encoding="ascii")
    sync(partial)
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


def has_checksum(copy: Path) -> bool:
    """Whether a checksum is recorded beside ``copy``."""
    return bool(_recorded(checksum_file(copy)))


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
    latest: float = 0.0
    """When its latest rows were written, seconds since the epoch; 0 where it has none."""


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
        return Health(path=path, ok=False, damaged=is_damaged(error), detail=in_words(error))
    try:
        rows, runs = _read_everything(con)
        (latest,) = con.execute("SELECT max(written_at) FROM batches").fetchall()[0]
    except (duckdb.Error, HistoryError) as error:
        return Health(path=path, ok=False, damaged=is_damaged(error), detail=in_words(error))
    finally:
        con.close()
    detail = f"{rows} rows of {runs} runs{note}"
    return Health(path=path, ok=True, detail=detail, rows=rows, runs=runs, latest=latest or 0.0)


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
        raise HistoryError(EMPTY)
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


def in_words(error: BaseException) -> str:
    """The first line of what ``error`` says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_damaged(error: BaseException) -> bool:
    """Whether ``error`` says that the file's bytes are damaged, rather than busy or out of reach."""
    return trouble(error) is Trouble.CORRUPT
