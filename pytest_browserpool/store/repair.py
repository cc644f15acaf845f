"""What to do with a damaged history: it is set aside under a new name, the best copy takes its place, and what came after
the copy is read out of the damaged file as far as that goes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

import duckdb

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.store import migrate
from pytest_browserpool.store.connect import foreign, not_ours, open_file, writers_turn
from pytest_browserpool.store.integrity import (
    Health,
    examine,
    existing_copies,
    in_words,
    remove_database,
    sync,
    utc,
)
from pytest_browserpool.store.salvage import Salvaged, from_json

REPAIR_BUDGET = 15.0
"""Seconds for reading a damaged file while a run waits to write: other runs' rows go to spool files meanwhile."""

SALVAGE_BUDGET = 600.0
"""Seconds for it where a person asked and waits."""

WRITING_SHARE = 2
"""The process that reads may take so many times its budget in all, for starting and for writing what it read."""

_BEGINS = "no good copy was found: a new history begins"


def repair(db: Path, why: str, *, again: Collection[str] = ()) -> list[str]:
    """Set the damaged ``db`` aside and put the best copy in its place, with what can be read out of the damaged file; lines
    that tell the user, also of what is missing. ``again``: names of batches that the caller writes after this.

    The best copy is the good one with the latest rows. Call it while holding the writers' lock. A file that is missing
    is replaced too. Without a good copy and without a row that can be read nothing takes its place: the next writer starts
    a new file.

    Raises:
        OSError: the directory cannot be written.
        HistoryError: the file is not DuckDB's, and no copy says that it once was.
    """
    if not db.exists():
        copy, unusable = _best(db)
        missing = f"the history {db} is missing, but a copy of it is there"
        if copy is None:
            return [missing, *unusable, _BEGINS]
        _put(_scratch(db, copy.path), db)
        late = f"the copy's latest rows are of {utc(copy.latest)}: rows of later than that may be missing"
        return [missing, *unusable, _from(copy), late]
    aside = _set_aside(db)
    copy, unusable = _best(db)
    lines = [f"the history {db} was damaged ({why}); the damaged file is kept as {aside}", *unusable]
    scratch, taken = _salvaged(aside, db, copy.path if copy else None, again, REPAIR_BUDGET)
    if copy is None and not taken.rows:
        remove_database(scratch)
        return [*lines, _BEGINS, *_told(taken, aside, None)]
    _put(scratch, db)
    return [*lines, _from(copy) if copy else _BEGINS, *_told(taken, aside, copy)]


def take_from(file: Path, db: Path, deadline: float = 10.0) -> list[str]:
    """Bring what can be read of ``file``, such as a damaged history that was set aside, and what ``db`` lacks into ``db``;
    lines that tell the user. ``db`` is sound and of this version. ``file`` stays as it is.

    Raises:
        HistoryError: nothing can be read of ``file``; ``db`` is damaged, busy, changed meanwhile or cannot be written.
    """
    if not file.exists() or file.samefile(db):
        what = "the file to read from is the history itself" if file.exists() else "there is no such file"
        raise HistoryError(what, where=str(file), remedy="name a file that was set aside, or an earlier copy")
    try:
        with writers_turn(db, deadline):
            taken = _take(file, db, deadline)
    except (duckdb.Error, OSError) as error:
        remedy = "browserpool verify --repair, or close the program that has it open"
        raise HistoryError(in_words(error), where=str(db), remedy=remedy) from error
    return _told(taken, file, None) or [f"{file} has nothing that the history lacks"]


def _take(file: Path, db: Path, deadline: float) -> Salvaged:
    open_file(db, read_only=False, deadline=deadline).close()  # what is in its log is in the file then
    before = db.stat()
    scratch, taken = _salvaged(file, db, db, (), SALVAGE_BUDGET)
    now = db.stat()
    same = (now.st_mtime_ns, now.st_size, now.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)
    if same and not taken.error:
        _put(scratch, db)
        return taken
    remove_database(scratch)
    if same:
        what, remedy = f"nothing can be read of the file: {taken.error}", "the history is as it was"
        raise HistoryError(what, where=str(file), remedy=remedy)
    raise HistoryError("another program wrote to the history", where=str(db), remedy="try again")


def _from(copy: Health) -> str:
    return f"it was repaired from {copy.path} ({copy.detail})"


def _scratch(db: Path, source: Path | None) -> Path:
    """A file beside ``db`` with the bytes of ``source``; a new history where that is None."""
    scratch = db.with_name(db.name + ".restoring")
    remove_database(scratch)
    if source is not None:
        try:
            shutil.copyfile(source, scratch)
        except OSError:  # a full disk: half a file helps nobody
            remove_database(scratch)
            raise
        return scratch
    con = open_file(scratch, read_only=False, deadline=1.0)
    try:
        migrate.apply(con)
    finally:
        con.close()
    return scratch


def _put(scratch: Path, db: Path) -> None:
    sync(scratch)
    scratch.replace(db)


def _salvaged(
    damaged: Path, db: Path, source: Path | None, again: Collection[str], budget: float
) -> tuple[Path, Salvaged]:
    """A file beside ``db`` with what ``source`` has and what can be read of ``damaged``; it is never less than ``source``."""
    scratch = _scratch(db, source)
    rows = examine(scratch).rows
    taken = _read_out(damaged, scratch, again, budget)
    if not taken.error and taken.rows:
        health = examine(scratch)
        if health.ok and health.rows >= rows:
            return scratch, taken
        taken = Salvaged(error=f"the file that was made of it is not sound: {health.detail}")
    return _scratch(db, source), taken


def _read_out(damaged: Path, target: Path, again: Collection[str], budget: float) -> Salvaged:
    """``salvage.salvage`` in a process of its own, which ends."""
    command = [sys.executable, "-P", "-m", "pytest_browserpool.store.salvage"]
    try:
        done = subprocess.run(
            [*command, str(damaged), str(target), f"{budget:g}"],
            input=json.dumps(sorted(again)),
            capture_output=True,
            text=True,
            timeout=WRITING_SHARE * budget,
            check=False,
        )
        return from_json(done.stdout)
    except subprocess.TimeoutExpired:
        return Salvaged(error=f"to read it takes longer than {WRITING_SHARE * budget:g} s", hurried=True)
    except OSError as error:
        return Salvaged(error=f"no process can be started to read it: {in_words(error)}")
    except (ValueError, TypeError):
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Salvaged(error=f"the process that reads it ended with {done.returncode}: {said}")


def _told(taken: Salvaged, aside: Path, copy: Health | None) -> list[str]:
    """What was read out of the file and what was not; nothing where nothing was lacking."""
    if taken.error:
        if copy is None:
            return [f"{aside} does not tell what is lost: {taken.error}"]
        late = f"the copy's latest rows are of {utc(copy.latest)}: rows of later than that may be MISSING"
        return [f"{late} ({aside} does not tell: {taken.error})"]
    lines = []
    if taken.rows:
        named = ", ".join(taken.runs[:3]) + (", ..." if len(taken.runs) > 3 else "")
        than = f" that came after the copy's latest of {utc(copy.latest)}" if copy else ""
        lines.append(f"{taken.rows} rows of the runs {named}{than} were read out of {aside}")
    if taken.missing:
        unread = ", ".join(f"{'all' if n is None else n} of {table}" for table, n in taken.missing.items())
        lines.append(
            f"rows are MISSING, at most {unread}: they are in blocks of {aside} that DuckDB cannot read"
        )
    if same := [table for table in taken.unread if table not in taken.missing]:
        lines.append(
            f"of {', '.join(same)} not all could be read: no row is missing, some may be an earlier version"
        )
    if taken.blind and copy:
        lines.append(
            "the damaged file does not tell when which rows were written: of a row in both the copy's stays"
        )
    if taken.left_out:
        lines.append(
            f"{taken.left_out} rows of {aside} were left out: the row of their run in the table runs cannot be read"
        )
    if taken.hurried:
        lines.append(f"the time was up: browserpool verify --salvage {aside} takes longer and may find more")
    return lines


def _best(db: Path) -> tuple[Health | None, list[str]]:
    """The good copy with the latest rows, whenever its file was touched; a line for each that is not good."""
    found = [examine(copy, checksum=True) for copy in existing_copies(db)]
    good = [health for health in found if health.ok]
    lines = [f"the copy {health.path} cannot be used: {health.detail}" for health in found if not health.ok]
    return max(good, key=lambda health: health.latest, default=None), lines


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
