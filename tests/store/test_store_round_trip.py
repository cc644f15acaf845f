"""What is written comes back: any value, the last of several with one key, every table."""

from __future__ import annotations

from pathlib import Path

import duckdb
import history_samples as samples
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_browserpool.records import KEYS, TABLES, MetricRecord
from pytest_browserpool.store import columns, connect, migrate, spool
from pytest_browserpool.store import flush as flush_module
from pytest_browserpool.store.flush import _insert, flush
from pytest_browserpool.store.spool import Batch
from pytest_browserpool.values import Plain


def read(con: duckdb.DuckDBPyConnection, table: str) -> list[Plain]:
    cursor = con.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    return [TABLES[table].from_plain(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


@pytest.fixture(scope="module")
def memory() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    migrate.apply(con)
    return con


@pytest.mark.parametrize("table", TABLES)
def test_the_schema_has_the_records_columns(memory: duckdb.DuckDBPyConnection, table: str) -> None:
    have = memory.execute(
        "SELECT column_name, data_type, is_nullable FROM duckdb_columns()"
        " WHERE table_name = ? ORDER BY column_index",
        [table],
    ).fetchall()
    assert have == [(c.name, columns.SQL_TYPES[c.type], c.optional) for c in columns.columns_of(table)]


@pytest.mark.parametrize("many", [1, flush_module.MANY], ids=["as arrays", "as lists"])
@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_record_comes_back(
    memory: duckdb.DuckDBPyConnection, table: str, many: int, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(samples.records(table), min_size=1, max_size=8))
    kept = columns.by_table(rows)[table]
    memory.execute(f"DELETE FROM {table}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush_module, "MANY", many)
        _insert(memory, table, kept)
        if KEYS[table]:
            _insert(memory, table, kept)  # in place of themselves
    assert sorted(read(memory, table), key=repr) == sorted(kept, key=repr)


@pytest.mark.parametrize("table", [table for table in TABLES if KEYS[table]])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_later_row_replaces_an_earlier_one_with_its_key(
    memory: duckdb.DuckDBPyConnection, table: str, data: st.DataObject
) -> None:
    first, second = data.draw(samples.records(table)), data.draw(samples.records(table))
    key = {name: getattr(first, name) for name in KEYS[table]}
    second = type(second).from_plain({**second.to_plain(), **key})
    memory.execute(f"DELETE FROM {table}")
    _insert(memory, table, [first])
    _insert(memory, table, [second])
    assert read(memory, table) == [second]
    assert columns.by_table([first, second]) == {table: [second]}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.one_of([samples.records(table) for table in TABLES]), max_size=12))
def test_a_spool_file_gives_back_its_batch(tmp_path: Path, rows: list[Plain]) -> None:
    batch = Batch(name="sample-1", run_id="sample", rows=tuple(rows))
    assert spool.read(spool.write(tmp_path / "h.duckdb", batch)) == batch


def test_text_that_no_database_can_hold_is_replaced_not_refused(db: Path) -> None:
    rows = (samples.operation(1, error="a\0b"), samples.operation(2, error="x\ud800y"))
    flush(db, [Batch(name="1", run_id="run-1", rows=rows)])
    with connect.reading(db) as con:
        stored = [
            row[0] for row in con.execute("SELECT error FROM operations ORDER BY started_at").fetchall()
        ]
    assert stored[0] == "a\ufffdb"
    assert stored[1].startswith("x\ufffd")
    assert stored[1].endswith("y")


def test_a_batch_is_written_once(db: Path) -> None:
    batch = Batch(
        name="b1",
        run_id="run-1",
        rows=(MetricRecord(run_id="run-1", node="gw0", at=1.0, name="cpu", value=1.0),),
    )
    assert flush(db, [batch]).rows == 1
    assert flush(db, [batch]).rows == 0
    with connect.reading(db) as con:
        assert con.execute("SELECT count(*) FROM metrics").fetchone() == (1,)
