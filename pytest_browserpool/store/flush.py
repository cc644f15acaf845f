"""One flush: take the writers' turn, open, write whole batches in one transaction, close. The file is
free in between.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import KEYS
from pytest_browserpool.store import columns, integrity, migrate, retention, spool
from pytest_browserpool.store.connect import (
    Opener,
    Trouble,
    blank,
    foreign,
    not_ours,
    open_file,
    trouble,
    writers_turn,
)
from pytest_browserpool.store.integrity import EMPTY
from pytest_browserpool.store.repair import repair
from pytest_browserpool.store.spool import Batch
from pytest_browserpool.store.upkeep import DEFAULT_FILES, Upkeep, due, record, recorded, renewed
from pytest_browserpool.values import Plain

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


MANY = 2_000
"""Rows of one table from which numpy is faster, and worth its import: of 700 rows all tables took 20 ms as lists; numpy took
40 ms and 60 to be imported. 20,000 operations took 180 and 83 ms."""


@dataclass(frozen=True, kw_only=True)
class Flushed:
    """What a flush did."""

    rows: int = 0
    """Rows of the batches given."""
    forgotten: int = 0
    """Runs that were too old."""
    merged: int = 0
    """Rows from spool files, of any run."""
    copied: bool = False
    """Whether the copies were renewed."""
    copies_due: float | None = None
    """When they are to be renewed for the sake of earlier runs, which did not end; seconds since the epoch."""
    notes: tuple[str, ...] = ()
    """Lines that the user must see."""


def flush(
    db: Path,
    batches: Sequence[Batch],
    *,
    unsecured: Sequence[Batch] = (),
    copies: Sequence[Path] = (),
    examined: bool = False,
    upkeep: Upkeep | None = None,
    forget_before: float | None = None,
    deadline: float = 10.0,
    opener: Opener | None = None,
) -> Flushed:
    """Write ``batches`` and every spooled one, forget runs that began before ``forget_before`` (seconds since the
    epoch), then renew ``copies``.

    ``unsecured`` are batches written earlier that no copy has yet: they are written again if the file was
    replaced by a copy, now or by another run since. ``examined``: every block in use is read first. ``upkeep`` is
    recorded; where runs that did not end have left the copies behind for longer than it allows, they are renewed too.
    A batch that the file has already is left out, so all of this can be repeated; where one of ``batches`` has a spool
    file, that goes when the batch is in the history.
    ``deadline`` is in seconds, for the turn and for the file each. ``opener`` saves those who flush often time.

    Raises:
        filelock.Timeout, duckdb.Error, OSError, HistoryError: nothing was written; ``connect.trouble``
        says why.
    """
    db.parent.mkdir(parents=True, exist_ok=True)
    ours = opener or Opener()
    wanted = [*unsecured, *batches]
    try:
        with writers_turn(db, deadline):
            try:
                return _flush(ours, db, wanted, copies, deadline, forget_before, upkeep, examined=examined)
            except duckdb.Error as error:
                if not integrity.is_damaged(error):
                    raise
                repaired = repair(db, integrity.in_words(error), again={batch.name for batch in wanted})
            # once: a file that is damaged again right after its repair is beyond this
            again = _flush(ours, db, wanted, copies, deadline, forget_before, upkeep)
            return dataclasses.replace(again, notes=(*repaired, *again.notes))
    finally:
        if opener is None:
            ours.close()


def _flush(
    opener: Opener,
    db: Path,
    batches: Sequence[Batch],
    copies: Sequence[Path],
    deadline: float,
    forget_before: float | None,
    upkeep: Upkeep | None,
    *,
    examined: bool = False,
) -> Flushed:
    notes: list[str] = []
    names = {batch.name for batch in batches}
    if not db.exists() and integrity.existing_copies(db):
        notes += repair(db, "missing", again=names)
    con = _opened(opener, db, deadline)
    try:
        if not migrate.is_current(con):
            con = _migrate(opener, con, db, notes, deadline, names)
        if examined:
            integrity.read_blocks(con)
        behind = due(con) if upkeep is not None else None  # before this run's rows are in
        spooled, damaged = spool.collect(db, but=names)
        notes += damaged
        merged = _merge(con, spooled, notes)
        rows = _write(con, batches)
        spool.remove(spool.place_of(db, batch.name) for batch in batches)
        if upkeep is not None:
            record(con, upkeep, time.time())
        forgotten = retention.forget(con, forget_before) if forget_before is not None else 0
        if upkeep is not None and behind is not None and behind <= time.time():
            copies = copies or integrity.copies_of(db, upkeep.files)
        copied = _renew(con, copies, notes)
    except BaseException:
        opener.close()
        raise
    with suppress(duckdb.Error):  # a checkpoint that fails: the rows are in the log
        opener.release()
    return Flushed(
        rows=rows,
        merged=merged,
        forgotten=forgotten,
        copied=copied,
        copies_due=behind,
        notes=tuple(notes),
    )


def _opened(opener: Opener, db: Path, deadline: float) -> DuckDBPyConnection:
    """``db``, which is made where there is nothing; what is there stays where it is not ours."""
    if not db.exists() or (blank(db) and not integrity.existing_copies(db)):
        _create(opener, db)
    elif foreign(db) and not integrity.existing_copies(db):
        raise not_ours(db)
    return opener.open(db, deadline)


def _merge(con: DuckDBPyConnection, spooled: Sequence[tuple[Path, Batch]], notes: list[str]) -> int:
    """Write spooled batches and remove their files; one that the database refuses is set aside and blocks
    no other.
    """
    rows = 0
    for path, batch in spooled:
        try:
            rows += _write(con, [batch])
        except Exception as error:
            if trouble(error) is not Trouble.DEFECT:
                raise
            notes.append(
                f"spooled rows cannot be stored in the history ({error}): kept as {spool.set_aside(path)}"
            )
        else:
            spool.remove([path])
    return rows


def _renew(con: DuckDBPyConnection, copies: Sequence[Path], notes: list[str]) -> bool:
    """Renew every copy. Rows are stored by now: a copy that cannot be written is said, damage in the file
    is raised.
    """
    try:
        for copy in copies:
            integrity.write_copy(con, copy)
    except (duckdb.Error, OSError) as error:
        if integrity.is_damaged(error):
            raise
        notes.append(f"the copy of the history could not be renewed: {str(error).strip().splitlines()[0]}")
        return False
    if copies:
        renewed(con, time.time())
    return bool(copies)


def _create(opener: Opener, db: Path) -> None:
    """A new, complete history: made under another name, so that a kill leaves no half-made file in its
    place.
    """
    partial = db.with_name(db.name + ".new")
    for leftover in (partial, partial.with_name(partial.name + ".wal")):
        leftover.unlink(missing_ok=True)
    migrate.apply(opener.open(partial, 1.0))
    opener.release()  # which writes the log back
    # a log that belonged to a file which is gone must not be replayed into the new one
    wal = db.with_name(db.name + ".wal")
    if wal.exists():
        wal.replace(db.with_name(f"{db.name}.wal.orphan-{int(time.time())}"))
    partial.replace(db)


def _migrate(
    opener: Opener,
    con: DuckDBPyConnection,
    db: Path,
    notes: list[str],
    deadline: float,
    again: Collection[str],
) -> DuckDBPyConnection:
    have = migrate.level(con)
    if not have and integrity.existing_copies(db):
        opener.release()  # a shell, opened too early, left a file that has nothing in it
        notes += repair(db, EMPTY, again=again)
        con = _opened(opener, db, deadline)
        have = migrate.level(con)
    if have and not migrate.is_current(con):
        opener.release()
        kept = migrate.backup(db, have)
        notes.append(
            f"the history {db} was brought up to date from schema {have}; the earlier file is kept as {kept}"
        )
        con = opener.open(db, deadline)
    migrate.apply(con)
    return con


def _write(con: DuckDBPyConnection, batches: Sequence[Batch]) -> int:
    """Write those of ``batches`` that the file lacks, in one transaction; returns how many rows that were."""
    if not batches:
        return 0
    con.execute("BEGIN TRANSACTION")
    try:
        have = {
            row[0]
            for row in con.execute("SELECT batch FROM batches WHERE run_id IN ?", [_runs(batches)]).fetchall()
        }
        new: dict[str, Batch] = {b.name: b for b in batches if b.name not in have}
        rows = [row for batch in new.values() for row in batch.rows]
        half_read = _half_read(con, new.values()) if new else []
        for table, group in columns.by_table(rows).items():
            _insert(con, table, group, half_read)
        now = time.time()
        if new:
            con.executemany(
                "INSERT INTO batches VALUES (?, ?, ?, ?)",
                [[b.name, b.run_id, len(b.rows), now] for b in new.values()],
            )
    except BaseException:
        with suppress(duckdb.Error):
            con.execute("ROLLBACK")
        raise
    con.execute("COMMIT")
    return len(rows)


def _runs(batches: Iterable[Batch]) -> list[str]:
    return sorted({b.run_id for b in batches})


def _half_read(con: DuckDBPyConnection, batches: Iterable[Batch]) -> list[str]:
    """Runs of ``batches`` of which a salvage brought back only a part, nobody knows of which batches."""
    asked = "SELECT DISTINCT run_id FROM salvaged WHERE NOT complete AND run_id IN ?"
    return [row[0] for row in con.execute(asked, [_runs(batches)]).fetchall()]


def _insert(con: DuckDBPyConnection, table: str, rows: list[Plain], half_read: Sequence[str] = ()) -> None:
    """Insert ``rows`` (one for each key), replacing earlier ones with the same key. Where a table has no key, rows of the
    runs ``half_read`` that are there already are left out.
    """
    if len(rows) < MANY:
        _insert_few(con, table, rows, half_read)
        return
    con.register("incoming", columns.arrays(table, rows))
    try:
        if key := KEYS[table]:
            same = " AND ".join(f'old."{name}" = new."{name}"' for name in key)
            con.execute(f"DELETE FROM {table} AS old USING incoming AS new WHERE {same}")
        con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming{_but(table, half_read)}")
    finally:
        # in an aborted transaction this raises too, and would hide why it was aborted
        with suppress(duckdb.Error):
            con.unregister("incoming")


def _but(table: str, half_read: Sequence[str]) -> str:
    if KEYS[table] or not half_read:
        return ""
    names = ", ".join(f'"{column.name}"' for column in columns.columns_of(table))
    runs = ", ".join("'" + run.replace("'", "''") + "'" for run in half_read)
    return f" EXCEPT ALL SELECT {names} FROM {table} WHERE run_id IN ({runs})"


def _insert_few(con: DuckDBPyConnection, table: str, rows: list[Plain], half_read: Sequence[str]) -> None:
    """As ``_insert``, without numpy: each column is a parameter."""
    given = columns.lists(table, rows)
    described = columns.columns_of(table)

    def unnested(names: Collection[str]) -> str:
        return ", ".join(
            f'unnest(?::{columns.SQL_TYPES[column.type]}[]) AS "{column.name}"'
            for column in described
            if column.name in names
        )

    if key := KEYS[table]:
        same = " AND ".join(f'old."{name}" = new."{name}"' for name in key)
        con.execute(
            f"DELETE FROM {table} AS old USING (SELECT {unnested(key)}) AS new WHERE {same}",
            [values for name, values in given.items() if name in key],
        )
    con.execute(
        f"INSERT INTO {table} BY NAME SELECT {unnested(given)}{_but(table, half_read)}", list(given.values())
    )


def mend(db: Path, copies: int | None = None, deadline: float = 10.0) -> list[str]:
    """Repair ``db`` if it is damaged or missing, bring it up to date, merge spooled rows, renew the copies.

    Returns lines that say what was done. ``copies`` as in ``Settings.history_copies``; None: as the last run had it.

    Raises:
        HistoryError: it is sound but busy, not DuckDB's, or cannot be written.
    """
    try:
        notes = _restore(db, deadline)
        wanted = integrity.copies_of(db, copies if copies is not None else _copies_kept(db, deadline))
        done = flush(db, [], copies=wanted, deadline=deadline)
    except (duckdb.Error, OSError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HistoryError(f"the history cannot be repaired: {line}", where=str(db)) from error
    merged = [f"{done.merged} spooled rows were merged"] if done.merged else []
    return [*notes, *done.notes, *merged]


def _copies_kept(db: Path, deadline: float) -> int:
    if not db.exists() or blank(db):
        return DEFAULT_FILES
    con = open_file(db, read_only=True, deadline=deadline)
    try:
        upkeep = recorded(con)
    except duckdb.CatalogException:  # an older schema
        upkeep = None
    finally:
        con.close()
    return upkeep.files if upkeep else DEFAULT_FILES


def _restore(db: Path, deadline: float) -> list[str]:
    """Read all of ``db``; where it is damaged or missing, put the good copy in its place."""
    with writers_turn(db, deadline):
        copies = integrity.existing_copies(db)
        if not db.exists() or (blank(db) and not copies):
            return repair(db, "missing") if copies else []
        health = integrity.examine(db, deadline=deadline)
        if health.ok or (
            health.detail == EMPTY and not copies
        ):  # the flush after this makes a history of that
            return []
        if not health.damaged and health.detail != EMPTY:
            raise HistoryError(
                health.detail, where=str(db), remedy="close the program that has it open, or try again"
            )
        return repair(db, health.detail)
