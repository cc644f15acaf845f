"""Old runs go whole, the others stay whole; an export has every row."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import duckdb
import history_samples as samples
import pytest

from pytest_browserpool.config import days_of
from pytest_browserpool.errors import ConfigurationError, HistoryError
from pytest_browserpool.records import TABLES, ModelRecord, OperationRecord, RunRecord
from pytest_browserpool.store import connect, queries
from pytest_browserpool.store.export import VIEWS, export
from pytest_browserpool.store.flush import flush
from pytest_browserpool.store.spool import Batch
from pytest_browserpool.store.writer import HistoryWriter

DAY = 86_400.0


def a_run_of(name: str, started_at: float) -> list[object]:
    """The sample run under another id, with a model of its own."""
    rows = []
    for row in samples.a_run():
        if isinstance(row, RunRecord):
            rows.append(dataclasses.replace(row, run_id=name, started_at=started_at))
        elif isinstance(row, ModelRecord):
            rows.append(dataclasses.replace(row, sha256=name.ljust(64, "0")))
        elif isinstance(row, OperationRecord):
            rows.append(dataclasses.replace(row, run_id=name, model=name.ljust(64, "0")))
        else:
            rows.append(dataclasses.replace(row, run_id=name))  # type: ignore[type-var]
    return rows


@pytest.fixture
def history(tmp_path: Path) -> Path:
    db = tmp_path / "h.duckdb"
    now = time.time()
    for name, age in (("old", 100), ("new", 1)):
        rows = tuple(a_run_of(name, now - age * DAY))
        flush(db, [Batch(name=name, run_id=name, rows=rows)])  # type: ignore[arg-type]
    return db


def runs_in(db: Path) -> dict[str, set[str]]:
    """Table → the runs that it has rows of."""
    found = {}
    with connect.reading(db) as con:
        for table, record in TABLES.items():
            key = "run_id" if "run_id" in record.__dataclass_fields__ else "rtrim(sha256, '0')"
            found[table] = {row[0] for row in con.execute(f"SELECT {key} FROM {table}").fetchall()}
    return found


def test_a_run_forgets_what_is_older_than_it_is_to_keep(history: Path) -> None:
    assert set(map(frozenset, runs_in(history).values())) == {frozenset({"old", "new"})}
    writer = HistoryWriter(history, "this", keep_s=90 * DAY)
    writer.start()
    writer.add(RunRecord(run_id="this", started_at=time.time()))
    writer.commit()
    assert "old" in runs_in(history)["runs"]  # only when it ends
    writer.close()
    found = runs_in(history)
    assert found.pop("runs") == {"new", "this"}
    assert set(map(frozenset, found.values())) == {frozenset({"new"})}
    assert writer.stats.forgotten == 1
    assert runs_in(history.with_name("h.duckdb.copy1"))["runs"] == {"new", "this"}


def test_everything_stays_unless_told_otherwise(history: Path) -> None:
    writer = HistoryWriter(history, "this")
    writer.start()
    writer.add(RunRecord(run_id="this", started_at=time.time()))
    writer.close()
    assert runs_in(history)["runs"] == {"old", "new", "this"}


def test_times_to_keep() -> None:
    assert [days_of(word) for word in ("forever", "90d", "12w", "1y")] == [None, 90.0, 84.0, 365.25]
    for wrong in ("", "90", "0d", "-1d", "3 months", "1.5d"):
        with pytest.raises(ConfigurationError, match="90d, 12w, 1y, or forever"):
            days_of(wrong)


def test_an_export_has_every_row_and_can_be_read_by_anybody(history: Path, tmp_path: Path) -> None:
    target = tmp_path / "out 'quoted'"
    with connect.reading(history) as con:
        written = export(con, target)
        counts = {
            name: con.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in (*TABLES, *VIEWS)
        }
    assert {file.path.stem: file.rows for file in written} == counts
    assert all(counts.values())
    for file in written:
        found = duckdb.sql("SELECT count(*) FROM read_parquet($1)", params=[str(file.path)]).fetchall()
        assert found == [(file.rows,)], file.path.name
    assert sorted(p.suffix for p in target.iterdir()) == [".parquet"] * len(written)


def test_an_export_of_one_run_has_that_run_and_its_models(history: Path, tmp_path: Path) -> None:
    with connect.reading(history) as con:
        written = {f.path.stem: f for f in export(con, tmp_path / "one", [queries.find_run(con, "ne")])}
    for name, file in written.items():
        key = "sha256" if name == "models" else "run_id"
        found = duckdb.sql(f"SELECT DISTINCT {key} FROM read_parquet($1)", params=[str(file.path)]).fetchall()
        assert [str(row[0]).rstrip("0") for row in found] == ["new"], name


def test_a_directory_that_cannot_be_made_is_an_error_that_says_so(history: Path) -> None:
    with connect.reading(history) as con, pytest.raises(HistoryError, match="cannot be made"):
        export(con, history / "below a file")


@pytest.mark.parametrize("name", ["runs.parquet", "runs.parquet.partial"])
def test_a_file_that_cannot_be_written_is_an_error_that_says_so(
    history: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "ex" / name).mkdir(parents=True)
    with (
        connect.reading(history) as con,
        pytest.raises(HistoryError, match=r"runs\.parquet cannot be written") as caught,
    ):
        export(con, tmp_path / "ex")
    assert "name another directory" in str(caught.value)
    assert not [path for path in (tmp_path / "ex").glob("*.partial") if path.is_file()]
