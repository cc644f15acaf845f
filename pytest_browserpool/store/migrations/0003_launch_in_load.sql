-- A load that had to launch its browser first has the launch in its latency: told apart, so that it is not counted twice.

CREATE OR REPLACE VIEW operations AS
SELECT
    o.run_id,
    o.operation,
    o.nodeid AS test,
    o.node,
    o.instance,
    o.browser,
    o.browser_version,
    coalesce(b.adapter, '') AS adapter,
    o.backend,
    coalesce(nullif(m.id, ''), nullif(m.label, ''), o.model) AS model,
    o.model AS model_sha256,
    coalesce(m.label, '') AS model_label,
    coalesce(m.id, '') AS model_id,
    coalesce(m.type, '') AS model_type,
    o.kind,
    make_timestamp(CAST(round(o.started_at * 1000000) AS BIGINT)) AS started_at,
    o.latency_ms,
    CASE
        WHEN o.kind = 'load' AND b.launched_at BETWEEN o.started_at AND o.started_at + o.latency_ms / 1000
            THEN least(b.launch_ms, o.latency_ms)
        ELSE 0
    END AS launch_ms,
    o.page_ms,
    o.warm,
    o.bytes_in,
    o.bytes_out,
    o.attempts,
    o.degraded,
    o.placement,
    o.ok,
    o.error
FROM operations_log AS o
LEFT JOIN models AS m ON m.sha256 = o.model
LEFT JOIN browsers AS b ON b.run_id = o.run_id AND b.instance = o.instance;

CREATE OR REPLACE VIEW latency_by_backend AS
SELECT
    model,
    browser,
    backend,
    kind,
    warm,
    count(*) AS operations,
    median(latency_ms - launch_ms) AS median_ms,
    quantile_cont(latency_ms - launch_ms, 0.95) AS p95_ms,
    min(latency_ms - launch_ms) AS min_ms,
    max(latency_ms - launch_ms) AS max_ms
FROM operations
WHERE ok AND NOT degraded
GROUP BY ALL;

CREATE OR REPLACE VIEW test_costs AS
-- What a test's time went into, for the scheduler. load_s: session creation and the first run, which compiles. A launch
-- counts for the test during which it ended on the test's node (launched_at is the moment when the browser is ready).
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
    coalesce(l.launch_s, 0) AS launch_s,
    coalesce(o.load_s, 0) AS load_s,
    greatest(0, t.duration_s - coalesce(l.launch_s, 0) - coalesce(o.load_s, 0)) AS run_s
FROM tests AS t
LEFT JOIN models AS m ON m.sha256 = t.model
LEFT JOIN nodes AS n ON n.run_id = t.run_id AND n.node = t.node
LEFT JOIN (
    SELECT run_id, test, node, sum(latency_ms - launch_ms) / 1000 AS load_s
    FROM operations WHERE NOT warm GROUP BY run_id, test, node
) AS o ON o.run_id = t.run_id AND o.test = t.nodeid AND o.node = t.node
LEFT JOIN (
    SELECT x.run_id, x.nodeid, sum(b.launch_ms) / 1000 AS launch_s
    FROM tests AS x
    JOIN browsers AS b
        ON b.run_id = x.run_id AND b.node = x.node
        AND b.launched_at >= x.started_at AND b.launched_at < x.started_at + x.duration_s
    GROUP BY x.run_id, x.nodeid
) AS l ON l.run_id = t.run_id AND l.nodeid = t.nodeid;
