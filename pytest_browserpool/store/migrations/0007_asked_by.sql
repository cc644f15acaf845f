-- Which test asked for a browser: one that was launched ahead, beside a running test, costs that test nothing.

ALTER TABLE browsers ADD COLUMN nodeid VARCHAR;

CREATE OR REPLACE VIEW test_costs AS
-- What a test's time went into, for the scheduler. load_s: session creation and the first run, which compiles. launch_s:
-- what the test's loads waited for browsers, whoever asked for them, and the other launches that the test asked for (a
-- lease, a recovery). Of a launch nobody knows who asked for it: it counts for the test during which it ended.
WITH loads AS (
    SELECT run_id, test, node, sum(latency_ms - launch_ms) / 1000 AS load_s, sum(launch_ms) / 1000 AS launch_s
    FROM operations WHERE NOT warm GROUP BY run_id, test, node
),
others AS (
    SELECT t.run_id, t.nodeid, sum(b.launch_ms) / 1000 AS launch_s
    FROM tests AS t
    JOIN browsers AS b
        ON b.run_id = t.run_id AND b.node = t.node
        AND b.launched_at >= t.started_at AND b.launched_at < t.started_at + t.duration_s
    ANTI JOIN operations_log AS o
        ON o.run_id = b.run_id AND o.instance = b.instance AND o.nodeid = t.nodeid AND o.kind = 'load'
        AND b.launched_at BETWEEN o.started_at AND o.started_at + o.latency_ms / 1000
    WHERE coalesce(b.nodeid, t.nodeid) = t.nodeid
    GROUP BY t.run_id, t.nodeid
)
SELECT
    t.run_id,
    t.nodeid AS test,
    t.node,
    coalesce(n.host, '') AS host,
    t.browser,
    t.backend,
    coalesce(nullif(m.id, ''), nullif(m.label, ''), t.model) AS model,
    t.outcome,
    t.degraded,
    make_timestamp(CAST(round(t.started_at * 1000000) AS BIGINT)) AS started_at,
    t.duration_s,
    coalesce(l.launch_s, 0) + coalesce(x.launch_s, 0) AS launch_s,
    coalesce(l.load_s, 0) AS load_s,
    greatest(0, t.duration_s - coalesce(l.launch_s, 0) - coalesce(x.launch_s, 0) - coalesce(l.load_s, 0)) AS run_s
FROM tests AS t
LEFT JOIN models AS m ON m.sha256 = t.model
LEFT JOIN nodes AS n ON n.run_id = t.run_id AND n.node = t.node
LEFT JOIN loads AS l ON l.run_id = t.run_id AND l.test = t.nodeid AND l.node = t.node
LEFT JOIN others AS x ON x.run_id = t.run_id AND x.nodeid = t.nodeid;
