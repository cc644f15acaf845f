"""What to do with a damaged history: it is set aside under a new name and the best copy takes its place."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from pathlib import Path

import duckdb

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.store.connect import foreign, not_ours, open_file
from pytest_browserpool.store.integrity import (
    Health,
    examine,
    existing_copies,
    in_words,
    remove_database,
    sync,
    utc,
)
from pytest_browserpool.store.inventory import Batch, batches_of


def repair(db: Path, why: str, *, again: Collection[str] = ()) -> list[str]:
    """Set the damaged ``db`` aside and put the best copy in its place; lines that tell the user, also of what the copy
    lacks. ``again``: names of batches that the caller writes after this.

    The best copy is the good one with the latest rows. Call it while holding the writers' lock. A file that is missing
    is replaced too. Without a good copy nothing takes its place: the next writer starts a new file.

    Raises:
        OSError: the directory cannot be written.
        HistoryError: the file is not DuckDB's, and no copy says that it once was.
    """
    lines, aside = [f"the history {db} is missing, but a copy of it is there"], None
    if db.exists():
        aside = _set_aside(db)
        lines = [f"the history {db} was damaged ({why}); the damaged file is kept as {aside}"]
    copy, unusable = _best(db)
    if copy is None:
        return [*lines, *unusable, "no good copy was found: a new history begins"]
    partial = db.with_name(db.name + ".restoring")
    remove_database(partial)
    shutil.copyfile(copy.path, partial)
    sync(partial)
    partial.replace(db)
    lines += [*unusable, f"it was repaired from {copy.path} ({copy.detail})"]
    if aside is None:
        return [
            *lines,
            f"the copy's latest rows are of {utc(copy.latest)}: rows of later than that may be missing",
        ]
    return [*lines, *_lacking(aside, db, copy, again)]


def _best(db: Path) -> tuple[Health | None, list[str]]:
    """The good copy with the latest rows, whenever its file was touched; a line for each that is not good."""
    found = [examine(copy, checksum=True) for copy in existing_copies(db)]
    good = [health for health in found if health.ok]
    lines = [f"the copy {health.path} cannot be used: {health.detail}" for health in found if not health.ok]
    return max(good, key=lambda health: health.latest, default=None), lines


def _lacking(aside: Path, db: Path, copy: Health, again: Collection[str]) -> list[str]:
    """What the damaged file had and the copy in its place has not, as far as the damaged file can tell."""
    made = utc(copy.latest)
    try:
        there, here = _batches(aside), _batches(db)
    except (duckdb.Error, OSError, HistoryError) as error:
        return [
            f"the copy's latest rows are of {made}: rows of later than that may be missing ({aside} does not tell: "
            f"{in_words(error)})"
        ]
    gone = [batch for name, batch in there.items() if name not in here and name not in again]
    if not gone:
        return []
    runs = sorted({batch.run_id for batch in gone})
    named = ", ".join(runs[:3]) + (", ..." if len(runs) > 3 else "")
    return [
        f"{sum(batch.rows for batch in gone)} rows of the runs {named} are MISSING now: they came after the copy of {made} "
        f"and are only in {aside}, as far as DuckDB can read it"
    ]


def _batches(path: Path) -> dict[str, Batch]:
    con = open_file(path, read_only=True, deadline=1.0)
    try:
        return batches_of(con)
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
