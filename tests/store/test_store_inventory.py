"""What is said of each file of the history: the copies that should be there, and those of an earlier setting."""

from __future__ import annotations

import shutil
from pathlib import Path

import history_samples as samples
import pytest

from pytest_browserpool.store import integrity
from pytest_browserpool.store.flush import flush, mend
from pytest_browserpool.store.inventory import Stock, take_stock
from pytest_browserpool.store.spool import Batch
from pytest_browserpool.store.upkeep import Upkeep
from pytest_browserpool.store.writer import HistoryWriter


def write(db: Path, run_id: str, *, copies: int = 2, copied: bool = True, every: float = 65.0) -> None:
    batch = Batch(name=run_id, run_id=run_id, rows=(samples.run(run_id),))
    upkeep = Upkeep(files=copies, renewed_every_s=every)
    flush(db, [batch], copies=integrity.copies_of(db, copies) if copied else (), upkeep=upkeep)


def states(stock: Stock) -> list[str]:
    return [file.state for file in stock.files]


def test_every_copy_that_should_be_there_is_told(db: Path) -> None:
    write(db, "run-1", copies=3)
    stock = take_stock(db)
    assert [(f.path, f.state, f.lacks) for f in stock.files] == [
        (db, "ok", None),
        *((copy, "ok", 0) for copy in integrity.copies_of(db, 3)),
    ]
    assert (stock.ok, stock.wanted, stock.told_by) == (True, 3, "history")


def test_a_missing_copy_is_told_and_made_again(db: Path) -> None:
    write(db, "run-1", copies=3)
    integrity.copies_of(db, 3)[1].unlink()
    assert states(take_stock(db)) == ["ok", "ok", "missing"]
    mend(db)
    assert states(take_stock(db)) == ["ok", "ok", "ok"]


def test_a_copy_that_no_run_had_time_to_make_is_due_not_missing(db: Path) -> None:
    write(db, "run-1", copied=False)
    stock = take_stock(db)
    assert states(stock) == ["ok", "due"]
    assert stock.ok
    write(db, "run-2", copied=False, every=0)
    assert states(take_stock(db)) == ["ok", "missing"]


def test_a_copy_without_its_checksum_is_told(db: Path) -> None:
    write(db, "run-1")
    integrity.checksum_file(integrity.copies_of(db, 2)[0]).unlink()
    stock = take_stock(db)
    assert states(stock) == ["ok", "unchecked"]
    assert not stock.ok
    mend(db)
    assert take_stock(db).ok


@pytest.mark.parametrize(("every", "state"), [(3600.0, "ok"), (0.0, "stale")])
def test_a_copy_that_is_behind_is_stale_only_when_it_had_to_be_renewed(
    db: Path, every: float, state: str
) -> None:
    write(db, "run-1", every=every)
    for run_id in (
        "run-2",
        "run-3",
    ):  # as a run's later flushes: the first would renew a copy that is overdue
        flush(db, [Batch(name=run_id, run_id=run_id, rows=(samples.run(run_id),))])
    copy = take_stock(db).files[1]
    assert (copy.state, copy.lacks) == (state, 2)
    assert "lacks 2 rows of 2 runs, written since" in copy.detail


def test_a_damaged_history_is_judged_by_what_its_copy_has_recorded(db: Path) -> None:
    write(db, "run-1", copies=3)
    data = bytearray(db.read_bytes())
    data[200] ^= 1
    db.write_bytes(data)
    stock = take_stock(db)
    assert states(stock) == ["damaged", "ok", "ok"]
    assert (stock.wanted, stock.files[1].lacks) == (3, None)
    assert "cannot be compared" in stock.files[1].detail


def test_a_history_that_never_recorded_it_is_judged_by_the_default(db: Path) -> None:
    flush(db, [Batch(name="1", run_id="run-1", rows=(samples.run(),))])
    stock = take_stock(db)
    assert (states(stock), stock.wanted, stock.told_by) == (["ok", "missing"], 2, "default")
    assert (states(take_stock(db, 1)), take_stock(db, 1).told_by) == (["ok"], "option")


def run(db: Path, run_id: str, copies: int) -> HistoryWriter:
    writer = HistoryWriter(db, run_id, copies=copies)
    writer.start()
    writer.add(samples.run(run_id))
    writer.close()
    return writer


def test_copies_of_an_earlier_setting_are_named_and_kept(db: Path) -> None:
    assert run(db, "run-1", 12).warnings == []
    writer = run(db, "run-2", 2)
    assert len(writer.warnings) == 10
    copy = integrity.copies_of(db, 12)[-1]
    assert copy.name == "history.duckdb.copy11"
    assert (
        f"{copy} is a copy of the history that --browserpool-history-copies 2 no longer renews"
        in (writer.warnings[-1])
    )
    assert "ask for 12 copies" in writer.warnings[-1]
    stock = take_stock(db)
    assert stock.ok
    assert states(stock) == ["ok", "ok", *["stale"] * 10]
    assert [file.expected for file in stock.files] == [True, True, *[False] * 10]


def test_a_repair_takes_the_copy_with_the_latest_rows_not_the_one_touched_last(db: Path) -> None:
    run(db, "run-1", 3)
    run(db, "run-2", 2)
    new, old = integrity.copies_of(db, 3)
    old.touch()
    data = bytearray(db.read_bytes())
    data[200] ^= 1
    db.write_bytes(data)
    writer = run(db, "run-3", 2)
    assert f"repaired from {new}" in writer.warnings[1]
    assert integrity.examine(db).runs == 3


def test_an_earlier_copy_is_used_where_nothing_else_is_left_and_its_age_is_said(db: Path) -> None:
    run(db, "run-1", 2)
    run(db, "run-2", 1)
    copy = integrity.copies_of(db, 2)[0]
    db.unlink()
    writer = run(db, "run-3", 1)
    assert "is missing" in writer.warnings[0]
    assert f"repaired from {copy}" in writer.warnings[1]
    assert "later than that may be missing" in writer.warnings[2]
    assert integrity.examine(db).runs == 2
    assert copy.exists()


def test_what_is_not_a_copy_is_not_taken_for_one(db: Path) -> None:
    write(db, "run-1")
    for name in ("copy1.partial", "copyright", "copy"):
        shutil.copyfile(db, db.with_name(f"{db.name}.{name}"))
    assert integrity.existing_copies(db) == integrity.copies_of(db, 2)
