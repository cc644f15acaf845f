"""Rows that only a damaged file has: what can be read comes back, exactly once and as it was, and nothing else does."""

from __future__ import annotations

import collections
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import history_samples as samples
import pytest

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import KEYS, TABLES, MetricRecord
from pytest_browserpool.store import connect, integrity, repair, spool
from pytest_browserpool.store.flush import flush, mend
from pytest_browserpool.store.salvage import salvage
from pytest_browserpool.store.spool import Batch
from pytest_browserpool.store.writer import HistoryWriter

SERIES = 6000
"""Metric rows of a run: several blocks of each column."""

BLOCK, FIRST_BLOCK = 16384, 12288
"""Of the file: three headers of 4 KiB, then blocks."""

Rows = dict[str, collections.Counter[Any]]


def metrics(run_id: str, seed: int, count: int = SERIES) -> list[MetricRecord]:
    chance = random.Random(seed)
    return [
        MetricRecord(run_id=run_id, node="gw0", at=chance.random(), name="n", value=chance.random())
        for _ in range(count)
    ]


def batch(name: str, run_id: str, *rows: Any) -> Batch:
    return Batch(name=name, run_id=run_id, rows=rows)


def first(run_id: str) -> Batch:
    operations = [samples.operation(i, run_id) for i in range(500)]
    return batch(f"{run_id}-1", run_id, samples.run(run_id), *operations, *metrics(run_id, 1))


def second(run_id: str) -> Batch:
    """The run's end: its row again, with the end in it, and more."""
    ended = samples.run(run_id, finished_at=samples.START + 99, exit_status=0)
    operations = [samples.operation(i, run_id) for i in range(400, 2000)]
    return batch(f"{run_id}-2", run_id, ended, *operations, *metrics(run_id, 2))


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history whose copy lacks the second half of run-2, and all of run-3."""
    db = tmp_path_factory.mktemp("behind") / "history.duckdb"
    flush(db, [first("run-1"), second("run-1")])
    flush(db, [first("run-2")], copies=integrity.copies_of(db, 2))
    flush(db, [second("run-2")])
    flush(db, [first("run-3"), second("run-3")])
    return db


def content(db: Path) -> Rows:
    with connect.reading(db) as con:
        return {
            table: collections.Counter(con.execute(f"SELECT * FROM {table}").fetchall()) for table in TABLES
        }


def at_place(behind: Path, target: Path, *places: int) -> Path:
    """A directory with the history, damaged at ``places``, and its copy."""
    shutil.copytree(behind.parent, target)
    db = target / behind.name
    data = bytearray(db.read_bytes())
    for place in places:
        data[place] ^= 0xFF
    db.write_bytes(data)
    return db


def block_of(db: Path, table: str, column: str, *, last: bool = True) -> int:
    """A byte in the middle of the last (or first) block that holds a part of ``column`` and nothing else, if there is one."""
    con = connect.open_file(db, read_only=True, deadline=1.0)
    try:
        held: dict[int, set[tuple[str, str]]] = collections.defaultdict(set)
        for name in TABLES:
            asked = f"SELECT block_id, column_name FROM pragma_storage_info('{name}') WHERE block_id >= 0 "
            asked += "ORDER BY row_group_id, segment_id"
            for block, of in con.execute(asked).fetchall():
                held[block].add((name, of))
    finally:
        con.close()
    wanted = (table, column)
    blocks = [n for n, of in held.items() if of == {wanted}] or [n for n, of in held.items() if wanted in of]
    return FIRST_BLOCK + blocks[-1 if last else 0] * BLOCK + BLOCK // 2


def keyed(table: str, rows: collections.Counter[Any]) -> dict[Any, Any]:
    names = list(TABLES[table].__dataclass_fields__)
    return {tuple(row[names.index(name)] for name in KEYS[table]): row for row in rows}


def check(after: Rows, copy: Rows, original: Rows) -> int:
    """Nothing that the copy had is gone, and every row is one of the original (or one that the copy still has in an earlier
    version); how many rows of the original are missing.
    """
    missing = 0
    for table in TABLES:
        if KEYS[table]:
            now, earlier, right = (keyed(table, rows[table]) for rows in (after, copy, original))
            assert earlier.keys() <= now.keys() <= right.keys()
            assert sum(after[table].values()) == len(now), "a key twice"
            assert all(row in (right[key], earlier.get(key)) for key, row in now.items())
            missing += len(right) - len(now)
        else:
            assert copy[table] <= after[table] <= original[table]
            missing += (original[table] - after[table]).total()
    return missing


def test_rows_that_came_after_the_copy_come_back(behind: Path, tmp_path: Path) -> None:
    original, copy = content(behind), content(integrity.copies_of(behind, 2)[0])
    place = block_of(behind, "metrics", "value")
    db = at_place(behind, tmp_path / "d", place)
    lines = repair.repair(db, "a block is bad")
    after = content(db)
    missing = check(after, copy, original)
    assert 0 < missing < SERIES
    assert original["metrics"].total() - after["metrics"].total() == missing, "only that table was hit"
    assert after["runs"] == original["runs"], "with the end of the run that the copy had without it"
    assert "rows of the runs run-2, run-3 that came after the copy's latest of" in lines[2]
    assert f"rows are MISSING, at most {missing} of metrics" in lines[3]
    assert integrity.examine(db).ok


@pytest.mark.slow
def test_damage_anywhere_never_makes_a_wrong_row(behind: Path, tmp_path: Path) -> None:
    """In full: 100 times one to three flips; prints what was read."""
    original, copy = content(behind), content(integrity.copies_of(behind, 2)[0])
    only = sum((original[table] - copy[table]).total() for table in TABLES)
    chance, size = random.Random(2), behind.stat().st_size
    back, closed = [], 0
    for number in range(100 if os.environ.get("BROWSERPOOL_CHAOS") == "full" else 3):
        places = [chance.randrange(size) for _ in range(chance.randint(1, 3))]
        db = at_place(behind, tmp_path / str(number), *places)
        if integrity.examine(db).ok:
            continue  # nothing that is in use was hit
        lines = repair.repair(db, "flipped")
        missing = check(content(db), copy, original)
        assert integrity.examine(db).ok
        closed += "does not tell" in lines[-1]
        back.append(1 - missing / only)
    back.sort()
    print(
        f"{len(back)} damaged files of {size} bytes, {closed} of them cannot be opened; of {only} rows that only the damaged "
        f"file has were read: mean {sum(back) / max(1, len(back)):.3f}, all in {sum(b == 1 for b in back)} files"
    )


@pytest.mark.slow
def test_every_block_in_turn(behind: Path, tmp_path: Path) -> None:
    """One flip in each block (in short: in every seventh); where the file can be opened most rows come back."""
    original, copy = content(behind), content(integrity.copies_of(behind, 2)[0])
    step = BLOCK * (1 if os.environ.get("BROWSERPOOL_CHAOS") == "full" else 7)
    only = sum((original[table] - copy[table]).total() for table in TABLES)
    opened, closed, whole, rest = 0, 0, 0, []
    for place in range(FIRST_BLOCK + BLOCK // 2, behind.stat().st_size, step):
        db = at_place(behind, tmp_path / str(place), place)
        if integrity.examine(db).ok:
            whole += 1
            continue
        lines = repair.repair(db, "flipped")
        missing = check(content(db), copy, original)
        if "does not tell" in lines[-1]:
            closed += 1
        else:
            opened += 1
            rest.append(missing)
    print(f"blocks: {whole} not in use, {closed} without which nothing opens, {opened} others")
    print(f"of {only} rows that only the damaged file has are missing: {sorted(rest)}")
    assert opened > closed
    assert sorted(rest)[len(rest) // 2] < only / 4


def test_without_a_copy_the_new_history_has_what_could_be_read(behind: Path, tmp_path: Path) -> None:
    original = content(behind)
    db = at_place(behind, tmp_path / "d", block_of(behind, "metrics", "value", last=False))
    for copy in integrity.existing_copies(db):
        copy.unlink()
    lines = repair.repair(db, "a block is bad")
    assert lines[1] == "no good copy was found: a new history begins"
    assert "were read out of" in lines[2]
    nothing: Rows = {table: collections.Counter() for table in TABLES}
    assert 0 < check(content(db), nothing, original) < SERIES


def test_rows_of_a_run_that_goes_on_come_exactly_once(tmp_path: Path) -> None:
    """The run writes again what no copy has: of that a part was read out of the damaged file already."""
    db = tmp_path / "history.duckdb"
    rows = [metrics("run-1", seed, 5000) for seed in range(3)]
    writer = HistoryWriter(db, "run-1", copy_interval=3600)
    writer.start()
    writer.add(samples.run(), *rows[0])
    assert writer.commit()
    other = [samples.run("run-0"), *metrics("run-0", 9)]
    flush(db, [batch("other", "run-0", *other)])
    writer.add(*rows[1])
    assert writer.commit()
    data = bytearray(db.read_bytes())
    data[block_of(db, "metrics", "value")] ^= 1
    db.write_bytes(data)
    writer.add(samples.run(exit_status=0), *rows[2])
    assert mend(db, 1), "another process repairs it, which does not know what the run will write again"
    writer.close()
    with connect.reading(db) as con:
        found = con.execute("SELECT m.at, m.value FROM metrics AS m WHERE m.run_id = 'run-1'").fetchall()
        part = con.execute("SELECT complete FROM salvaged WHERE run_id = 'run-1'").fetchall()
    assert part == [(False,)]
    expected = collections.Counter((row.at, row.value) for row in itertools.chain(*rows))
    assert collections.Counter(found) == expected


def test_a_spool_file_of_rows_that_came_back_is_not_merged_twice(behind: Path, tmp_path: Path) -> None:
    """All could be read: the batch counts as taken, as it did in the damaged file."""
    db = at_place(behind, tmp_path / "d")
    spool.write(db, second("run-3"))
    lines = repair.repair(db, "so it is said")
    assert [line for line in lines if "MISSING" in line] == []
    assert content(db) == content(behind)
    flush(db, [])
    assert content(db) == content(behind)


def test_rows_of_a_run_that_cannot_be_read_are_left_out(behind: Path, tmp_path: Path) -> None:
    original, copy = content(behind), content(integrity.copies_of(behind, 2)[0])
    db = at_place(behind, tmp_path / "d", block_of(behind, "runs", "run_id"))
    lines = repair.repair(db, "a block is bad")
    check(content(db), copy, original)
    with connect.reading(db) as con:
        known = {row[0] for row in con.execute("SELECT run_id FROM runs").fetchall()}
        told = {row[0] for row in con.execute("SELECT DISTINCT run_id FROM metrics").fetchall()}
    assert known == told == {"run-1", "run-2"}
    assert any("were left out" in line for line in lines)


def test_a_damaged_log_does_not_keep_the_file_from_being_read(behind: Path, tmp_path: Path) -> None:
    db = at_place(behind, tmp_path / "d")
    db.with_name(db.name + ".wal").write_bytes(random.Random(1).randbytes(5000))
    repair.repair(db, "its log")
    assert content(db) == content(behind)
    (log,) = db.parent.glob("*.wal")
    assert ".corrupt-" in log.name
    assert not list(db.parent.glob("*.nolog*"))


def test_a_file_that_takes_too_long_is_told_and_the_copy_stays(
    behind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "REPAIR_BUDGET", 0.005)
    db = at_place(behind, tmp_path / "d")
    lines = repair.repair(db, "so it is said")
    assert "may be MISSING" in lines[2]
    assert "takes longer than 0.01 s" in lines[2]
    assert content(db) == content(integrity.copies_of(db, 2)[0])
    assert len(repair.take_from(next(db.parent.glob("*.corrupt-*")), db)) == 1
    assert content(db) == content(behind)


def test_time_that_is_up_leaves_ranges_unread_and_says_so(behind: Path, tmp_path: Path) -> None:
    db = at_place(behind, tmp_path / "d", block_of(behind, "metrics", "value"))
    copy = integrity.copies_of(db, 2)[0]
    done = salvage(db, copy, budget=0.0)
    assert done.hurried
    assert not done.complete
    check(content(copy), content(integrity.copies_of(behind, 2)[0]), content(behind))


@pytest.mark.parametrize("what", ["itself", "nothing", "text", "sales"])
def test_what_cannot_be_salvaged_leaves_the_history_as_it_was(
    behind: Path, tmp_path: Path, what: str
) -> None:
    db = at_place(behind, tmp_path / "d")
    file = {"itself": db}.get(what, tmp_path / what)
    if what == "text":
        file.write_text("notes\n" * 4000)
    if what == "sales":
        with duckdb.connect(str(file)) as con:
            con.execute("CREATE TABLE sales AS SELECT 1 AS a")
    before = db.read_bytes()
    with pytest.raises(HistoryError):
        repair.take_from(file, db)
    assert db.read_bytes() == before
    assert not list(db.parent.glob("*.restoring*"))


def test_an_earlier_copy_adds_what_the_history_lacks_and_nothing_else(tmp_path: Path) -> None:
    old, db = tmp_path / "old.duckdb", tmp_path / "history.duckdb"
    flush(old, [first("run-1")])
    shutil.copyfile(old, db)
    flush(old, [first("run-0")])
    flush(db, [second("run-1")])
    after = content(db)
    (line,) = repair.take_from(old, db)
    assert "of the runs run-0 were read out of" in line
    for table, rows in content(db).items():
        assert collections.Counter({r: n for r, n in rows.items() if r[0] != "run-0"}) == after[table]
    assert repair.take_from(old, db) == [f"{old} has nothing that the history lacks"]
    assert flush(db, [], forget_before=time.time()).forgotten == 2
    with connect.reading(db) as con:
        assert con.execute("SELECT count(*) FROM salvaged").fetchone() == (0,)


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "pytest_browserpool.store.salvage", "a", "b", "1"], stdin=sys.stdin)
print(child.pid, flush=True)
child.wait()
"""


def test_the_process_that_reads_ends_with_the_one_that_asked() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(2)  # until it waits for its input, which stays open here
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/cmdline").exists() and b"salvage" in Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
