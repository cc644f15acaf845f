"""Repairs in which more than the history is out of order: nothing that somebody could read is overwritten."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import duckdb
import history_samples as samples
import pytest

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import MetricRecord
from pytest_browserpool.store import connect, integrity
from pytest_browserpool.store.flush import flush, mend
from pytest_browserpool.store.spool import Batch

SERIES = 6000
"""Metric rows of a run: several blocks of each column."""


def a_run(run_id: str) -> Batch:
    chance = random.Random(run_id)  # which does not compress
    series = [
        MetricRecord(run_id=run_id, node="gw0", at=chance.random(), name="n", value=chance.random())
        for _ in range(SERIES)
    ]
    return Batch(name=run_id, run_id=run_id, rows=(samples.run(run_id), *series))


def flip(file: Path, place: int) -> bytes:
    """One bit of ``file``; all its bytes after that."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    return bytes(data)


def counts(db: Path) -> dict[str, int]:
    with connect.reading(db) as con:
        return dict(con.execute("SELECT run_id, count(*) FROM metrics GROUP BY run_id").fetchall())


def part_of_metrics(db: Path) -> int:
    """A byte in a block that holds values of the first 2,048 metrics and nothing else."""
    con = connect.open_file(db, read_only=True, deadline=1.0)
    try:
        asked = "SELECT min(block_id) FROM pragma_storage_info('metrics') WHERE column_name = 'value' AND block_id >= 0"
        (block,) = con.execute(asked).fetchall()[0]
    finally:
        con.close()
    return 12288 + block * 16384 + 8192  # three headers of 4 KiB, then blocks


Repair = Callable[[Path], list[str]]
REPAIRS: dict[str, Repair] = {
    "next run": lambda db: list(flush(db, [], copies=integrity.copies_of(db, 2)).notes),
    "verify --repair": mend,
}


@pytest.fixture
def with_bad_copy(db: Path) -> tuple[Path, bytes]:
    """A history of two runs and its copy, which has a bit flipped; the copy's bytes."""
    (copy,) = integrity.copies_of(db, 2)
    flush(db, [a_run("run-1"), a_run("run-2")], copies=[copy])
    return db, flip(copy, part_of_metrics(copy))


def check_nothing_lost(db: Path, copy_bytes: bytes, lines: list[str]) -> None:
    (copy,) = integrity.copies_of(db, 2)
    (kept,) = (path for path in db.parent.glob(f"{copy.name}.corrupt-*") if path.suffix != ".sha256")
    assert kept.read_bytes() == copy_bytes
    assert integrity.checksum_file(kept).exists()
    assert any(f"it is kept as {kept}" in line for line in lines)
    found = counts(db)
    assert found.keys() == {"run-1", "run-2"}
    assert 0.5 * 2 * SERIES < sum(found.values()) <= 2 * SERIES
    assert any(f"were read out of {kept}" in line for line in lines)
    assert len(lines) == len(set(lines)), "told twice"
    assert integrity.examine(copy, checksum=True).ok
    with connect.reading(db) as con:
        assert con.execute("SELECT DISTINCT file FROM salvaged").fetchall() == [(kept.name,)]
    assert not list(db.parent.glob("*.restor*"))


@pytest.mark.parametrize("repaired", REPAIRS.values(), ids=REPAIRS.keys())
def test_a_history_that_is_gone_and_a_bad_copy(with_bad_copy: tuple[Path, bytes], repaired: Repair) -> None:
    db, copy_bytes = with_bad_copy
    db.unlink()
    check_nothing_lost(db, copy_bytes, repaired(db))


@pytest.mark.parametrize("repaired", REPAIRS.values(), ids=REPAIRS.keys())
def test_a_bad_history_and_a_bad_copy(with_bad_copy: tuple[Path, bytes], repaired: Repair) -> None:
    db, copy_bytes = with_bad_copy
    for place in (4100, 8200):  # both headers: nothing opens it
        bad = flip(db, place)
    check_nothing_lost(db, copy_bytes, lines := repaired(db))
    (aside,) = db.parent.glob("history.duckdb.corrupt-*")
    assert aside.read_bytes() == bad
    assert any(f"{aside} does not tell" in line and f"verify --salvage {aside}" in line for line in lines)


def test_of_a_bad_history_and_a_bad_copy_the_later_version_of_a_row_stays(
    with_bad_copy: tuple[Path, bytes],
) -> None:
    db, _ = with_bad_copy
    ended = samples.run("run-2", finished_at=samples.START + 99, exit_status=0)
    flush(db, [Batch(name="end", run_id="run-2", rows=(ended,)), a_run("run-3")])
    flip(db, part_of_metrics(db))
    lines = mend(db, 2)
    with connect.reading(db) as con:
        runs = con.execute("SELECT run_id, finished_at IS NULL FROM runs ORDER BY run_id").fetchall()
    assert runs == [("run-1", True), ("run-2", False), ("run-3", True)]
    found = counts(db)
    assert all(found[run] <= SERIES for run in found)
    assert sum(found.values()) > 2 * SERIES
    assert any("they are MISSING where no other file has them" in line for line in lines)


def test_a_bad_copy_beside_a_good_one_is_kept(with_bad_copy: tuple[Path, bytes]) -> None:
    db, copy_bytes = with_bad_copy
    bad, good = integrity.copies_of(db, 3)
    flush(db, [], copies=[good])
    db.unlink()
    lines = mend(db, 3)
    assert counts(db) == {"run-1": SERIES, "run-2": SERIES}
    (kept,) = (path for path in db.parent.glob(f"{bad.name}.corrupt-*") if path.suffix != ".sha256")
    assert kept.read_bytes() == copy_bytes
    assert f"browserpool verify --salvage {kept}" in lines[1]


def test_a_copy_of_an_older_schema_gets_what_the_damaged_file_has(db: Path) -> None:
    """A run of an upgraded version meets a file that was damaged meanwhile."""
    (copy,) = integrity.copies_of(db, 2)
    flush(db, [a_run("run-1")], copies=[copy])
    before_that(copy, 9)
    flush(db, [a_run("run-2")])
    before_that(db, 9)
    flip(db, part_of_metrics(db))
    integrity.checksum_file(copy).unlink()
    old = copy.read_bytes()
    lines = mend(db, 2)
    found = counts(db)
    assert found["run-1"] == SERIES
    assert 0 < found["run-2"] <= SERIES
    assert any("of the runs run-2 that came after" in line for line in lines)
    kept = db.with_name(db.name + ".schema0009")
    assert kept.read_bytes() == old
    assert any(f"brought up to date from schema 9; the copy as it was is kept as {kept}" in x for x in lines)


def before_that(file: Path, level: int) -> None:
    """Make ``file`` one of an earlier version."""
    with duckdb.connect(str(file)) as con:
        con.execute("DROP TABLE salvaged")
        con.execute("DELETE FROM migrations WHERE number > ?", [level])


@pytest.mark.parametrize("repaired", REPAIRS.values(), ids=REPAIRS.keys())
@pytest.mark.parametrize("shell", [False, True], ids=["no byte", "of a shell"])
def test_an_empty_file_becomes_a_history(db: Path, repaired: Repair, shell: bool) -> None:
    _empty(db, shell=shell)
    with (
        pytest.raises(HistoryError, match="is an empty database" if shell else "there is no history"),
        connect.reading(db),
    ):
        pass
    assert repaired(db) == []
    assert counts(db) == {}
    assert not list(db.parent.glob("*.corrupt-*"))
    assert integrity.examine(integrity.copies_of(db, 2)[0], checksum=True).ok


@pytest.mark.parametrize("repaired", REPAIRS.values(), ids=REPAIRS.keys())
@pytest.mark.parametrize("shell", [False, True], ids=["no byte", "of a shell"])
def test_an_empty_file_never_reaches_the_copy(db: Path, repaired: Repair, shell: bool) -> None:
    flush(db, [a_run("run-1")], copies=integrity.copies_of(db, 2))
    db.unlink()
    _empty(db, shell=shell)
    assert any("was repaired from" in line for line in repaired(db))
    assert counts(db) == {"run-1": SERIES}


def _empty(db: Path, *, shell: bool) -> None:
    if shell:
        duckdb.connect(str(db)).close()
    else:
        db.touch()
