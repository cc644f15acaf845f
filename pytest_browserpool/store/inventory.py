"""What lies there of a history: the file, each copy that should be, and those of an earlier setting; what each holds, and
what it lacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.store import integrity
from pytest_browserpool.store.connect import READ_DEADLINE, open_file
from pytest_browserpool.store.integrity import Health
from pytest_browserpool.store.upkeep import Upkeep, recorded

GOOD = ("ok", "due")
"""States that are as they should be."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a history knows of a batch that it has taken."""

    run_id: str
    rows: int
    written_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One file of the history."""

    path: Path
    state: str
    """``ok``; ``due``: a copy that was not to be made yet; ``missing``; ``damaged``; ``unreadable``: busy or out of reach;
    ``stale``: a copy that lacks rows which it should have by now; ``unchecked``: a copy without its checksum file.
    """
    detail: str
    expected: bool = True
    """False for a copy that is not kept any more."""
    rows: int = 0
    runs: int = 0
    lacks: int | None = None
    """Rows that the history has taken and the copy has not; None where that cannot be told."""

    @property
    def ok(self) -> bool:
        return self.state in GOOD


@dataclass(frozen=True, kw_only=True)
class Stock:
    """All of it."""

    files: tuple[Found, ...]
    """The history first, then its copies."""
    wanted: int
    """How many files should hold the history, itself included."""
    told_by: str
    """Who says so: ``option``, ``history``, or ``default`` where no run has recorded it."""

    @property
    def ok(self) -> bool:
        """Whether every file that should be there is as it should be."""
        return all(file.ok for file in self.files if file.expected)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A file that was opened and read."""

    health: Health
    upkeep: Upkeep | None = None
    batches: Mapping[str, Batch] | None = None
    """None where the file does not tell."""


def take_stock(db: Path, files: int | None = None, deadline: float = READ_DEADLINE) -> Stock:
    """Read every block of the history ``db`` and of its copies, and compare them. ``files`` says how many files should
    hold the history; None: as the last run had it. ``deadline`` is in seconds, for each file that is busy.
    """
    main = _read(db, checksum=False, deadline=deadline)
    copies = {path: _read(path, checksum=True, deadline=deadline) for path in integrity.existing_copies(db)}
    upkeep, told_by = _upkeep(main, copies)
    if files is not None:
        told_by = "option" if files != upkeep.files else told_by
        upkeep = dataclasses.replace(upkeep, files=files)
    found = [_history(main)]
    for path in integrity.copies_of(db, upkeep.files):
        read = copies.pop(path, None)
        found.append(_judge(read, main, upkeep) if read else _absent(path, main, upkeep))
    found += [_earlier(read, main) for read in copies.values()]
    return Stock(files=tuple(found), wanted=upkeep.files, told_by=told_by)


def _read(path: Path, *, checksum: bool, deadline: float) -> _Read:
    if not path.exists():
        return _Read(health=Health(path=path, ok=False, detail="missing"))
    health = integrity.examine(path, checksum=checksum, deadline=deadline)
    try:
        con = open_file(path, read_only=True, deadline=deadline)
    except (duckdb.Error, OSError):
        return _Read(health=health)
    try:
        try:
            upkeep = recorded(con)
        except duckdb.Error:  # an older schema; what it lacks can be told nevertheless
            upkeep = None
        return _Read(health=health, upkeep=upkeep, batches=batches_of(con))
    except (duckdb.Error, HistoryError):
        return _Read(health=health, upkeep=upkeep)
    finally:
        con.close()


def batches_of(con: duckdb.DuckDBPyConnection, catalog: str = "history") -> dict[str, Batch]:
    """Name → every batch that the open history ``catalog`` has taken.

    Raises:
        duckdb.Error: that is damaged, or there is none.
    """
    rows = con.execute(f'SELECT batch, run_id, "rows", written_at FROM {catalog}.batches').fetchall()
    return {row[0]: Batch(run_id=row[1], rows=row[2], written_at=row[3]) for row in rows}


def _upkeep(main: _Read, copies: Mapping[Path, _Read]) -> tuple[Upkeep, str]:
    """What the history says, else the copy with the latest rows."""
    latest = sorted(copies.values(), key=lambda read: _latest(read.batches), reverse=True)
    for read in (main, *latest):
        if read.upkeep is not None:
            return read.upkeep, "history"
    return Upkeep(), "default"


def _latest(batches: Mapping[str, Batch] | None) -> float:
    return max((batch.written_at for batch in (batches or {}).values()), default=0.0)


def _found(
    health: Health, state: str, detail: str, *, lacks: int | None = None, expected: bool = True
) -> Found:
    return Found(
        path=health.path,
        state=state,
        detail=detail,
        rows=health.rows,
        runs=health.runs,
        lacks=lacks,
        expected=expected,
    )


def _history(read: _Read) -> Found:
    health = read.health
    missing = not health.path.exists()
    return _found(health, "ok" if health.ok else "missing" if missing else _broken(health), health.detail)


def _broken(health: Health) -> str:
    return "damaged" if health.damaged else "unreadable"


def _absent(path: Path, main: _Read, upkeep: Upkeep) -> Found:
    due = upkeep.since + upkeep.renewed_every_s
    if main.batches and upkeep.renewed_at is None and _latest(main.batches) < due:
        return Found(
            path=path,
            state="due",
            detail=f"not made yet: the first was due at {integrity.utc(due)}, or when a run ends",
        )
    return Found(path=path, state="missing", detail="missing")


def _lacking(read: _Read, main: _Read) -> list[Batch] | None:
    if main.batches is None or read.batches is None:
        return None
    return [batch for name, batch in main.batches.items() if name not in read.batches]


def _compared(read: _Read, main: _Read) -> tuple[int | None, str]:
    """How many rows the copy lacks, and in words."""
    lacking = _lacking(read, main)
    if lacking is None:
        return None, "cannot be compared with the history"
    if not lacking:
        return 0, "has all that the history has"
    since = integrity.utc(min(batch.written_at for batch in lacking))
    rows = sum(batch.rows for batch in lacking)
    return rows, f"lacks {rows} rows of {len({b.run_id for b in lacking})} runs, written since {since}"


def _judge(read: _Read, main: _Read, upkeep: Upkeep) -> Found:
    """A copy that should be there and is."""
    health = read.health
    if not health.ok:
        return _found(health, _broken(health), health.detail)
    lacks, words = _compared(read, main)
    detail = f"{health.detail}; {words}"
    lacking = _lacking(read, main)
    oldest = min((batch.written_at for batch in lacking or ()), default=None)
    if oldest is not None and _latest(main.batches) - oldest > upkeep.renewed_every_s:
        detail += f", although a run renews it every {upkeep.renewed_every_s:g} s"
        return _found(health, "stale", detail, lacks=lacks)
    if not integrity.has_checksum(health.path):
        return _found(health, "unchecked", f"{detail}; its checksum file is missing", lacks=lacks)
    return _found(health, "ok", detail, lacks=lacks)


def _earlier(read: _Read, main: _Read) -> Found:
    """A copy of a time when more were kept."""
    health = read.health
    if not health.ok:
        return _found(health, _broken(health), health.detail, expected=False)
    lacks, words = _compared(read, main)
    detail = f"{health.detail}, the latest of {integrity.utc(health.latest)}; {words}"
    return _found(health, "stale" if lacks else "ok", detail, lacks=lacks, expected=False)
