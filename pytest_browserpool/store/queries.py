"""Questions to the history, one function each. Every function takes a connection from ``connect.reading``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import TABLES, DecisionRecord
from pytest_browserpool.store.rows import RunRows, run_rows

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Row = dict[str, Any]
"""Column name → value. Times are naive ``datetime`` in UTC."""

RECENT_RUNS = 30
"""Runs that the scheduler learns from: enough for medians, recent enough to follow changed tests and
machines.
"""

PER_KEY = 50
"""Measurements kept for each thing that is learned: a median of 50 moves little with more, and start-up
stays quick.
"""


def rows_of(
    con: DuckDBPyConnection, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[Row]:
    """The answer to ``sql`` as rows."""
    cursor = con.execute(sql, dict(parameters) if isinstance(parameters, Mapping) else list(parameters))
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def latest_runs(con: DuckDBPyConnection, limit: int = 20) -> list[Row]:
    """The last ``limit`` runs, newest first, as in the view ``run_summary``."""
    return rows_of(con, "SELECT * FROM run_summary ORDER BY started_at DESC, run_id DESC LIMIT ?", [limit])


def find_run(con: DuckDBPyConnection, wanted: str | None) -> str:
    """The id of the run that ``wanted`` means: an id, the unique beginning of one, or None for the last run.

    Raises:
        HistoryError: there is none, or several begin so.
    """
    if wanted is None:
        found = con.execute(
            "SELECT run_id FROM runs ORDER BY started_at DESC, run_id DESC LIMIT 1"
        ).fetchall()
        if not found:
            raise HistoryError("the history has no run yet", remedy="run pytest --browserpool first")
        return str(found[0][0])
    found = con.execute(
        "SELECT run_id FROM runs WHERE starts_with(run_id, ?) ORDER BY run_id = ? DESC, run_id",
        [wanted, wanted],
    ).fetchall()
    if not found or (len(found) > 1 and found[0][0] != wanted):
        several = f"{len(found)} runs begin with" if found else "no run is called"
        raise HistoryError(f"{several} {wanted!r}", remedy="browserpool history lists them")
    return str(found[0][0])


def results_of(con: DuckDBPyConnection, run_id: str) -> list[Row]:
    """The tests of a run in the order they started, with the label of their model and the parts of their
    time.
    """
    sql = """
        SELECT t.nodeid AS test, t.outcome, t.node, t.browser, t.backend, c.model, c.started_at, t.duration_s,
               c.launch_s, c.load_s, c.run_s, t.latency_ms, t.recoveries, t.degraded, t.message
        FROM tests AS t JOIN test_costs AS c ON c.run_id = t.run_id AND c.test = t.nodeid
        WHERE t.run_id = ? ORDER BY t.started_at, t.nodeid
    """
    return rows_of(con, sql, [run_id])


def latency(
    con: DuckDBPyConnection,
    *,
    run_id: str | None = None,
    model: str | None = None,
    browser: str | None = None,
    backend: str | None = None,
) -> list[Row]:
    """Count, median, 95th percentile of latency by model, browser, backend, kind and warmth; ms, without
    launches.

    Failed and degraded operations are left out. ``model`` matches id, label, or the beginning of the sha256.
    """
    wanted = {"run_id = ?": run_id, "browser = ?": browser, "backend = ?": backend}
    conditions, parameters = ["ok", "NOT degraded"], []
    for condition, value in wanted.items():
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    if model is not None:
        conditions.append("(model_id = ? OR model_label = ? OR starts_with(model_sha256, ?))")
        parameters += [model] * 3
    sql = f"""
        SELECT model, browser, backend, kind, warm, count(*) AS operations, median(latency_ms - launch_ms)
        AS median_ms,
               quantile_cont(latency_ms - launch_ms, 0.95) AS p95_ms, median(page_ms) AS page_median_ms
        FROM operations WHERE {" AND ".join(conditions)}
        GROUP BY model, browser, backend, kind, warm ORDER BY model, kind, warm, median_ms
    """
    return rows_of(con, sql, parameters)


def operations_of(
    con: DuckDBPyConnection, run_id: str, test: str | None = None, limit: int = 1000
) -> list[Row]:
    """Single operations of a run (of one test) in the order they started."""
    sql = "SELECT * FROM operations WHERE run_id = ? AND (? IS NULL OR test = ?) ORDER BY started_at LIMIT ?"
    return rows_of(con, sql, [run_id, test, test, limit])


def decisions_of(con: DuckDBPyConnection, nodeid: str, run_id: str | None = None) -> list[DecisionRecord]:
    """Why the test called ``nodeid`` ran where it did, newest first; of one run, or of all."""
    rows = rows_of(
        con,
        """SELECT * FROM decisions WHERE nodeid = ? AND (? IS NULL OR run_id = ?) ORDER BY "at" DESC""",
        [nodeid, run_id, run_id],
    )
    return [DecisionRecord.from_plain(row) for row in rows]


def pool_at(con: DuckDBPyConnection, run_id: str, node: str, at: float) -> Row:
    """``running``: names of the browsers that ``node`` had at ``at`` (seconds since the epoch); ``advised``: how many
    the scheduler's plan kept there, None where it had not said yet.
    """
    running = con.execute(
        """SELECT name FROM browsers WHERE run_id = ? AND node = ? AND launched_at <= ?
           AND coalesce(closed_at, 'infinity'::DOUBLE) > ? ORDER BY launched_at""",
        [run_id, node, at, at],
    ).fetchall()
    advised = con.execute(
        """SELECT value FROM metrics WHERE run_id = ? AND node = ? AND name = 'pool_size' AND "at" <= ?
           ORDER BY "at" DESC LIMIT 1""",
        [run_id, node, at],
    ).fetchone()
    return {"running": [row[0] for row in running], "advised": int(advised[0]) if advised else None}


def nodeids_like(con: DuckDBPyConnection, words: str, limit: int = 10) -> list[str]:
    """Node ids with a decision that contain ``words``, most recent first: for "did you mean"."""
    rows = con.execute(
        """SELECT nodeid FROM decisions WHERE contains(nodeid, ?)
           GROUP BY nodeid ORDER BY max("at") DESC LIMIT ?""",
        [words, limit],
    ).fetchall()
    return [row[0] for row in rows]


def faults_of(con: DuckDBPyConnection, run_id: str) -> list[Row]:
    """The faults of a run in the order they came, with what was done about each."""
    return rows_of(con, 'SELECT * FROM faults WHERE run_id = ? ORDER BY "at"', [run_id])


def journal_of(con: DuckDBPyConnection, run_id: str, node: str | None = None) -> list[Row]:
    """The transactions of a run's nodes (of one) in the order they were committed; ``at`` as a timestamp, UTC."""
    sql = """SELECT * REPLACE (make_timestamp(("at" * 1000000)::BIGINT) AS "at") FROM journal
             WHERE run_id = ? AND (? IS NULL OR node = ?) ORDER BY "at", node, number"""
    return rows_of(con, sql, [run_id, node, node])


def forecasts_of(con: DuckDBPyConnection, run_id: str) -> list[Row]:
    """The forecasts of a run that came due, in the order they were made, with what came."""
    sql = """
        SELECT make_timestamp(CAST("at" * 1000000 AS BIGINT)) AS "at", * EXCLUDE (run_id, "at")
        FROM forecasts WHERE run_id = ? ORDER BY forecasts."at", browser
    """
    return rows_of(con, sql, [run_id])


def moved_in(con: DuckDBPyConnection, run_id: str) -> list[Row]:
    """The tests of a run that ran on another node than first planned, in the order they were sent."""
    sql = """
        SELECT make_timestamp(CAST("at" * 1000000 AS BIGINT)) AS "at", * EXCLUDE (run_id, "at")
        FROM steals WHERE run_id = ? ORDER BY steals."at"
    """
    return rows_of(con, sql, [run_id])


def series_of(con: DuckDBPyConnection, run_id: str, name: str | None = None) -> list[Row]:
    """Each series of a run summed up; ``browser`` is the name of the browser it is of, or empty."""
    sql = """
        SELECT m.name, m.node, coalesce(b.name, '') AS browser, m.instance, count(*) AS samples, min(m.value) AS lowest,
               avg(m.value) AS mean, max(m.value) AS highest, arg_max(m.value, m."at") AS last
        FROM metrics AS m LEFT JOIN browsers AS b ON b.run_id = m.run_id AND b.instance = m.instance
        WHERE m.run_id = ? AND (? IS NULL OR m.name = ?)
        GROUP BY m.name, m.node, b.name, m.instance ORDER BY m.name, m.node, browser, m.instance
    """
    return rows_of(con, sql, [run_id, name, name])


def rows_of_run(con: DuckDBPyConnection, run_id: str) -> RunRows:
    """All records of a run, for a report.

    Raises:
        HistoryError: the history has no such run.
    """
    records = []
    for table, cls in TABLES.items():
        if table == "models":
            used = "SELECT DISTINCT model FROM operations_log WHERE run_id = ?"
            sql = f"SELECT * FROM models WHERE sha256 IN ({used})"
        else:
            sql = f"SELECT * FROM {table} WHERE run_id = ?"
        # a table has its record's fields: no need of from_plain, which looks at every field's type
        records += [cls(**_finite(row)) for row in rows_of(con, sql, [run_id])]
    try:
        return run_rows(records)
    except ValueError as error:
        raise HistoryError(f"no run is called {run_id!r}", remedy="browserpool history lists them") from error


def _finite(row: Row) -> Row:
    """``row`` with 0 for what is infinite or no number, which no run measures but another program may have written."""
    odd = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    return {**row, **dict.fromkeys(odd, 0.0)} if odd else row


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What the scheduler learns from earlier runs; seconds. Without operations that failed or ran
    degraded.
    """

    launches: tuple[tuple[str, str, float], ...] = ()
    """(host, browser, seconds) of each launch."""
    loads: tuple[tuple[str, str, str, str, float], ...] = ()
    """(host, browser, backend, model key, seconds): session creation and first run together, which may be of two tests
    where the session was made ahead."""
    runs: tuple[tuple[str, str, str, str, str, float], ...] = ()
    """(host, browser, backend, model key, test, seconds): a passed test without launches and loads.
    Browser, backend and model key are empty for a test without needs."""
    successes: tuple[tuple[str, str, str, int, int], ...] = ()
    """(browser, backend, model key, tests without a fault, tests)."""


_RECENT = (
    """SELECT run_id FROM runs WHERE run_id IN (SELECT run_id FROM tests) ORDER BY started_at DESC LIMIT ?"""
)
"""Runs that ran something: thirty without a test would make the scheduler forget all."""

_LAUNCHES = f"""
    SELECT coalesce(n.host, ''), b.name, b.launch_ms / 1000
    FROM browsers AS b LEFT JOIN nodes AS n ON n.run_id = b.run_id AND n.node = b.node
    WHERE b.run_id IN ({_RECENT}) AND b.launch_ms > 0
    QUALIFY row_number() OVER (PARTITION BY n.host, b.name ORDER BY b.launched_at DESC) <= ?
"""

_LOADS = f"""
    SELECT host, browser, backend, model, seconds FROM (
        SELECT coalesce(n.host, '') AS host, o.browser, o.backend, o.model,
               sum(o.latency_ms - o.launch_ms) / 1000 / count(*) FILTER (o.kind = 'load') AS seconds,
               max(o.started_at) AS latest
        FROM operations AS o
        LEFT JOIN nodes AS n ON n.run_id = o.run_id AND n.node = o.node
        WHERE o.run_id IN ({_RECENT}) AND NOT o.warm AND o.ok AND NOT o.degraded
        GROUP BY o.run_id, o.node, o.instance, host, o.browser, o.backend, o.model
        HAVING bool_or(o.kind = 'load')
    ) QUALIFY row_number() OVER (PARTITION BY host, browser, backend, model ORDER BY latest DESC) <= ?
"""

_RUNS = f"""
    SELECT host, browser, backend, model, test, run_s FROM test_costs
    WHERE run_id IN ({_RECENT}) AND outcome = 'passed' AND NOT degraded AND run_s > 0
    QUALIFY row_number() OVER (PARTITION BY host, browser, backend, model, test ORDER BY started_at DESC) <= ?
"""

_SUCCESSES = f"""
    SELECT c.browser, c.backend, c.model, count(*) FILTER (t.recoveries = 0 AND t.outcome <> 'crashed'),
    count(*)
    FROM test_costs AS c JOIN tests AS t ON t.run_id = c.run_id AND t.nodeid = c.test
    WHERE c.run_id IN ({_RECENT}) AND c.browser <> '' AND t.outcome <> 'skipped' AND NOT t.degraded
    GROUP BY c.browser, c.backend, c.model
"""


def warm_start(con: DuckDBPyConnection, runs: int = RECENT_RUNS, per_key: int = PER_KEY) -> WarmStart:
    """Measurements of the last ``runs`` runs, at most the ``per_key`` newest of each kind, for the
    placement engine.

    The model key is the model's id, else its label (``ModelNeeds.model_key``).
    """
    limits = [runs, per_key]
    return WarmStart(
        launches=tuple(con.execute(_LAUNCHES, limits).fetchall()),
        loads=tuple(con.execute(_LOADS, limits).fetchall()),
        runs=tuple(con.execute(_RUNS, limits).fetchall()),
        successes=tuple(con.execute(_SUCCESSES, [runs]).fetchall()),
    )


def typical_times(con: DuckDBPyConnection, runs: int = RECENT_RUNS) -> list[Row]:
    """Median and count of launch, load and run by host, browser, backend and model, from recent runs;
    seconds.
    """
    sql = f"""
        WITH launched AS ({_LAUNCHES}), loaded AS ({_LOADS}), ran AS ({_RUNS}),
        times (host, browser, backend, model, what, seconds) AS (
            SELECT host, browser, '', '', 'launch', seconds FROM launched AS l(host, browser, seconds)
            UNION ALL SELECT host, browser, backend, model, 'load', seconds FROM loaded
            UNION ALL SELECT host, browser, backend, model, 'run', run_s FROM ran
        )
        SELECT host, browser, backend, model, what, median(seconds) AS median_s, count(*) AS measurements
        FROM times GROUP BY ALL ORDER BY ALL
    """
    return rows_of(con, sql, [runs, PER_KEY] * 3)
