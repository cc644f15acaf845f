-- Views for the common questions. Timestamps are UTC. Percentiles leave out failed and degraded operations.

CREATE VIEW operations AS
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

CREATE VIEW run_summary AS
SELECT
    r.run_id,
    make_timestamp(CAST(round(r.started_at * 1000000) AS BIGINT)) AS started_at,
    r.finished_at - r.started_at AS duration_s,
    r.exit_status,
    r.host,
    r.scheduler,
    r.arguments,
    coalesce(t.tests, 0) AS tests,
    coalesce(t.passed, 0) AS passed,
    coalesce(t.failed, 0) AS failed,
    coalesce(t.skipped, 0) AS skipped,
    coalesce(n.nodes, 0) AS nodes,
    coalesce(b.launches, 0) AS launches,
    coalesce(o.loads, 0) AS loads,
    coalesce(o.calls, 0) AS calls,
    coalesce(f.faults, 0) AS faults
FROM runs AS r
LEFT JOIN (
    SELECT run_id, count(*) AS tests,
        count(*) FILTER (outcome IN ('passed', 'xpassed')) AS passed,
        count(*) FILTER (outcome IN ('failed', 'error', 'crashed')) AS failed,
        count(*) FILTER (outcome IN ('skipped', 'xfailed')) AS skipped
    FROM tests GROUP BY run_id
) AS t USING (run_id)
LEFT JOIN (SELECT run_id, count(*) AS nodes FROM nodes GROUP BY run_id) AS n USING (run_id)
LEFT JOIN (SELECT run_id, count(*) AS launches FROM browsers GROUP BY run_id) AS b USING (run_id)
LEFT JOIN (
    SELECT run_id,
        count(*) FILTER (kind = 'load' AND NOT warm) AS loads,
        count(*) FILTER (kind <> 'load') AS calls
    FROM operations_log GROUP BY run_id
) AS o USING (run_id)
LEFT JOIN (SELECT run_id, count(*) AS faults FROM faults GROUP BY run_id) AS f USING (run_id);

CREATE VIEW latency_by_backend AS
SELECT
    model,
    browser,
    backend,
    kind,
    warm,
    count(*) AS operations,
    median(latency_ms) AS median_ms,
    quantile_cont(latency_ms, 0.95) AS p95_ms,
    min(latency_ms) AS min_ms,
    max(latency_ms) AS max_ms
FROM operations
WHERE ok AND NOT degraded
GROUP BY ALL;

CREATE VIEW test_costs AS
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
    SELECT run_id, nodeid, node, sum(latency_ms) / 1000 AS load_s
    FROM operations_log WHERE NOT warm GROUP BY run_id, nodeid, node
) AS o ON o.run_id = t.run_id AND o.nodeid = t.nodeid AND o.node = t.node
LEFT JOIN (
    SELECT x.run_id, x.nodeid, sum(b.launch_ms) / 1000 AS launch_s
    FROM tests AS x
    JOIN browsers AS b
        ON b.run_id = x.run_id AND b.node = x.node
        AND b.launched_at >= x.started_at AND b.launched_at < x.started_at + x.duration_s
    GROUP BY x.run_id, x.nodeid
) AS l ON l.run_id = t.run_id AND l.nodeid = t.nodeid;

CREATE VIEW fault_summary AS
SELECT
    browser,
    kind,
    outcome,
    count(*) AS faults,
    median(recovery_ms) AS median_recovery_ms,
    make_timestamp(CAST(round(max("at") * 1000000) AS BIGINT)) AS last_at
FROM faults
GROUP BY ALL;
