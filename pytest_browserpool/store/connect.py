"""Opening the history file: what a failure means, and how long to wait for somebody else's lock."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import filelock
import tenacity

from pytest_browserpool.errors import HistoryError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

READ_DEADLINE = 15.0
"""Seconds that a reader waits for a writer: a writer holds the file for a fraction of a second at each flush,
and for a second or two while it copies a history of a million operations."""

MAGIC = b"DUCK"
MAGIC_AT = 8
"""DuckDB's file format: an 8-byte checksum, then the magic bytes."""

_BUSY = (
    "could not set lock",
    "conflicting lock",
    "different configuration than existing",
    "being used by another process",
    "unique file handle conflict",  # another thread of this process has it
)
_CORRUPT = (
    "corrupt",
    "not a valid duckdb",
    "could not read enough bytes",
    "computed checksum",
    "failed to deserialize",
    "serialization error",
    "failure while replaying wal",
    "has been invalidated",
    "attempted to access index",
    "out of range",
)


class Trouble(enum.Enum):
    """What kind of failure DuckDB reported."""

    BUSY = "busy"
    """Another process has the file open, or another thread of this one."""
    CORRUPT = "corrupt"
    """The bytes of the file are damaged."""
    UNAVAILABLE = "unavailable"
    """The file cannot be read or written: permissions, a full disk, a directory in its place."""
    DEFECT = "defect"
    """Neither of those: a row or a statement is wrong."""


def trouble(error: BaseException) -> Trouble:
    """What ``error``, raised by DuckDB or the file system, means. The messages are the only thing DuckDB
    tells apart.
    """
    text = str(error).lower()
    if isinstance(error, (HistoryError, OSError, filelock.Timeout)):
        return Trouble.BUSY if isinstance(error, filelock.Timeout) else Trouble.UNAVAILABLE
    if any(words in text for words in _BUSY):
        return Trouble.BUSY
    if isinstance(
        error, (duckdb.ConstraintException, duckdb.ConversionException, duckdb.InvalidInputException)
    ):
        return Trouble.DEFECT
    if any(words in text for words in _CORRUPT) or isinstance(
        error, (duckdb.InternalException, duckdb.FatalException)
    ):
        return Trouble.CORRUPT
    if isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.PermissionException)):
        return Trouble.UNAVAILABLE
    return Trouble.DEFECT


CATALOG = "history"
"""What the file is called in a connection; its tables and views need no such prefix."""

ROW_GROUP = 20_480
"""Rows that are compressed together. Each flush compresses the last group anew: with DuckDB's 122,880 that took 2.6 times
as long for batches of 20,000 rows and made the file twice as large, measured."""

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,  # the work is small, and tests need the cores
    # for new files: with the default of 262144 a small history is ten times as large, a big one no smaller
    "default_block_size": "16384",
    "autoinstall_known_extensions": False,  # nothing of ours needs one: no surprise download
    "autoload_known_extensions": False,
}


def open_file(path: Path, *, read_only: bool, deadline: float) -> DuckDBPyConnection:
    """A connection to ``path`` of its own; waits up to ``deadline`` seconds while another process has it.

    Raises:
        duckdb.Error: as DuckDB raised it last; ``trouble`` says what it means.
    """
    con = _instance()
    try:
        _attach(con, path, read_only=read_only, deadline=deadline)
    except BaseException:
        con.close()
        raise
    return con


class Opener:
    """Opens the history for writing again and again with one instance of DuckDB: to make one takes as long as a small
    flush, 17 ms. Between ``open`` and ``release`` the file is ours, at other times it is free. For one thread.
    """

    def __init__(self) -> None:
        self._con: DuckDBPyConnection | None = None

    def open(self, path: Path, deadline: float) -> DuckDBPyConnection:
        """A connection to ``path``, the only one until ``release``; waits up to ``deadline`` seconds for the file.

        Raises:
            duckdb.Error: as DuckDB raised it last; ``trouble`` says what it means.
        """
        if self._con is None:
            self._con = _instance()
        try:
            _attach(self._con, path, read_only=False, deadline=deadline)
        except BaseException:
            self.close()
            raise
        return self._con

    def release(self) -> None:
        """Write back what is in the log, and let go of the file.

        Raises:
            duckdb.Error: that failed. The file is free nevertheless, and its log is kept.
        """
        assert self._con is not None, "nothing is open"
        try:
            self._con.execute("USE memory")
            self._con.execute(f"DETACH {CATALOG}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the instance up, with whatever it has open: after an error its state is not to be trusted."""
        con, self._con = self._con, None
        if con is not None:
            # what close() reports (a checkpoint that fails) must not hide the error that is under way
            with suppress(duckdb.Error):
                con.close()


def _instance() -> DuckDBPyConnection:
    return duckdb.connect(":memory:", config=dict(_CONFIG))


def _attach(con: DuckDBPyConnection, path: Path, *, read_only: bool, deadline: float) -> None:
    """Attached rather than opened: only then can the size of row groups be given."""
    quoted = str(path).replace("'", "''")  # a path is no parameter of ATTACH
    mode = "READ_ONLY, " if read_only else ""
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda e: trouble(e) is Trouble.BUSY),
        wait=tenacity.wait_random_exponential(multiplier=0.02, max=0.5),
        stop=tenacity.stop_after_delay(deadline),
        reraise=True,
    )
    statement = f"ATTACH '{quoted}' AS {CATALOG} ({mode}TYPE duckdb, ROW_GROUP_SIZE {ROW_GROUP})"
    retry(con.execute, statement)
    con.execute(f"USE {CATALOG}")


def foreign(path: Path) -> bool:
    """Whether ``path`` has something in it that DuckDB never wrote, such as a text somebody named by mistake."""
    with path.open("rb") as file:
        head = file.read(MAGIC_AT + len(MAGIC))
    return bool(head) and head[MAGIC_AT:] != MAGIC


def blank(path: Path) -> bool:
    """Whether ``path`` is a file without a byte, as ``mktemp`` makes it: DuckDB opens none such."""
    return path.is_file() and path.stat().st_size == 0


def not_ours(path: Path) -> HistoryError:
    """What to raise for a ``foreign`` file."""
    remedy = "give --browserpool-db (or --db) another path"
    return HistoryError(f"{path.name} is not a DuckDB file", where=str(path), remedy=remedy)


@contextmanager
def writers_turn(path: Path, deadline: float) -> Iterator[None]:
    """Hold ``PATH.lock``, which writers take one after the other; waits up to ``deadline`` seconds.

    Raises:
        filelock.Timeout: another writer held it all that time.
        OSError: the lock file cannot be made.
    """
    lock = filelock.FileLock(str(path) + ".lock", timeout=deadline)
    with lock:
        yield


@contextmanager
def reading(path: Path, deadline: float = READ_DEADLINE) -> Iterator[DuckDBPyConnection]:
    """A read-only connection to the history at ``path``.

    Raises:
        HistoryError: there is no history, it is damaged, busy for too long, or of another version.
    """
    from pytest_browserpool.store import migrate

    if not path.exists() or blank(path):
        raise HistoryError(
            "there is no history",
            where=str(path),
            remedy="run pytest --browserpool first, or name the file with --db",
        )
    if path.is_file() and foreign(path):
        raise not_ours(path)
    try:
        con = open_file(path, read_only=True, deadline=deadline)
    except (duckdb.Error, OSError) as error:
        raise HistoryError(_first_line(error), where=str(path), remedy=_REMEDIES[trouble(error)]) from error
    try:
        if not migrate.is_current(con):
            level = migrate.level(con)
            raise HistoryError(
                f"the history has the older schema {level}" if level else "the file is an empty database",
                where=str(path),
                remedy="the next pytest --browserpool (or browserpool verify --repair) brings it up to date",
            )
        yield con
    except duckdb.Error as error:
        raise HistoryError(_first_line(error), where=str(path), remedy=_REMEDIES[trouble(error)]) from error
    finally:
        con.close()


_REMEDIES = {
    Trouble.BUSY: "another process (or thread) has it open for writing: close it, or try again",
    Trouble.CORRUPT: "browserpool verify --repair sets it aside and restores the good copy",
    Trouble.UNAVAILABLE: "check the path, its permissions and the free space",
    Trouble.DEFECT: "this is a defect of pytest-browserpool; please report it",
}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
