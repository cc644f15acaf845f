"""One made-up run, every question: the answers are worked out by hand. And the documents say what is
there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import history_samples as samples
import pytest

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import BrowserRecord, MetricRecord, TestRecord
from pytest_browserpool.store import connect, queries
from pytest_browserpool.store.flush import flush
from pytest_browserpool.store.spool import Batch

DOCS = Path(__file__).parents[2] / "docs" / "history.md"
ONE = "tests/test_sample.py::test_one"


@pytest.fixture
def con(db: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    flush(db, [Batch(name="1", run_id="run-1", rows=tuple(samples.a_run()))])
    with connect.reading(db) as connection:
        yield connection


def test_the_latest_runs(con: duckdb.DuckDBPyConnection) -> None:
    (run,) = queries.latest_runs(con)
    assert {k: run[k] for k in ("tests", "passed", "failed", "launches", "loads", "calls", "faults")} == {
        "tests": 2,
        "passed": 1,
        "failed": 1,
        "launches": 2,
        "loads": 1,
        "calls": 3,
        "faults": 1,
    }
    assert run["duration_s"] == 20.0


def test_a_run_is_found_by_its_beginning(db: Path, con: duckdb.DuckDBPyConnection) -> None:
    assert queries.find_run(con, None) == queries.find_run(con, "run") == "run-1"
    with pytest.raises(HistoryError, match="no run is called 'x'"):
        queries.find_run(con, "x")
    con.close()
    flush(
        db, [Batch(name="2", run_id="run-10", rows=(samples.run("run-10", started_at=samples.START + 100),))]
    )
    with connect.reading(db) as again:
        assert queries.find_run(again, None) == "run-10"
        assert queries.find_run(again, "run-1") == "run-1"
        with pytest.raises(HistoryError, match="2 runs begin with 'run'"):
            queries.find_run(again, "run")


def test_a_tests_time_is_split(con: duckdb.DuckDBPyConnection) -> None:
    one, two = queries.results_of(con, "run-1")
    assert (one["test"], one["model"], one["duration_s"]) == (ONE, "sample", 3.0)
    # the launch of 500 ms ended at the test's start, before the load began: it is not within the load
    assert (one["launch_s"], one["load_s"]) == (0.5, 1.2)
    assert one["run_s"] == pytest.approx(1.3)
    assert (two["launch_s"], two["load_s"], two["run_s"]) == (0.0, 0.0, 0.5)


def test_a_launch_within_a_load_counts_once(db: Path) -> None:
    rows = [
        samples.operation(1, kind="load", started_at=samples.START + 0.4, latency_ms=1600.0, warm=False),
        *(row for row in samples.a_run() if "Operation" not in type(row).__name__),
    ]
    flush(db, [Batch(name="1", run_id="run-1", rows=tuple(rows))])
    with connect.reading(db) as con:
        assert con.execute("SELECT latency_ms, launch_ms FROM operations").fetchall() == [(1600.0, 500.0)]
        assert queries.results_of(con, "run-1")[0]["load_s"] == pytest.approx(1.1)
        assert queries.warm_start(con).loads[0][-1] == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("asked_by", "seconds"),
    [(None, 0.5), (ONE, 0.5), ("", 0.0), ("tests/test_sample.py::test_two", 0.0)],
    ids=["nobody knows", "it", "launched ahead", "a test that was over"],
)
def test_a_launch_costs_the_test_that_asked_for_it(db: Path, asked_by: str | None, seconds: float) -> None:
    rows = [
        dataclasses.replace(row, nodeid=asked_by) if isinstance(row, BrowserRecord) else row
        for row in samples.a_run()
    ]
    flush(db, [Batch(name="1", run_id="run-1", rows=tuple(rows))])
    with connect.reading(db) as con:
        assert [row["launch_s"] for row in queries.results_of(con, "run-1")] == [seconds, 0.0]


def test_a_load_that_waited_for_a_launch_ahead_of_it_has_that_wait_as_its_launch(db: Path) -> None:
    """Launched for this test beside the one before, and ready when this one had begun to wait for it."""
    rows = [
        samples.operation(1, kind="load", started_at=samples.START + 0.9, latency_ms=300.0, warm=False),
        *(
            dataclasses.replace(row, nodeid="") if isinstance(row, BrowserRecord) else row
            for row in samples.a_run()
            if "Operation" not in type(row).__name__
        ),
    ]
    flush(db, [Batch(name="1", run_id="run-1", rows=tuple(rows))])
    with connect.reading(db) as con:
        one = queries.results_of(con, "run-1")[0]
        assert (one["launch_s"], one["load_s"]) == (0.3, 0.0)


def test_a_session_made_ahead_costs_its_own_test_nothing_and_no_other(db: Path) -> None:
    """Its load is under no test, its compiling first run under the test that came: together they are its load."""
    rows = [
        samples.operation(
            1, nodeid="", kind="load", started_at=samples.START + 2, latency_ms=700.0, warm=False
        ),
        samples.operation(3, latency_ms=1300.0, warm=False),
        *(row for row in samples.a_run() if "Operation" not in type(row).__name__),
    ]
    flush(db, [Batch(name="1", run_id="run-1", rows=tuple(rows))])
    with connect.reading(db) as con:
        assert queries.results_of(con, "run-1")[0]["load_s"] == pytest.approx(1.3)
        assert [load[-1] for load in queries.warm_start(con).loads] == [pytest.approx(2.0)]


def test_latency_by_model_browser_and_backend(con: duckdb.DuckDBPyConnection) -> None:
    warm = [row for row in queries.latency(con, model="sample") if row["kind"] == "run" and row["warm"]]
    assert [(row["operations"], row["median_ms"]) for row in warm] == [(2, 6.0)]
    assert queries.latency(
        con, model="models/sample.onnx", browser="chromium", backend="wasm", run_id="run-1"
    )
    assert queries.latency(con, backend="webgpu") == []


def test_failed_and_degraded_operations_are_left_out_of_latencies(db: Path) -> None:
    rows = (
        samples.operation(1, latency_ms=1.0),
        samples.operation(2, ok=False),
        samples.operation(3, degraded=True),
    )
    flush(db, [Batch(name="1", run_id="run-1", rows=(samples.run(), *rows))])
    with connect.reading(db) as con:
        assert [(row["operations"], row["median_ms"]) for row in queries.latency(con)] == [(1, 1.0)]
        assert con.execute("SELECT operations FROM latency_by_backend").fetchall() == [(1,)]


def test_decisions_and_near_names(con: duckdb.DuckDBPyConnection) -> None:
    (decision,) = queries.decisions_of(con, ONE)
    assert (decision.node, decision.expected_s) == ("gw0", 3.2)
    assert queries.decisions_of(con, ONE, "another-run") == []
    assert queries.nodeids_like(con, "test_one") == [ONE]


def test_what_a_node_had_when_a_test_was_sent(db: Path) -> None:
    sizes = [
        MetricRecord(run_id="run-1", node=node, at=samples.START + at, name="pool_size", value=value)
        for node, at, value in (("gw0", 0.0, 3.0), ("gw0", 5.0, 1.0), ("gw1", 4.0, 2.0))
    ]
    flush(db, [Batch(name="1", run_id="run-1", rows=(*samples.a_run(), *sizes))])
    with connect.reading(db) as con:
        found = [queries.pool_at(con, "run-1", "gw0", samples.START + at) for at in (-1.0, 4.0, 6.0)]
    assert [pool["advised"] for pool in found] == [None, 3, 1]
    assert [pool["running"] for pool in found] == [[], ["chromium"], ["chromium"]]


def test_what_the_scheduler_learns(con: duckdb.DuckDBPyConnection) -> None:
    known = queries.warm_start(con)
    assert sorted(known.launches) == [("sample-host", "chromium", 0.5), ("sample-host", "chromium", 0.7)]
    assert known.loads == (("sample-host", "chromium", "wasm", "sample", pytest.approx(1.2)),)
    assert known.runs == (("sample-host", "chromium", "wasm", "sample", ONE, pytest.approx(1.3)),)
    assert known.successes == (("chromium", "wasm", "sample", 1, 1),)
    typical = {(row["what"], row["measurements"]): row["median_s"] for row in queries.typical_times(con)}
    assert typical == {("launch", 2): 0.6, ("load", 1): pytest.approx(1.2), ("run", 1): pytest.approx(1.3)}


def test_only_recent_runs_teach(db: Path) -> None:
    for number in range(4):
        rows = (
            samples.run(f"run-{number}", started_at=samples.START + 1000 * number),
            TestRecord(
                run_id=f"run-{number}",
                nodeid="t",
                node="gw0",
                outcome="passed",
                started_at=1.0,
                duration_s=1.0,
            ),
            samples.operation(
                1, run_id=f"run-{number}", kind="load", warm=False, latency_ms=1000.0 * number + 1
            ),
        )
        flush(db, [Batch(name=str(number), run_id=f"run-{number}", rows=rows)])
    for number in range(4, 9):  # interrupted, or with no test that fits -k
        rows = (samples.run(f"run-{number}", started_at=samples.START + 1000 * number),)
        flush(db, [Batch(name=str(number), run_id=f"run-{number}", rows=rows)])
    with connect.reading(db) as con:
        assert len(queries.warm_start(con, runs=2).loads) == 2
        assert len(queries.warm_start(con, per_key=3).loads) == 3


def test_all_rows_of_a_run_come_back(con: duckdb.DuckDBPyConnection) -> None:
    rows = queries.rows_of_run(con, "run-1")
    found = [rows.run, *(row for table in list(vars(rows).values())[1:] for row in table)]
    assert sorted(map(repr, found)) == sorted(map(repr, samples.a_run()))
    with pytest.raises(HistoryError, match="no run is called"):
        queries.rows_of_run(con, "nothing")


def test_a_history_that_is_not_there_or_is_damaged_says_so(db: Path) -> None:
    with pytest.raises(HistoryError, match="there is no history"), connect.reading(db):
        pass
    flush(db, [Batch(name="1", run_id="run-1", rows=tuple(samples.a_run()))])
    data = bytearray(db.read_bytes())
    data[100] ^= 1
    db.write_bytes(data)
    with pytest.raises(HistoryError, match="verify --repair"), connect.reading(db):
        pass


def test_a_reader_waits_for_a_writer(db: Path) -> None:
    import subprocess
    import sys

    flush(db, [Batch(name="1", run_id="run-1", rows=tuple(samples.a_run()))])
    code = f"import duckdb, time; c = duckdb.connect({str(db)!r}); print('open', flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with connect.reading(db) as con:
            assert len(queries.latest_runs(con)) == 1


# -- the documents -----------------------------------------------------------------------------------


def sections() -> dict[str, str]:
    parts = re.split(r"^### (\w+)$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_table_and_view_with_its_columns_is_documented(con: duckdb.DuckDBPyConnection) -> None:
    documented = sections()
    relations = con.execute(
        "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE NOT internal GROUP BY table_name"
    ).fetchall()
    assert {name for name, _ in relations} == set(documented)
    for name, columns in relations:
        missing = [column for column in columns if f"`{column}`" not in documented[name]]
        assert not missing, f"docs/history.md, {name}: {missing}"


def test_the_documents_name_no_column_that_is_gone(con: duckdb.DuckDBPyConnection) -> None:
    for name, text in sections().items():
        described = con.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [name])
        columns = {row[0] for row in described.fetchall()}
        for line in re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE):
            named = set(re.findall(r"`(\w+)`", line))
            assert named <= columns, f"docs/history.md, {name}: {named - columns}"


def test_the_questions_to_paste_work(con: duckdb.DuckDBPyConnection) -> None:
    questions = re.findall(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(questions) >= 8
    for question in questions:
        assert con.execute(question).description, question
