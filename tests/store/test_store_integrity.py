"""Damage: found, set aside, repaired from the good copy; nothing is deleted or emptied without a word."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import history_samples as samples
import pytest

from pytest_browserpool.records import MetricRecord
from pytest_browserpool.store import connect, integrity, migrate
from pytest_browserpool.store.writer import HistoryWriter

SERIES = 3000
"""Metric rows: enough that data blocks, not only headers, are in the file."""


def write(db: Path, run_id: str, copies: int = 2) -> HistoryWriter:
    writer = HistoryWriter(db, run_id, copies=copies)
    writer.start()
    writer.add(samples.run(run_id))
    assert writer.commit(), writer.warnings
    writer.add(
        *(
            MetricRecord(run_id=run_id, node="gw0", at=float(i), name="n", value=i * 0.37)
            for i in range(SERIES)
        )
    )
    writer.close()
    return writer


def runs(db: Path) -> dict[str, int]:
    with connect.reading(db) as con:
        counts = con.execute("SELECT run_id, count(*) FROM metrics GROUP BY run_id").fetchall()
        assert {r[0] for r in con.execute("SELECT run_id FROM runs").fetchall()} == {r[0] for r in counts}
    return dict(counts)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a history of two runs and its copy."""
    directory = tmp_path_factory.mktemp("sound")
    db = directory / "history.duckdb"
    write(db, "run-1")
    write(db, "run-2")
    return directory


def damaged(sound: Path, target: Path, place: int, *, truncate: bool) -> Path:
    shutil.copytree(sound, target)
    db = target / "history.duckdb"
    data = bytearray(db.read_bytes())
    if truncate:
        del data[place:]
    else:
        data[place] ^= 0xFF
    db.write_bytes(data)
    return db


def check_repair(db: Path) -> None:
    """One more run writes to the damaged ``db``: afterwards every run is there, and what was damaged is
    kept.
    """
    writer = write(db, "run-3")
    assert runs(db) == {"run-1": SERIES, "run-2": SERIES, "run-3": SERIES}
    assert integrity.examine(db).ok
    assert integrity.examine(integrity.copies_of(db, 2)[0], checksum=True).ok
    asides = list(db.parent.glob("history.duckdb.corrupt-*Z"))
    assert len(asides) == bool(writer.warnings), writer.warnings
    if asides:
        assert str(asides[0]) in writer.warnings[0]
        assert "repaired from" in writer.warnings[1]


@pytest.mark.parametrize("place", [0, 9, 100, 4096, 4200, 8192, 12288, 12400, 20000])
def test_a_flipped_byte_never_costs_a_row(sound: Path, tmp_path: Path, place: int) -> None:
    check_repair(damaged(sound, tmp_path / "d", place, truncate=False))


@pytest.mark.parametrize("size", [0, 5, 100, 4096, 9000, 20000, -1])
def test_a_truncated_file_never_costs_a_row(sound: Path, tmp_path: Path, size: int) -> None:
    check_repair(damaged(sound, tmp_path / "d", size, truncate=True))


MANY = """
import random, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_store_integrity as t
chance = random.Random({seed})
sound = Path({sound!r})
size = (sound / "history.duckdb").stat().st_size
for number in range({count}):
    place, truncate = chance.randrange(size), chance.random() < 0.25
    print(place, truncate, flush=True)
    t.check_repair(t.damaged(sound, Path({target!r}) / str(number), place, truncate=truncate))
"""


def test_damage_at_random_places_never_costs_a_row(sound: Path, tmp_path: Path) -> None:
    """In a process of its own, because a damaged file might take down the process that reads it."""
    count = 200 if os.environ.get("BROWSERPOOL_CHAOS") == "full" else 12
    patience = 120 + 5 * count  # seconds; one takes one or two
    code = MANY.format(
        here=str(Path(__file__).parent), seed=11, sound=str(sound), count=count, target=str(tmp_path)
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=patience, check=False
    )
    assert done.returncode == 0, (done.stdout[-200:], done.stderr[-3000:])


def test_without_a_copy_a_damaged_file_is_kept_and_a_new_one_begins(tmp_path: Path) -> None:
    db = tmp_path / "history.duckdb"
    write(db, "run-1", copies=1)
    assert integrity.existing_copies(db) == []
    data = bytearray(db.read_bytes())
    data[4100] ^= 1
    data[8200] ^= 1
    db.write_bytes(data)
    writer = write(db, "run-2", copies=1)
    assert runs(db) == {"run-2": SERIES}
    (aside,) = tmp_path.glob("history.duckdb.corrupt-*")
    assert aside.read_bytes() == bytes(data)
    assert "no good copy" in writer.warnings[1]


def test_a_damaged_copy_is_not_used(sound: Path, tmp_path: Path) -> None:
    db = damaged(sound, tmp_path / "d", 4100, truncate=False)
    data = bytearray(db.read_bytes())
    data[8200] ^= 1
    db.write_bytes(data)
    copy = integrity.copies_of(db, 2)[0]
    content = bytearray(copy.read_bytes())
    content[-3000] ^= 1
    copy.write_bytes(content)
    writer = write(db, "run-3")
    assert "cannot be used: the bytes differ from the recorded checksum" in writer.warnings[1]
    assert runs(db) == {"run-3": SERIES}


def test_rows_written_since_the_last_copy_survive_damage_in_mid_run(tmp_path: Path) -> None:
    db = tmp_path / "history.duckdb"
    writer = HistoryWriter(db, "run-1", copy_interval=3600)
    writer.start()
    writer.add(samples.run())
    assert writer.commit()  # makes the first copy
    writer.add(
        *(MetricRecord(run_id="run-1", node="gw0", at=0.0, name="n", value=1.0 * i) for i in range(SERIES))
    )
    assert writer.commit()
    data = bytearray(db.read_bytes())
    data[100] ^= 1
    db.write_bytes(data)
    writer.add(samples.operation(1))
    assert writer.commit()
    writer.close()
    assert runs(db) == {"run-1": SERIES}
    assert "damaged" in writer.warnings[0]


@pytest.mark.parametrize(
    "content", [b"hello\n", b"somebody's notes\n" * 10, b"SQLite format 3\0" + b"\0" * 4000]
)
def test_a_file_of_another_kind_is_left_alone(tmp_path: Path, content: bytes) -> None:
    db = tmp_path / "history.duckdb"
    db.write_bytes(content)
    writer = HistoryWriter(db, "run-1")
    writer.start()
    writer.add(samples.run())
    assert not writer.commit()
    writer.close()
    assert db.read_bytes() == content
    assert "not a DuckDB file" in writer.warnings[0]
    assert writer.stats.spooled == 1


def test_a_users_own_database_is_left_alone(tmp_path: Path) -> None:
    db = tmp_path / "history.duckdb"
    with duckdb.connect(str(db)) as con:
        con.execute("CREATE TABLE sales AS SELECT 1 AS a")
    writer = HistoryWriter(db, "run-1")
    writer.start()
    writer.add(samples.run())
    assert not writer.commit()
    writer.close()
    assert "other tables than a history: sales" in writer.warnings[0]
    with duckdb.connect(str(db)) as con:
        assert [row[0] for row in con.execute("SHOW TABLES").fetchall()] == ["sales"]


def test_a_newer_history_is_left_alone(tmp_path: Path) -> None:
    db = tmp_path / "history.duckdb"
    write(db, "run-1")
    with duckdb.connect(str(db)) as con:
        con.execute("INSERT INTO migrations VALUES (999, 'from_the_future', 0)")
    writer = HistoryWriter(db, "run-2")
    writer.start()
    writer.add(samples.run("run-2"))
    assert not writer.commit()
    writer.close()
    assert "schema 999" in writer.warnings[0]


def test_an_older_history_is_migrated_after_a_backup(tmp_path: Path) -> None:
    db = tmp_path / "history.duckdb"
    first = migrate.known()[0]
    with duckdb.connect(str(db)) as con:
        con.execute(migrate._RECORD)
        con.execute(first.sql)
        con.execute("INSERT INTO migrations VALUES (1, ?, 0)", [first.name])
        con.execute("INSERT INTO runs VALUES ('old', 1.0, NULL, NULL, '', '', '', '', '')")
    writer = write(db, "run-1")
    assert "brought up to date" in writer.warnings[0]
    with connect.reading(db) as con:
        assert con.execute("SELECT count(*) FROM run_summary").fetchone() == (2,)
    with duckdb.connect(str(db) + ".schema0001", read_only=True) as con:
        assert con.execute("SELECT run_id FROM runs").fetchall() == [("old",)]


def test_a_copy_is_never_left_without_a_matching_checksum(sound: Path, tmp_path: Path) -> None:
    """A kill between the two renames leaves a checksum file that names both the old and the new bytes."""
    target = tmp_path / "d"
    shutil.copytree(sound, target)
    copy = integrity.copies_of(target / "history.duckdb", 2)[0]
    sums = integrity.checksum_file(copy)
    sums.write_text(f"{'0' * 64}  {copy.name}\n" + sums.read_text())
    assert integrity.examine(copy, checksum=True).ok


def test_random_garbage_in_the_write_ahead_log(sound: Path, tmp_path: Path) -> None:
    target = tmp_path / "d"
    shutil.copytree(sound, target)
    db = target / "history.duckdb"
    (target / "history.duckdb.wal").write_bytes(random.Random(1).randbytes(5000))
    write(db, "run-3")
    assert runs(db) == {"run-1": SERIES, "run-2": SERIES, "run-3": SERIES}


def test_a_history_that_is_gone_comes_back_from_its_copy(sound: Path, tmp_path: Path) -> None:
    target = tmp_path / "d"
    shutil.copytree(sound, target)
    db = target / "history.duckdb"
    db.unlink()
    writer = write(db, "run-3")
    assert runs(db) == {"run-1": SERIES, "run-2": SERIES, "run-3": SERIES}
    assert "missing" in writer.warnings[0]
