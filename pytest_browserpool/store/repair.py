"""What to do with a damaged history: it is set aside under a new name, the best copy takes its place, and what came after
the copy is read out of the damaged file as far as that goes. Copies that cannot be used are set aside too, as what takes
the history's place is copied over them; where none is good, what can be read out of them is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
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

_CORRUPT = ".corrupt-"
_BESIDE = (".wal", ".sha256")
"""What belongs to a file and has its name: the log, and a copy's checksum."""

_BEGINS = "no good copy was found: a new history begins"


def repair(db: Path, why: str, *, again: Collection[str] = ()) -> list[str]:
    """Set the damaged ``db`` aside and put the best copy in its place, with what can be read out of the damaged file; lines
    that tell the user, also of what is missing. ``again``: names of batches that the caller writes after this.

    The best copy is the good one with the latest rows; the others that are not good are set aside. Call it while holding
    the writers' lock. A file that is missing is replaced too. Without a good copy what can be read out of the bad ones
    counts; without a row of that nothing takes the file's place: the next writer starts a new one.

    Raises:
        OSError: the directory cannot be written.
        HistoryError: the file is not DuckDB's, and no copy says that it once was.
    """
    aside = _set_aside(db) if db.exists() else None
    copy, rejected = _best(db)
    # of a row in several files the last one's stays: the history's, before that the first copy's
    damaged = [] if copy else [(health.path, kept) for health, kept in reversed(rejected)]
    damaged += [(aside, aside)] if aside else []
    made, taken = _salvaged(damaged, db, copy.path if copy else None, again, REPAIR_BUDGET)
    older = _older(copy, made, db)
    if copy or any(one.rows for _, one in taken):
        _put(made, db)
    else:
        remove_database(made)
    for health, kept in rejected:  # not before: where a kill ended this, the next repair shall find them
        _move(health.path, kept)
    lines = [
        f"the history {db} was damaged ({why}); the damaged file is kept as {aside}"
        if aside
        else f"the history {db} is missing, but a copy of it is there"
    ]
    lines += [_unusable(health, kept, copy) for health, kept in rejected]
    lines.append(_from(copy) if copy else _BEGINS)
    if copy and not aside:
        lines.append(f"{_late(copy)} may be missing")
    lines += older
    for number, (file, one) in enumerate(taken):
        lines += _told(one, file, copy, others=any(not later.error for _, later in taken[number + 1 :]))
    return lines


def take_from(file: Path, db: Path, deadline: float = 10.0) -> list[str]:
    """Bring what can be read of ``file``, such as a damaged history that was set aside, and what ``db`` lacks into ``db``;
    lines that tell the user. ``db`` is sound and of this version. ``file`` stays as it is.

    Raises:
        HistoryError: nothing can be read of ``file``; ``db`` is damaged, busy, changed meanwhile or cannot be written.
    """
    if not file.exists() or file.samefile(db):
        what = "the file to read from is the history itself" if file.exists() else "there is no such file"
        kept = sorted(
            each.name for each in db.parent.iterdir() if _CORRUPT in each.name and each.suffix not in _BESIDE
        )
        there = f": {', '.join(kept)}" if kept else ""
        raise HistoryError(
            what, where=str(file), remedy=f"name a file that was set aside, or an earlier copy{there}"
        )
    try:
        with writers_turn(db, deadline):
            taken = _take(file, db, deadline)
    except (duckdb.Error, OSError) as error:
        remedy = "browserpool verify --repair, or close the program that has it open"
        raise HistoryError(in_words(error), where=str(db), remedy=remedy) from error
    return _told(taken, file) or [f"{file} has nothing that the history lacks"]


def _take(file: Path, db: Path, deadline: float) -> Salvaged:
    open_file(db, read_only=False, deadline=deadline).close()  # what is in its log is in the file then
    before = db.stat()
    made, ((_, taken),) = _salvaged([(file, file)], db, db, (), SALVAGE_BUDGET)
    now = db.stat()
    same = (now.st_mtime_ns, now.st_size, now.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)
    if same and not taken.error:
        _put(made, db)
        return taken
    remove_database(made)
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
    damaged: Sequence[tuple[Path, Path]], db: Path, source: Path | None, again: Collection[str], budget: float
) -> tuple[Path, list[tuple[Path, Salvaged]]]:
    """A file beside ``db`` with what ``source`` has and what can be read of each of ``damaged``, one after the other; it is
    never less than ``source``. ``damaged``: where each lies, and the name that it is kept under; with that comes back what
    was taken. ``budget``: seconds in all.
    """
    best = db.with_name(db.name + ".restored")
    remove_database(best)
    made, out = source, []
    for file, kept in damaged:
        scratch = _scratch(db, made)
        rows = examine(scratch).rows
        taken = _read_out(file, scratch, kept.name, again, budget / len(damaged))
        if not taken.error and taken.rows:
            health = examine(scratch)
            if health.ok and health.rows >= rows:
                scratch.replace(best)
                made = best
            else:
                taken = Salvaged(error=f"the file that was made of it is not sound: {health.detail}")
        remove_database(scratch)
        out.append((kept, taken))
    return (best if made == best else _scratch(db, source)), out


def _read_out(damaged: Path, target: Path, name: str, again: Collection[str], budget: float) -> Salvaged:
    """``salvage.salvage`` in a process of its own, which ends."""
    command = [sys.executable, "-P", "-m", "pytest_browserpool.store.salvage"]
    try:
        done = subprocess.run(
            [*command, str(damaged), str(target), f"{budget:g}", name],
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


def _told(taken: Salvaged, aside: Path, copy: Health | None = None, *, others: bool = False) -> list[str]:
    """What was read out of the file and what was not; nothing where nothing was lacking. ``others``: what it lacks might
    have come from another.
    """
    if taken.error:
        again = f"browserpool verify --salvage {aside} tries again, with more time"
        if copy is None:
            return [f"{aside} does not tell what is lost: {taken.error}; {again}"]
        return [f"{_late(copy)} may be MISSING ({aside} does not tell: {taken.error}; {again})"]
    lines = []
    if taken.rows:
        named = ", ".join(taken.runs[:3]) + (", ..." if len(taken.runs) > 3 else "")
        than = f" that came after the copy's latest of {utc(copy.latest)}" if copy else ""
        lines.append(f"{taken.rows} rows of the runs {named}{than} were read out of {aside}")
    if taken.missing:
        unread = ", ".join(f"{'all' if n is None else n} of {table}" for table, n in taken.missing.items())
        blocks = f"in blocks of {aside} that DuckDB cannot read"
        lines.append(
            f"at most {unread} are {blocks}: they are MISSING where no other file has them"
            if others
            else f"rows are MISSING, at most {unread}: they are {blocks}"
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


def _older(copy: Health | None, made: Path, db: Path) -> list[str]:
    """Back ``copy`` up as ``migrate.backup`` does, where ``made`` was brought up to date from it; says so."""
    have, now = (_level(path) for path in (copy.path, made)) if copy else (0, 0)
    if copy is None or have == now:
        return []
    kept = migrate.backup(copy.path, have, of=db)
    return [f"it was brought up to date from schema {have}; the copy as it was is kept as {kept}"]


def _level(path: Path) -> int:
    con = open_file(path, read_only=True, deadline=1.0)
    try:
        return migrate.level(con)
    finally:
        con.close()


def _unusable(health: Health, kept: Path, copy: Health | None) -> str:
    line = f"the copy {health.path} cannot be used: {health.detail}; it is kept as {kept}"
    return f"{line}: browserpool verify --salvage {kept} reads what the good one lacks" if copy else line


def _late(copy: Health) -> str:
    return f"the copy's latest rows are of {utc(copy.latest)}: rows of later than that"


def _best(db: Path) -> tuple[Health | None, list[tuple[Health, Path]]]:
    """The good copy with the latest rows, whenever its file was touched; each bad one, and where it is to be kept."""
    found = [examine(copy, checksum=True) for copy in existing_copies(db)]
    good = [health for health in found if health.ok]
    rejected = [(health, _kept(health.path)) for health in found if not health.ok]
    return max(good, key=lambda health: health.latest, default=None), rejected


def _set_aside(db: Path) -> Path:
    """Rename ``db`` and its write-ahead log; returns the new name."""
    if foreign(db) and not existing_copies(db):
        raise not_ours(db)
    aside = _kept(db)
    _move(db, aside)
    return aside


def _move(file: Path, aside: Path) -> None:
    for beside in _BESIDE:
        if (path := file.with_name(file.name + beside)).exists():
            path.replace(aside.with_name(aside.name + beside))
    file.replace(aside)


def _kept(file: Path) -> Path:
    """The name to keep ``file`` under."""
    return _unused(file.with_name(f"{file.name}{_CORRUPT}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"))


def _unused(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
