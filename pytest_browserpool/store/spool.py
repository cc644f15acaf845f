"""Rows that could not be written now: complete, checksummed JSON-lines files beside the history, merged
by any later writer.

A file holds one batch. It is written under a temporary name, synced and renamed, so whoever sees it sees
all of it;
no lock is needed, which matters because the usual reason for spooling is that a lock cannot be had.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.store import columns
from pytest_browserpool.values import Plain

SUFFIX = ".jsonl"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows that are written in one transaction. ``name`` is unique: a batch is never written twice."""

    name: str
    run_id: str
    rows: tuple[Plain, ...]


def pending(db: Path) -> list[Path]:
    """The spool files that wait beside ``db``, oldest first."""
    try:
        found = list(db.parent.glob(f"{_escape(db.name)}.spool-*{SUFFIX}"))
    except OSError:
        return []
    return sorted(found, key=_age)


def _age(path: Path) -> tuple[float, str]:
    try:
        return (path.stat().st_mtime, path.name)
    except FileNotFoundError:
        return (0.0, path.name)


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def place_of(db: Path, name: str) -> Path:
    """The spool file of the batch ``name``, whether it is there or not."""
    return db.with_name(f"{db.name}.spool-{name}{SUFFIX}")


def write(db: Path, batch: Batch) -> Path:
    """Store ``batch`` durably beside ``db``.

    Raises:
        OSError: the directory cannot be written, the disk is full.
    """
    db.parent.mkdir(parents=True, exist_ok=True)
    target = place_of(db, batch.name)
    partial = target.with_name(target.name + ".partial")
    lines = [_dump({"batch": batch.name, "run_id": batch.run_id, "rows": len(batch.rows)})]
    lines += [_dump(columns.to_json(row)) for row in batch.rows]
    body = "".join(lines).encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    digest = hashlib.sha256(body).hexdigest()
    try:
        with partial.open("wb") as file:
            file.write(body)
            file.write(_dump({"sha256": digest}).encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
    _sync_directory(db.parent)
    return target


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n"


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> Batch:
    """The batch in ``path``.

    Raises:
        HistoryError: the file is damaged.
        OSError: it cannot be read, or is gone because another writer merged it.
    """
    content = path.read_bytes()
    body, _, last = content.rstrip(b"\n").rpartition(b"\n")
    try:
        if json.loads(last)["sha256"] != hashlib.sha256(body + b"\n").hexdigest():
            raise HistoryError("the checksum differs", where=str(path))
        lines = [json.loads(line) for line in body.splitlines()]
        rows = tuple(columns.from_json(line) for line in lines[1:])
        return Batch(name=lines[0]["batch"], run_id=lines[0]["run_id"], rows=rows)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise HistoryError(f"not a complete spool file ({error})", where=str(path)) from error


def remove(paths: Iterable[Path]) -> None:
    """Delete merged spool files; one that is gone already is fine, one that stays is skipped by its name
    later.
    """
    for path in paths:
        with suppress(OSError):
            path.unlink()


def set_aside(path: Path) -> Path:
    """Rename a damaged spool file so that it is kept but not read again."""
    target = path.with_name(path.name + ".damaged")
    path.replace(target)
    return target


def collect(db: Path, but: Collection[str] = ()) -> tuple[Sequence[tuple[Path, Batch]], list[str]]:
    """Every readable batch that waits beside ``db``, with its file, and a line for each that is damaged
    (set aside). Batches named in ``but`` are left out: the caller has them in memory.
    """
    batches, notes = [], []
    known = {place_of(db, name) for name in but}
    for path in pending(db):
        if path in known:
            continue
        try:
            batches.append((path, read(path)))
        except FileNotFoundError:
            continue
        except HistoryError as error:
            kept = set_aside(path)
            notes.append(f"a spool file of the history was damaged ({error.what}); it is kept as {kept}")
    return batches, notes
