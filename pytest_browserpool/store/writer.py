"""The writer of a run's history: a thread that collects rows and flushes them, so that tests never wait
for the disk.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_browserpool.store.rows import RunCollector
from pytest_browserpool.values import Plain

if TYPE_CHECKING:
    from pytest_browserpool.store.connect import Opener
    from pytest_browserpool.store.flush import Flushed
    from pytest_browserpool.store.spool import Batch
    from pytest_browserpool.store.upkeep import Upkeep

MAX_HELD = 500_000
"""Rows kept in memory when neither the history nor a spool file can be written: about 0.5 GiB. More are
dropped, and said.
"""

COPY_INTERVAL = 60.0
"""Seconds between renewals of the copies, at least; the end of a run always makes one."""

COPY_SHARE = 50
"""A copy that took n seconds is not renewed for 50 n: a copy reads and writes the whole history, which
is seconds for a million operations, and must stay below 2 % of the run."""

EXAMINE_INTERVAL = 600.0
"""Seconds between readings of all blocks, at least, and ``COPY_SHARE`` times what one took; the first flush makes one.
Each copy is one as well, so these are for histories without copies, and for those whose copies take long."""

STORE_SHARE = 400
"""A flush that took n seconds is not followed by another for 400 n, so that flushes take a quarter of a per cent of the
run at most. What comes in between is as safe in a spool file, for a fiftieth of the time."""

STORE_LATEST = 6
"""Intervals between flushes, at most, however long they take: who asks the history about a run that goes on sees it as
it was half a minute ago."""

LOCK_DEADLINE = 10.0
"""Seconds that a flush waits for other writers and readers before its rows go to a spool file."""


@dataclass(kw_only=True)
class WriterStats:
    """What became of the rows so far."""

    stored: int = 0
    """Rows of this run in the history."""
    spooled: int = 0
    """Rows of this run written to spool files (and merged later, by this run or another)."""
    merged: int = 0
    """Rows from spool files, of any run, that this writer brought into the history."""
    lost: int = 0
    """Rows that are nowhere."""
    forgotten: int = 0
    """Runs that were older than they are kept."""
    flushes: int = 0
    seconds: float = 0.0
    """Time that the writer's thread spent writing."""


@dataclass(kw_only=True)
class _Queue:
    """What the thread and its callers share; guarded by ``changed``."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    rows: list[Plain] = field(default_factory=list)
    asked: int = 0
    """Number of commits asked for."""
    answered: int = 0
    """Number of the last commit that is done."""
    good: bool = True
    """Whether the last flush left nothing behind outside the history."""
    closing: bool = False
    ended: bool = False
    """Whether the thread is gone: nobody may wait for it any more."""


class HistoryWriter:
    """Writes the rows of one run to the DuckDB file at ``path``.

    ``add`` only appends to a list. Every ``interval`` seconds the thread makes what came safe: as a rule in a spool file,
    and every ``STORE_SHARE`` times as long as that takes, at ``commit()`` and at the end in the history: it opens the
    file, writes one transaction and closes it, so that other runs and a DuckDB shell get their turn. What the history
    does not take stays in its spool file, else in memory until it does; nothing here ever raises into a test.
    """

    def __init__(
        self,
        path: Path,
        run_id: str,
        *,
        copies: int = 2,
        interval: float = 5.0,
        lock_deadline: float = LOCK_DEADLINE,
        copy_interval: float = COPY_INTERVAL,
        keep_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``copies`` as in ``Settings.history_copies``: how many files hold the history, itself included. ``keep_s``:
        runs that began longer ago go at the end of this one; None keeps all."""
        self.path = Path(path)
        self.run_id = run_id
        self.warnings: list[str] = []
        """Lines for the terminal summary: what could not be kept, where it is, what was repaired."""
        self.stats = WriterStats()
        self.seen = RunCollector()
        """What was added so far, for the run's report."""
        self._copies = copies
        self._renewal = copy_interval
        """Seconds from one renewal of the copies to the next."""
        self._interval, self._lock_deadline, self._copy_interval = interval, lock_deadline, copy_interval
        self._monotonic, self._keep_s = monotonic, keep_s
        self._queue = _Queue()
        self._held: list[Batch] = []
        self._spooled: set[str] = set()
        """Names of held batches that are in spool files too."""
        self._unsecured: list[Batch] = []
        self._upkeep: Upkeep | None = None
        """What the history was told last: to compare it with what is there costs a millisecond a flush."""
        self._opener: Opener | None = None
        self._next_store = 0.0
        self._next_copy: float | None = None
        self._next_examination = 0.0
        self._number = 0
        self._said: set[str] = set()
        self._prefix = f"{re.sub(r'[^A-Za-z0-9.-]', '-', run_id)}-{time.time_ns():x}"
        self._thread = threading.Thread(target=self._work, name="browserpool-history", daemon=True)

    def start(self) -> None:
        """Start the thread. Rows added before are kept."""
        self._thread.start()

    def add(self, *rows: Plain) -> None:
        """Take ``rows`` (records) for the next flush. Returns at once, from any thread."""
        self.seen.add(rows)
        with self._queue.changed:
            self._queue.rows.extend(rows)

    def commit(self, timeout: float = 30.0) -> bool:
        """Flush what was added before this call and wait for it, at most ``timeout`` seconds.

        Returns whether all of it is in the history now (not only in a spool file or in memory).
        """
        with self._queue.changed:
            if not self._thread.is_alive():
                return False
            self._queue.asked += 1
            mine = self._queue.asked
            self._queue.changed.notify_all()
            self._queue.changed.wait_for(lambda: self._queue.answered >= mine or self._queue.ended, timeout)
            return self._queue.answered >= mine and self._queue.good

    def close(self, timeout: float = 60.0) -> None:
        """Flush, renew the copies, and end the thread; waits at most ``timeout`` seconds. Later calls do
        nothing.
        """
        with self._queue.changed:
            self._queue.closing = True
            self._queue.changed.notify_all()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._warn(
                f"the history {self.path} was still being written after {timeout:g} s: rows may be missing"
            )

    # -- the thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._flush_until_closed()
        finally:
            if self._opener is not None:
                self._opener.close()
            with self._queue.changed:
                self._queue.ended = True
                self._queue.changed.notify_all()

    def _flush_until_closed(self) -> None:
        while True:
            with self._queue.changed:
                self._queue.changed.wait_for(
                    lambda: self._queue.closing or self._queue.asked > self._queue.answered, self._interval
                )
                rows, self._queue.rows = self._queue.rows, []
                asked, closing = self._queue.asked, self._queue.closing
                committing = closing or asked > self._queue.answered
            good = self._flush(rows, committing=committing, closing=closing)
            with self._queue.changed:
                self._queue.answered, self._queue.good = asked, good
                self._queue.changed.notify_all()
                if closing and not self._queue.rows:
                    return

    def _flush(self, rows: list[Plain], *, committing: bool, closing: bool) -> bool:
        """Bring everything that waits into the history; returns whether nothing is left outside it."""
        if rows:
            self._held.append(self._batch(rows))
        copies = self._copies_due(closing=closing)
        if not self._held and not copies and not (closing and self._keep_s is not None):
            return True
        if not (committing or copies) and self._monotonic() < self._next_store and self._spool_held():
            return True
        started = self._monotonic()
        try:
            return self._store(copies, closing=closing)
        except Exception as error:  # noqa: BLE001  whatever it is, the tests go on and the rows are kept
            return self._keep(error, closing=closing)
        finally:
            took = self._monotonic() - started
            self.stats.flushes += 1
            self.stats.seconds += took
            self._next_store = self._monotonic() + min(STORE_LATEST * self._interval, STORE_SHARE * took)

    def _spool_held(self) -> bool:
        """Make what waits safe without the history; whether that was possible."""
        from pytest_browserpool.store import spool

        try:
            for batch in self._held:
                if batch.name not in self._spooled:
                    spool.write(self.path, batch)
                    self._spooled.add(batch.name)
        except (OSError, TypeError, ValueError):
            return False  # the flush that follows finds out what is wrong, and says so
        return True

    def _store(self, copies: bool, *, closing: bool) -> bool:
        from pytest_browserpool.store import integrity
        from pytest_browserpool.store.connect import Opener, Trouble, trouble
        from pytest_browserpool.store.flush import flush
        from pytest_browserpool.store.upkeep import Upkeep

        started = self._monotonic()
        opener = self._opener = self._opener or Opener()
        targets = integrity.copies_of(self.path, self._copies) if copies else []
        too_old = time.time() - self._keep_s if closing and self._keep_s is not None else None
        examined = not targets and (closing or started >= self._next_examination)

        # a renewal that is due waits for the next interval
        upkeep = Upkeep(files=self._copies, renewed_every_s=math.ceil(self._renewal + self._interval))

        def write() -> Flushed:
            return flush(
                self.path,
                self._held,
                unsecured=self._unsecured,
                copies=targets,
                examined=examined,
                upkeep=upkeep if upkeep != self._upkeep else None,
                forget_before=too_old,
                deadline=self._lock_deadline,
                opener=opener,
            )

        try:
            done = write()
        except Exception as error:
            if trouble(error) is not Trouble.DEFECT or not self._drop_defective():
                raise
            done = write()
        self._upkeep = upkeep
        took = self._monotonic() - started
        if examined or targets:
            self._next_examination = self._monotonic() + max(EXAMINE_INTERVAL, COPY_SHARE * took)
        self._account(done, took)
        return True

    def _account(self, done: Flushed, took: float) -> None:
        self.stats.stored += sum(len(batch.rows) for batch in self._held)  # another run may have merged some
        self.stats.merged += done.merged
        self.stats.forgotten += done.forgotten
        for note in done.notes:
            self._warn(note)
        self._tell_of_earlier_copies()
        if done.copied:
            self._unsecured = []
            self._renewal = max(self._copy_interval, COPY_SHARE * took)
            self._next_copy = self._monotonic() + self._renewal
        elif self._copies > 1:
            self._unsecured += self._held
            if done.copies_due is not None and self._next_copy is not None:
                wait = max(0.0, done.copies_due - time.time())
                self._next_copy = min(self._next_copy, self._monotonic() + wait)
        self._held = []
        self._spooled.clear()

    def _tell_of_earlier_copies(self) -> None:
        from pytest_browserpool.store import integrity

        for copy in integrity.earlier_copies(self.path, self._copies):
            self._warn(
                f"{copy} is a copy of the history that --browserpool-history-copies {self._copies} no longer renews, "
                f"last renewed {integrity.renewed(copy)}; a repair would use it where nothing newer is left: "
                f"remove it, or ask for {integrity.number_of(copy) + 1} copies",
                once=f"earlier {copy}",
            )

    def _keep(self, error: Exception, *, closing: bool) -> bool:
        """The history could not be written: spool the rows, or hold them, or say that they are lost."""
        from pytest_browserpool.store import spool

        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        try:
            for batch in list(self._held):
                written = batch.name in self._spooled
                kept = spool.place_of(self.path, batch.name) if written else spool.write(self.path, batch)
                self._held.remove(batch)
                self._spooled.discard(batch.name)
                self.stats.spooled += len(batch.rows)
                self._warn(
                    f"the history {self.path} cannot be written now ({reason}); rows wait in {kept.parent} "
                    f"as {self.path.name}.spool-*; the next run that can write the history takes them in",
                    once="spooled",
                )
        except (OSError, TypeError, ValueError) as second:
            self._warn(
                f"the history {self.path} cannot be written ({reason}), "
                f"nor can rows be kept beside it ({second}); the tests go on without it",
                once="unwritable",
            )
            self._give_up_what_is_too_much(everything=closing)
        return False

    def _give_up_what_is_too_much(self, *, everything: bool) -> None:
        held = sum(len(batch.rows) for batch in self._held)
        while self._held and (everything or held > MAX_HELD):
            gone = len(self._held.pop(0).rows)
            held -= gone
            self.stats.lost += gone
        if everything and self.stats.lost:
            self._warn(
                f"{self.stats.lost} rows of this run's history are LOST: {self.path} could not be written"
            )

    def _drop_defective(self) -> bool:
        """Take rows that no database could store out of what waits; returns whether there were any."""
        from pytest_browserpool.store import columns
        from pytest_browserpool.store.spool import Batch

        kept, before = [], self.stats.lost
        for batch in self._held:
            sound = []
            for row in batch.rows:
                if (defect := columns.defect_of(row)) is None:
                    sound.append(row)
                else:
                    self.stats.lost += 1
                    self._warn(f"a row was left out of the history: {defect}", once=f"defect {defect}")
            kept.append(Batch(name=batch.name, run_id=batch.run_id, rows=tuple(sound)))
        self._held = kept
        return self.stats.lost > before

    def _batch(self, rows: list[Plain]) -> Batch:
        from pytest_browserpool.store.spool import Batch

        self._number += 1
        return Batch(name=f"{self._prefix}-{self._number:06d}", run_id=self.run_id, rows=tuple(rows))

    def _copies_due(self, *, closing: bool) -> bool:
        forgets = closing and self._keep_s is not None
        if self._copies < 2 or not (self._held or self._unsecured or forgets):
            return False
        if (
            self._next_copy is None
        ):  # the first flush reads all blocks of what is there, and writes none of them
            self._next_copy = self._monotonic() + self._copy_interval
            return closing or self._copy_interval == 0
        return closing or self._monotonic() >= self._next_copy

    def _warn(self, line: str, once: str | None = None) -> None:
        if once is not None:
            if once in self._said:
                return
            self._said.add(once)
        self.warnings.append(line)
