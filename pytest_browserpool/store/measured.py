"""What the analysis asks of the history, one function each: medians by run and place, never single rows of a million.

Every function takes a connection from ``connect.reading`` and the runs to look at, and leaves degraded and failed
operations out; those of models in shards too, which several browsers ran together; and times that are infinite or no
number, as another program may have written them. A way to run a model is its browser,
its backend and, where shaders run on an adapter, whether that is software or hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_browserpool.store.queries import Row, rows_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MODEL = "coalesce(nullif(m.id, ''), nullif(m.label, ''), o.model)"

_ADAPTER = """CASE WHEN o.backend NOT IN ('webgpu', 'webnn-gpu') THEN ''
              WHEN contains(b.adapter, '(software)') THEN 'software'
              WHEN contains(b.adapter, '(hardware)') THEN 'hardware' ELSE '' END"""

_JOINED = """
    FROM operations_log AS o
    LEFT JOIN models AS m ON m.sha256 = o.model
    LEFT JOIN browsers AS b ON b.run_id = o.run_id AND b.instance = o.instance
    LEFT JOIN nodes AS n ON n.run_id = o.run_id AND n.node = o.node
    WHERE list_contains($runs, o.run_id) AND o.ok AND NOT o.degraded AND NOT contains(o.browser, '+')
        AND isfinite(o.latency_ms)
"""


def runs_of(con: DuckDBPyConnection) -> list[Row]:
    """Every finished run that had tests, oldest first: ``run``, ``started_at``, ``seconds``, ``version``, ``runtime``,
    ``nodes``, ``browsers`` (names with versions, a list), ``longest`` and ``longest_s`` (its longest test)."""
    sql = """
        SELECT r.run_id AS run, r.started_at, coalesce(t.last - t.first, 0) AS seconds, r.version, r.runtime, t.nodes,
               coalesce(b.browsers, []) AS browsers, coalesce(t.longest, '') AS longest,
               coalesce(t.longest_s, 0) AS longest_s
        FROM runs AS r
        JOIN (
            SELECT run_id, min(started_at) FILTER (isfinite(started_at)) AS first,
                   max(started_at + duration_s) FILTER (isfinite(started_at + duration_s)) AS last,
                   count(DISTINCT node) AS nodes, arg_max(nodeid, duration_s) FILTER (isfinite(duration_s)) AS longest,
                   max(duration_s) FILTER (isfinite(duration_s)) AS longest_s
            FROM tests GROUP BY run_id
        ) AS t USING (run_id)
        LEFT JOIN (
            SELECT run_id, list_sort(list_distinct(list(name || ' ' || version))) AS browsers
            FROM browsers GROUP BY run_id
        ) AS b USING (run_id)
        WHERE r.finished_at IS NOT NULL
        ORDER BY r.started_at, r.run_id
    """
    return rows_of(con, sql)


def finished(con: DuckDBPyConnection, run: str) -> bool:
    """Whether ``run`` ended; not where it goes on or was killed."""
    return bool(
        con.execute("SELECT finished_at IS NOT NULL FROM runs WHERE run_id = ?", [run]).fetchall()[0][0]
    )


def machines(con: DuckDBPyConnection, runs: Sequence[str]) -> list[Row]:
    """The hosts of these runs: ``run``, ``host``, ``kind`` (cores and GPU in words: hosts of a kind are alike)."""
    sql = """
        SELECT DISTINCT run_id AS run, host, cores || ' cores ' || gpu AS kind
        FROM nodes WHERE list_contains($runs, run_id)
    """
    return rows_of(con, sql, {"runs": list(runs)})


def calls(con: DuckDBPyConnection, runs: Sequence[str], raw: int = 0) -> list[Row]:
    """Warm calls by run, host, model, way and size of the inputs: ``count``, ``typical`` (median ms, call to return).

    ``raw``: how many single calls of each to give as well, spread evenly (``raw``, a list; empty for 0).
    """
    sql = f"""
        SELECT o.run_id AS run, coalesce(n.host, '') AS host, {_MODEL} AS model, coalesce(m.type, '') AS type,
               o.browser, o.backend, {_ADAPTER} AS adapter, o.bytes_in AS size,
               count(*) AS count, median(o.latency_ms) AS typical{_raw("o.latency_ms", raw)}
        {_JOINED} AND o.kind = 'run' AND o.warm AND o.latency_ms > 0
        GROUP BY ALL
    """
    return rows_of(con, sql, {"runs": list(runs)})


def loads(con: DuckDBPyConnection, runs: Sequence[str], raw: int = 0) -> list[Row]:
    """Cold loads by run, host, model and way: session creation and first run together, without launches (seconds)."""
    sql = f"""
        SELECT run, host, model, type, browser, backend, adapter, 0 AS size, count(*) AS count,
               median(seconds) AS typical{_raw("seconds", raw)}
        FROM (
            SELECT o.run_id AS run, coalesce(n.host, '') AS host, {_MODEL} AS model, coalesce(m.type, '') AS type,
                   o.browser, o.backend, {_ADAPTER} AS adapter, o.nodeid, o.instance,
                   sum(o.latency_ms - CASE
                       WHEN o.kind = 'load'
                            AND b.launched_at BETWEEN o.started_at AND o.started_at + o.latency_ms / 1000
                       THEN least(b.launch_ms, o.latency_ms) ELSE 0 END) / 1000 AS seconds
            {_JOINED} AND NOT o.warm
            GROUP BY ALL HAVING bool_or(o.kind = 'load')
        ) WHERE seconds > 0
        GROUP BY ALL
    """
    return rows_of(con, sql, {"runs": list(runs)})


def _raw(value: str, most: int) -> str:
    """A column of at most ``most`` values by order of time, evenly spread; nothing for 0."""
    if not most:
        return ""
    return f", list_transform(range(least({most}, count(*))), lambda i: \
list({value})[1 + i * count(*) // least({most}, count(*))]) AS raw"


def memory(con: DuckDBPyConnection, runs: Sequence[str]) -> list[Row]:
    """The most memory that each browser process took: ``run``, ``host``, ``browser``, ``bytes``."""
    sql = """
        SELECT s.run_id AS run, coalesce(n.host, '') AS host, b.name AS browser, max(s.value) AS bytes
        FROM metrics AS s
        JOIN browsers AS b ON b.run_id = s.run_id AND b.instance = s.instance
        LEFT JOIN nodes AS n ON n.run_id = s.run_id AND n.node = s.node
        WHERE list_contains($runs, s.run_id) AND s.name = 'memory_bytes' AND s.value > 0 AND isfinite(s.value)
        GROUP BY s.run_id, n.host, b.name, s.instance
    """
    return rows_of(con, sql, {"runs": list(runs)})


def pace(con: DuckDBPyConnection, before: Sequence[str], after: Sequence[str]) -> list[Row]:
    """How long tests took, beside the medians of the same tests in the runs ``before``: by run and browser (tests that
    ran in that browser before), and with an empty browser over all; ``tests``, ``usual_s``, ``took_s``. Passed tests
    that were not degraded, and that 3 runs before had, or all where they are fewer: what one run had alone would be its
    own measure."""
    sql = """
        WITH t AS (
            SELECT run_id, nodeid, browser, duration_s FROM tests
            WHERE (list_contains($before, run_id) OR list_contains($after, run_id))
                AND outcome = 'passed' AND NOT degraded AND duration_s > 0 AND isfinite(duration_s)
        ), of_all AS (
            SELECT nodeid, median(duration_s) AS usual_s FROM t WHERE list_contains($before, run_id) GROUP BY ALL
            HAVING count(*) >= least(3, len($before))
        ), of_browser AS (
            SELECT nodeid, browser, median(duration_s) AS usual_s FROM t
            WHERE list_contains($before, run_id) AND browser <> '' GROUP BY ALL
            HAVING count(*) >= least(3, len($before))
        )
        SELECT t.run_id AS run, '' AS browser, count(*) AS tests, sum(u.usual_s) AS usual_s, sum(t.duration_s) AS took_s
        FROM t JOIN of_all AS u USING (nodeid) GROUP BY t.run_id
        UNION ALL
        SELECT t.run_id, t.browser, count(*), sum(u.usual_s), sum(t.duration_s)
        FROM t JOIN of_browser AS u USING (nodeid, browser) GROUP BY t.run_id, t.browser
    """
    return rows_of(con, sql, {"before": list(before), "after": list(after)})


def faulty(con: DuckDBPyConnection, runs: Sequence[str]) -> list[Row]:
    """Tests by run, model and browser, and how many of them met a fault of the infrastructure (recovered from or not):
    ``tests``, ``faulty``, ``kinds`` (a list)."""
    sql = """
        WITH hit AS (
            SELECT run_id, nodeid, browser, list_sort(list_distinct(list(kind))) AS kinds
            FROM faults WHERE list_contains($runs, run_id) AND nodeid <> '' AND kind <> 'node_lost'
            GROUP BY ALL
        ), ran AS (
            SELECT run_id, nodeid, browser, model FROM tests
            WHERE list_contains($runs, run_id) AND browser <> '' AND outcome <> 'skipped'
            UNION
            SELECT h.run_id, h.nodeid, h.browser, t.model FROM hit AS h
            JOIN tests AS t ON t.run_id = h.run_id AND t.nodeid = h.nodeid
            WHERE h.browser <> ''
        )
        SELECT r.run_id AS run, coalesce(nullif(m.id, ''), nullif(m.label, ''), r.model) AS model, r.browser,
               count(*) AS tests, count(h.nodeid) AS faulty,
               list_sort(list_distinct(flatten(list(coalesce(h.kinds, []))))) AS kinds
        FROM ran AS r
        LEFT JOIN models AS m ON m.sha256 = r.model
        LEFT JOIN hit AS h ON h.run_id = r.run_id AND h.nodeid = r.nodeid AND h.browser = r.browser
        WHERE NOT contains(r.browser, '+')
        GROUP BY ALL
    """
    return rows_of(con, sql, {"runs": list(runs)})


def shares(con: DuckDBPyConnection, runs: Sequence[str]) -> list[Row]:
    """What each browser did on each node: ``run``, ``node``, ``browser``, ``tests``, ``busy_s``, ``launches``,
    ``launch_s``, ``load_s``, ``evicted`` (closed for want of room in the pool), ``crowded`` (closed for want of
    memory)."""
    sql = """
        WITH ran AS (
            SELECT run_id, node, browser, count(*) AS tests, sum(duration_s) FILTER (isfinite(duration_s)) AS busy_s
            FROM tests WHERE list_contains($runs, run_id) GROUP BY ALL
        ), launched AS (
            SELECT run_id, node, name AS browser, count(*) AS launches,
                   sum(launch_ms) FILTER (isfinite(launch_ms)) / 1000 AS launch_s,
                   count(*) FILTER (close_reason = 'least recently used') AS evicted,
                   count(*) FILTER (close_reason = 'memory of the node') AS crowded
            FROM browsers WHERE list_contains($runs, run_id) GROUP BY ALL
        ), loaded AS (
            SELECT o.run_id, o.node, o.browser, sum(o.latency_ms - CASE
                       WHEN o.kind = 'load'
                            AND b.launched_at BETWEEN o.started_at AND o.started_at + o.latency_ms / 1000
                       THEN least(b.launch_ms, o.latency_ms) ELSE 0 END) / 1000 AS load_s
            FROM operations_log AS o
            LEFT JOIN browsers AS b ON b.run_id = o.run_id AND b.instance = o.instance
            WHERE list_contains($runs, o.run_id) AND NOT o.warm AND isfinite(o.latency_ms) GROUP BY ALL
        )
        SELECT run_id AS run, node, browser, coalesce(tests, 0) AS tests, coalesce(busy_s, 0) AS busy_s,
               coalesce(launches, 0) AS launches, coalesce(launch_s, 0) AS launch_s, coalesce(load_s, 0) AS load_s,
               coalesce(evicted, 0) AS evicted, coalesce(crowded, 0) AS crowded
        FROM ran FULL JOIN launched USING (run_id, node, browser) FULL JOIN loaded USING (run_id, node, browser)
        ORDER BY run, node, browser
    """
    return rows_of(con, sql, {"runs": list(runs)})


def free(con: DuckDBPyConnection, runs: Sequence[str]) -> list[Row]:
    """Tests that might have run in another browser or on another backend, by run, model and way: ``tests``, ``calls``,
    ``call_s``. Their decision names what else there was."""
    sql = f"""
        WITH choice AS (
            SELECT DISTINCT run_id, nodeid FROM decisions
            WHERE list_contains($runs, run_id) AND browser <> '' AND len(list_filter(
                list_zip(regexp_extract_all(alternatives, '"browser": "([^"]*)"', 1),
                         regexp_extract_all(alternatives, '"backend": "([^"]*)"', 1)),
                lambda pair: pair[1] <> browser OR pair[2] <> backend)) > 0
        )
        SELECT o.run_id AS run, {_MODEL} AS model, coalesce(m.type, '') AS type, o.browser, o.backend,
               {_ADAPTER} AS adapter, count(DISTINCT o.nodeid) AS tests, count(*) AS calls,
               sum(o.latency_ms) / 1000 AS call_s
        {_JOINED.replace("WHERE", "JOIN choice AS c ON c.run_id = o.run_id AND c.nodeid = o.nodeid WHERE")}
            AND o.kind = 'run' AND o.warm
        GROUP BY ALL
    """
    return rows_of(con, sql, {"runs": list(runs)})


def seconds_of_tests(
    con: DuckDBPyConnection, runs: Sequence[str], *, model: str = "", type: str = ""
) -> list[Row]:
    """The passed tests of one model (id or label), or of all models of a type: ``run``, ``test``, ``browser``,
    ``backend``, ``seconds`` (without launches)."""
    sql = f"""
        WITH launched AS (
            SELECT o.run_id, o.nodeid, sum(least(b.launch_ms, o.latency_ms)) / 1000 AS seconds
            FROM operations_log AS o JOIN browsers AS b ON b.run_id = o.run_id AND b.instance = o.instance
            WHERE list_contains($runs, o.run_id) AND o.kind = 'load' AND isfinite(b.launch_ms)
                AND b.launched_at BETWEEN o.started_at AND o.started_at + o.latency_ms / 1000
            GROUP BY ALL
        )
        SELECT o.run_id AS run, o.nodeid AS test, o.browser, o.backend,
               greatest(0, o.duration_s - coalesce(l.seconds, 0)) AS seconds
        FROM tests AS o JOIN models AS m ON m.sha256 = o.model
        LEFT JOIN launched AS l ON l.run_id = o.run_id AND l.nodeid = o.nodeid
        WHERE list_contains($runs, o.run_id) AND o.outcome = 'passed' AND NOT o.degraded AND isfinite(o.duration_s)
            AND ({_MODEL} = $model OR ($type <> '' AND m.type = $type))
        ORDER BY o.started_at
    """
    return rows_of(con, sql, {"runs": list(runs), "model": model, "type": type})


def runs_with(con: DuckDBPyConnection, change: str, since: float) -> list[str]:
    """The runs that began with the applied recommendation of this id, set at ``since`` (to the second) or later."""
    sql = "SELECT run_id FROM applied WHERE id = ? AND applied_at >= ? ORDER BY run_id"
    return [row[0] for row in con.execute(sql, [change, since - 1]).fetchall()]


def changes(con: DuckDBPyConnection) -> list[str]:
    """The applied recommendations that any run used, the last of each id: ``AppliedChange`` as JSON."""
    sql = "SELECT arg_max(change, applied_at) FROM applied GROUP BY id ORDER BY max(applied_at), id"
    return [row[0] for row in con.execute(sql).fetchall()]
