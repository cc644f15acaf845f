"""What keeps the history sound while a run goes on: blocks are read, copies renewed, lost rows written again or told of."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import history_samples as samples
import pytest
from waiting import until

from pytest_browserpool.records import MetricRecord
from pytest_browserpool.store import connect, integrity
from pytest_browserpool.store.flush import Flushed, flush
from pytest_browserpool.store.inventory import take_stock
from pytest_browserpool.store.spool import Batch
from pytest_browserpool.store.upkeep import Upkeep
from pytest_browserpool.store.writer import HistoryWriter

SERIES = 3000


def series(run_id: str) -> list[MetricRecord]:
    return [
        MetricRecord(run_id=run_id, node="gw0", at=float(i), name="n", value=i * 0.37) for i in range(SERIES)
    ]


def begun(db: Path, run_id: str, copies: int = 2, **settings: float) -> HistoryWriter:
    writer = HistoryWriter(db, run_id, copies=copies, **settings)
    writer.start()
    writer.add(samples.run(run_id))
    return writer


def finished(db: Path, run_id: str, copies: int = 2) -> None:
    writer = begun(db, run_id, copies)
    writer.add(*series(run_id))
    writer.close()
    assert not writer.warnings


def counts(db: Path) -> dict[str, int]:
    with connect.reading(db) as con:
        return dict(con.execute("SELECT run_id, count(*) FROM metrics GROUP BY run_id").fetchall())


def flip_data(db: Path) -> None:
    """Damage where values are, not headers: opening the file does not see it."""
    data = bytearray(db.read_bytes())
    for place in range(len(data) // 2, len(data), 4096):
        data[place] ^= 0xFF
    db.write_bytes(data)


def test_the_copy_is_renewed_while_the_run_goes_on(tmp_path: Path) -> None:
    db = tmp_path / "history.duckdb"
    writer = begun(db, "run-1", interval=0.05, copy_interval=0.1)
    try:
        copy = integrity.copies_of(db, 2)[0]
        writer.add(*series("run-1"))
        until(copy.exists, "no copy came before the end")
        writer.add(MetricRecord(run_id="run-1", node="gw0", at=-1.0, name="n", value=1.0))
        until(lambda: counts(copy).get("run-1") == SERIES + 1, "the copy was not renewed")
        assert integrity.examine(copy, checksum=True).ok
    finally:
        writer.close()


@pytest.mark.parametrize("copies", [1, 2])
def test_damage_within_the_data_is_seen_when_a_run_begins(tmp_path: Path, copies: int) -> None:
    db = tmp_path / "history.duckdb"
    finished(db, "run-1", copies)
    flip_data(db)
    writer = begun(db, "run-2", copies, interval=0.05)
    try:
        until(lambda: writer.warnings, "the damage was not seen")
        assert "was damaged" in writer.warnings[0]
    finally:
        writer.close()
    assert integrity.examine(db).ok
    assert len(list(tmp_path.glob("history.duckdb.corrupt-*Z"))) == 1


def test_what_another_run_lost_by_a_repair_is_written_again(tmp_path: Path) -> None:
    db = tmp_path / "history.duckdb"
    finished(db, "run-0")
    first = begun(db, "run-1", copy_interval=3600)
    first.add(*series("run-1"))
    assert first.commit()
    shutil.copyfile(integrity.copies_of(db, 2)[0], db)  # as the repair of another run leaves it
    assert counts(db) == {"run-0": SERIES}
    first.add(MetricRecord(run_id="run-1", node="gw0", at=-1.0, name="n", value=1.0))
    first.close()
    assert counts(db) == {"run-0": SERIES, "run-1": SERIES + 1}


def test_rows_that_the_copy_lacks_are_told_of(tmp_path: Path) -> None:
    db = tmp_path / "history.duckdb"
    finished(db, "run-0")
    old = tmp_path / "old"
    shutil.copyfile(integrity.copies_of(db, 2)[0], old)
    sums = integrity.checksum_file(integrity.copies_of(db, 2)[0]).read_text()
    finished(db, "run-1")
    # the copy as a kill before the end of run-1 leaves it
    shutil.copyfile(old, integrity.copies_of(db, 2)[0])
    integrity.checksum_file(integrity.copies_of(db, 2)[0]).write_text(sums)
    flip_data(db)
    writer = begun(db, "run-2")
    writer.close()
    said = "\n".join(writer.warnings)
    assert "run-1" not in counts(db)
    assert "MISSING" in said or "may be missing" in said, said


def test_what_killed_runs_left_without_a_copy_gets_one_from_the_next_run_in_time(tmp_path: Path) -> None:
    """Runs that never live long enough to renew the copies: each next one sees how long ago that was due."""
    db = tmp_path / "history.duckdb"
    every = 1.0  # far more than two flushes take, on a busy machine too
    upkeep = Upkeep(files=2, renewed_every_s=every)

    def flushed(run_id: str) -> Flushed:
        return flush(db, [Batch(name=run_id, run_id=run_id, rows=(samples.run(run_id),))], upkeep=upkeep)

    first, second = flushed("run-1"), flushed("run-2")
    assert not first.copied
    assert first.copies_due is None, "there was no earlier run"
    assert not second.copied, "not due yet"
    assert second.copies_due is not None
    assert second.copies_due <= time.time() + every
    time.sleep(every)
    assert flushed("run-3").copied
    assert [file.state for file in take_stock(db).files] == ["ok", "ok"]
    time.sleep(every)
    after = flushed("run-4")
    assert not after.copied, (
        "what the earlier runs left has its copy: this run's rows get one in its own time"
    )
    assert after.copies_due is None
