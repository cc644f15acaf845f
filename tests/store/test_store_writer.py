"""The writer: what it keeps when the file is free, held, out of reach or damaged, and when its process is
killed.
"""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import history_samples as samples
import pytest
from waiting import until

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import MetricRecord, TestRecord
from pytest_browserpool.store import connect, integrity, queries, spool
from pytest_browserpool.store import writer as writer_module
from pytest_browserpool.store.writer import HistoryWriter

PROCESS = Path(__file__).with_name("history_process.py")


def child(db: Path, run_id: str, batches: int, rows: int, interval: float = 5.0) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROCESS), str(db), run_id, str(batches), str(rows), str(interval)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def numbers(db: Path, run_id: str) -> list[float]:
    with connect.reading(db) as con:
        return [r[0] for r in con.execute("SELECT value FROM metrics WHERE run_id = ?", [run_id]).fetchall()]


def count(db: Path, table: str) -> int:
    with connect.reading(db) as con:
        row = con.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


def test_rows_are_there_after_commit_and_the_file_is_free(db: Path) -> None:
    writer = HistoryWriter(db, "run-1")
    writer.start()
    writer.add(*samples.a_run())
    assert writer.commit()
    con = duckdb.connect(str(db), read_only=True)  # as a user's shell would, while the run goes on
    assert con.execute("SELECT count(*) FROM operations").fetchone() == (4,)
    con.close()
    writer.close()
    assert writer.warnings == []
    assert writer.stats.stored == len(samples.a_run())


def test_rows_are_flushed_without_commit(db: Path) -> None:
    writer = HistoryWriter(db, "run-1", interval=0.05)
    writer.start()
    writer.add(samples.run())
    until = time.monotonic() + 10
    while writer.stats.stored < 1 and time.monotonic() < until:
        time.sleep(0.02)
    assert count(db, "runs") == 1
    writer.close()


def test_between_flushes_rows_are_safe_in_spool_files_and_then_in_the_history_once(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "STORE_LATEST", 1e6)
    monkeypatch.setattr(writer_module, "STORE_SHARE", 1e6)
    writer = HistoryWriter(db, "run-1", interval=0.05)
    writer.start()
    writer.add(samples.run())
    until(lambda: writer.stats.flushes == 1, "the first flush goes to the history at once")
    writer.add(samples.operation(0))
    until(lambda: len(spool.pending(db)) == 1, "a spool file")
    writer.add(samples.operation(1), samples.operation(2))
    until(lambda: len(spool.pending(db)) == 2, "another spool file")
    assert writer.stats.flushes == 1
    assert (count(db, "runs"), count(db, "operations")) == (1, 0)
    writer.add(samples.operation(3))
    assert writer.commit()
    assert (count(db, "runs"), count(db, "operations")) == (1, 4)
    assert spool.pending(db) == []
    writer.close()
    assert (writer.stats.stored, writer.stats.spooled, writer.warnings) == (5, 0, [])


def test_a_run_that_goes_on_is_in_the_history_after_six_intervals(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "STORE_SHARE", 1e6)
    writer = HistoryWriter(db, "run-1", interval=0.2)
    writer.start()
    writer.add(samples.run())
    until(lambda: writer.stats.stored == 1, "the first flush")
    writer.add(samples.operation(1))
    until(lambda: writer.stats.stored == 2, "the second flush, without being asked for")
    writer.close()


def test_a_spool_file_of_a_run_that_goes_on_may_be_merged_by_another_run(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "STORE_LATEST", 1e6)
    monkeypatch.setattr(writer_module, "STORE_SHARE", 1e6)
    writer = HistoryWriter(db, "run-1", interval=0.05)
    writer.start()
    writer.add(samples.run())
    until(lambda: writer.stats.flushes == 1, "the first flush")
    metric = MetricRecord(run_id="run-1", node="gw0", at=1.0, name="n", value=1.0)
    writer.add(metric)  # without a key: written twice it would be there twice
    until(lambda: len(spool.pending(db)) == 1, "a spool file")
    other = HistoryWriter(db, "run-2")
    other.start()
    other.add(samples.run("run-2"))
    other.close()
    assert other.stats.merged == 1
    assert spool.pending(db) == []
    assert writer.commit()
    writer.close()
    assert numbers(db, "run-1") == [1.0]
    assert (writer.stats.stored, writer.warnings) == (2, [])


def test_what_a_killed_run_had_spooled_comes_with_the_next(db: Path) -> None:
    process = child(db, "run-1", batches=-1, rows=20, interval=0.05)
    until(lambda: len(spool.pending(db)) >= 3, "spool files of the child")
    os.kill(process.pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    safe = len(spool.pending(db))
    before = len(numbers(db, "run-1"))
    after = HistoryWriter(db, "run-2")
    after.start()
    after.add(samples.run("run-2"))
    after.close()
    stored = numbers(db, "run-1")
    assert len(stored) >= before + safe
    assert sorted(stored) == list(range(len(stored))), "each once, none left out"
    assert (spool.pending(db), after.warnings, out) == ([], [], "")


def test_adding_never_waits_for_the_file(db: Path) -> None:
    holder = duckdb.connect(str(db))
    writer = HistoryWriter(db, "run-1", interval=0.05, lock_deadline=5.0)
    writer.start()
    started = time.monotonic()
    for number in range(1000):
        writer.add(samples.operation(number))
        time.sleep(0 if number % 100 else 0.01)
    assert time.monotonic() - started < 2.0
    holder.close()
    db.unlink()
    writer.close()


def test_two_processes_at_once_lose_nothing(db: Path) -> None:
    pair = [child(db, f"run-{i}", batches=25, rows=40, interval=0.02) for i in (1, 2)]
    for process in pair:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "warning" not in out
    for i in (1, 2):
        assert sorted(numbers(db, f"run-{i}")) == [float(n) for n in range(1000)]
    assert integrity.examine(db).ok


def test_rows_of_a_killed_process_that_were_committed_are_there(db: Path) -> None:
    chance = random.Random(20240501)
    for attempt in range(10):
        process = child(db, f"run-{attempt}", batches=1000, rows=20, interval=0.05)
        assert process.stdout is not None
        committed = -1
        last = chance.randrange(1, 8)
        for line in process.stdout:
            committed = int(line)
            if committed >= last:
                break
        time.sleep(chance.random() * 0.05)
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate(timeout=30)
        committed = max([committed, *(int(line) for line in rest.split())])
        stored = Counter(numbers(db, f"run-{attempt}"))
        assert all(stored[float(n)] == 1 for n in range((committed + 1) * 20)), (attempt, committed)
        assert set(stored.values()) == {1}
    writer = HistoryWriter(db, "after")
    writer.start()
    writer.add(samples.run("after"))
    assert writer.commit()
    writer.close()
    assert writer.warnings == []
    assert integrity.examine(db).ok


def test_a_file_that_somebody_holds_sends_rows_to_a_spool_that_the_next_run_merges(db: Path) -> None:
    setup = HistoryWriter(db, "run-0")
    setup.start()
    setup.add(samples.run("run-0"))
    setup.close()
    holder = duckdb.connect(str(db))
    code = f"""
import sys
sys.path.insert(0, {str(PROCESS.parent)!r})
import history_samples as samples
from pathlib import Path
from pytest_browserpool.store.writer import HistoryWriter
w = HistoryWriter(Path({str(db)!r}), "run-1", lock_deadline=0.3)
w.start()
w.add(*samples.a_run())
assert not w.commit()
w.close()
assert w.stats.spooled == len(samples.a_run()) and w.stats.lost == 0, w.stats
print(*w.warnings, sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1  # said once, however many flushes failed
    assert str(db) in done.stdout
    assert "Conflicting lock" in done.stdout
    assert len(spool.pending(db)) == 1
    holder.close()

    after = HistoryWriter(db, "run-2")
    after.start()
    after.add(samples.run("run-2"))
    assert after.commit()
    after.close()
    assert after.stats.merged == len(samples.a_run())
    assert spool.pending(db) == []
    assert count(db, "runs") == 3
    assert count(db, "operations") == 4


def test_a_spool_file_whose_merger_died_before_it_removed_it_counts_once(db: Path) -> None:
    batch = spool.Batch(name="run-1-x", run_id="run-1", rows=tuple(samples.a_run()))
    for _ in range(2):
        spool.write(db, batch)
        writer = HistoryWriter(db, "run-2")
        writer.start()
        writer.add(samples.run("run-2"))
        writer.close()
    assert count(db, "faults") == 1
    assert count(db, "metrics") == 1


def test_a_reader_in_the_same_process_is_waited_for(db: Path) -> None:
    """As the scheduler reads the history of earlier runs while the first rows of this one are written."""
    first = HistoryWriter(db, "run-1")
    first.start()
    first.add(samples.run("run-1"))
    first.close()
    writer = HistoryWriter(db, "run-2", interval=60.0, lock_deadline=10.0)
    writer.start()
    writer.add(samples.run("run-2"))
    with connect.reading(db):
        assert not writer.commit(timeout=0.5)
    assert writer.commit(timeout=10.0)
    writer.close()
    assert writer.warnings == []
    own = connect.open_file(db, read_only=False, deadline=1.0)
    with pytest.raises(HistoryError, match="Unique file handle conflict") as caught, connect.reading(db, 0.2):
        pass
    own.close()
    assert "close it, or try again" in str(caught.value)


def test_a_damaged_spool_file_is_kept_and_said_and_blocks_nothing(db: Path) -> None:
    path = spool.write(db, spool.Batch(name="bad", run_id="run-1", rows=tuple(samples.a_run())))
    path.write_bytes(path.read_bytes()[:-40])
    spool.write(db, spool.Batch(name="good", run_id="run-1", rows=tuple(samples.a_run())))
    writer = HistoryWriter(db, "run-2")
    writer.start()
    writer.add(samples.run("run-2"))
    assert writer.commit()
    writer.close()
    assert len(writer.warnings) == 1
    assert "damaged" in writer.warnings[0]
    assert path.with_name(path.name + ".damaged").exists()
    assert count(db, "operations") == 4


def test_a_row_of_a_wrong_type_is_left_out_and_said(db: Path) -> None:
    writer = HistoryWriter(db, "run-1")
    writer.start()
    wrong = TestRecord(
        run_id="run-1", nodeid="a", node="gw0", outcome="passed", started_at="noon", duration_s=1.0
    )  # type: ignore[arg-type]
    right = TestRecord(run_id="run-1", nodeid="b", node="gw0", outcome="passed", started_at=1, duration_s=1.0)
    writer.add(wrong, right)
    assert writer.commit()
    writer.close()
    assert count(db, "tests") == 1
    assert len(writer.warnings) == 1
    assert "'noon'" in writer.warnings[0]


UNWRITABLE = """
import os, sys
sys.path.insert(0, {here!r})
import history_samples as samples
from pathlib import Path
from pytest_browserpool.store.writer import HistoryWriter

def write(db):
    w = HistoryWriter(Path(db), "run-1", interval=0.05, lock_deadline=0.3)
    w.start()
    w.add(*samples.a_run())
    w.commit()
    w.add(samples.operation(99))
    w.close()
    return w

assert write({elsewhere!r}).warnings == []  # imports all: another user may not read the interpreter
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)  # root may write anywhere
w = write({db!r})
assert w.stats.lost == len(samples.a_run()) + 1, w.stats
print(*w.warnings, sep="\\n")
"""


def test_a_directory_that_cannot_be_written_costs_the_history_and_says_so(tmp_path: Path) -> None:
    directory = tmp_path / "closed"
    directory.mkdir()
    directory.chmod(stat.S_IRUSR | stat.S_IXUSR)
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    places = {
        "db": str(directory / "history.duckdb"),
        "elsewhere": str(tmp_path / "first" / "history.duckdb"),
    }
    code = UNWRITABLE.format(here=str(PROCESS.parent), **places)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2, lines
    assert "Permission denied" in lines[0]
    assert f"{len(samples.a_run()) + 1} rows of this run's history are LOST" in lines[1]


def test_a_parent_that_is_a_file_costs_the_history_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = HistoryWriter(tmp_path / "file" / "history.duckdb", "run-1")
    writer.start()
    writer.add(samples.run())
    assert not writer.commit()
    writer.close()
    assert writer.stats.lost == 1
    assert any("LOST" in line for line in writer.warnings)


def test_rows_held_in_memory_are_written_when_the_directory_comes_back(tmp_path: Path) -> None:
    blocker = tmp_path / "place"
    blocker.write_text("in the way")
    db = blocker / "history.duckdb"
    writer = HistoryWriter(db, "run-1", interval=0.05)
    writer.start()
    writer.add(*samples.a_run())
    assert not writer.commit()
    blocker.unlink()
    assert writer.commit()
    writer.close()
    assert writer.stats.lost == 0
    assert count(db, "operations") == 4


def test_the_writer_can_be_closed_twice_and_asked_after(db: Path) -> None:
    writer = HistoryWriter(db, "run-1")
    writer.start()
    writer.close()
    writer.close()
    assert not writer.commit()
    with pytest.raises(Exception, match="there is no history"), connect.reading(db) as con:
        queries.latest_runs(con)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MiB: one is full with an empty history and its copy."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_costs_only_what_did_not_fit(small_disk: Path) -> None:
    db = small_disk / "history.duckdb"
    writer = HistoryWriter(db, "run-1", interval=0.05, lock_deadline=0.5)
    writer.start()
    writer.add(samples.run())
    assert writer.commit()
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    rows = [samples.operation(n, error=random.Random(n).randbytes(200).hex()) for n in range(3000)]
    writer.add(*rows)
    assert not writer.commit()
    assert writer.warnings
    assert writer.stats.lost == 0  # still in memory
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert writer.commit(), writer.warnings
    writer.close()
    assert writer.stats.lost == 0
    assert count(db, "operations_log") == 3000
    assert count(db, "runs") == 1
    assert integrity.examine(db).ok


def test_a_disk_that_stays_full_loses_the_rows_loudly_and_keeps_what_was_there(small_disk: Path) -> None:
    db = small_disk / "history.duckdb"
    writer = HistoryWriter(db, "run-1", interval=0.05, lock_deadline=0.5)
    writer.start()
    writer.add(samples.run())
    assert writer.commit()
    writer.add(*(samples.operation(n, error=random.Random(n).randbytes(500).hex()) for n in range(3000)))
    writer.close()
    assert writer.stats.lost == 3000
    assert any("3000 rows of this run's history are LOST" in line for line in writer.warnings)
    assert count(db, "runs") == 1
    assert integrity.examine(db).ok
