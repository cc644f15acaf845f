-- The tables: one for each record type of records.py, columns in the order of its fields.
-- Times (*_at) are seconds since the epoch, UTC. The views turn them into timestamps.
-- No table has a primary key: an index made the file four times as large and inserts half as fast (measured,
-- 1,000,000 rows). The writer, the only one there is, deletes a row's earlier version before it inserts the new one.

CREATE TABLE runs (
    run_id VARCHAR NOT NULL,
    started_at DOUBLE NOT NULL,
    finished_at DOUBLE,
    exit_status BIGINT,
    arguments VARCHAR NOT NULL,
    scheduler VARCHAR NOT NULL,
    host VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    runtime VARCHAR NOT NULL
);

CREATE TABLE nodes (
    run_id VARCHAR NOT NULL,
    node VARCHAR NOT NULL,
    host VARCHAR NOT NULL,
    cores BIGINT NOT NULL,
    memory_gib DOUBLE NOT NULL,
    gpu VARCHAR NOT NULL,
    python VARCHAR NOT NULL,
    up_at DOUBLE NOT NULL,
    down_at DOUBLE,
    down_reason VARCHAR NOT NULL
);

CREATE TABLE browsers (
    run_id VARCHAR NOT NULL,
    node VARCHAR NOT NULL,
    instance VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    family VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    adapter VARCHAR NOT NULL,
    executable VARCHAR NOT NULL,
    launched_at DOUBLE NOT NULL,
    launch_ms DOUBLE NOT NULL,
    closed_at DOUBLE,
    close_reason VARCHAR NOT NULL
);

CREATE TABLE models (
    sha256 VARCHAR NOT NULL,
    label VARCHAR NOT NULL,
    id VARCHAR NOT NULL,
    type VARCHAR NOT NULL,
    bytes BIGINT NOT NULL
);

CREATE TABLE tests (
    run_id VARCHAR NOT NULL,
    nodeid VARCHAR NOT NULL,
    node VARCHAR NOT NULL,
    outcome VARCHAR NOT NULL,
    started_at DOUBLE NOT NULL,
    duration_s DOUBLE NOT NULL,
    browser VARCHAR NOT NULL,
    backend VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    latency_ms DOUBLE,
    degraded BOOLEAN NOT NULL,
    recoveries BIGINT NOT NULL,
    message VARCHAR NOT NULL
);

CREATE TABLE operations_log (
    run_id VARCHAR NOT NULL,
    operation VARCHAR NOT NULL,
    nodeid VARCHAR NOT NULL,
    node VARCHAR NOT NULL,
    instance VARCHAR NOT NULL,
    browser VARCHAR NOT NULL,
    browser_version VARCHAR NOT NULL,
    backend VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    started_at DOUBLE NOT NULL,
    latency_ms DOUBLE NOT NULL,
    page_ms DOUBLE,
    warm BOOLEAN NOT NULL,
    bytes_in BIGINT NOT NULL,
    bytes_out BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    degraded BOOLEAN NOT NULL,
    placement VARCHAR NOT NULL,
    ok BOOLEAN NOT NULL,
    error VARCHAR NOT NULL
);

CREATE TABLE decisions (
    run_id VARCHAR NOT NULL,
    nodeid VARCHAR NOT NULL,
    "at" DOUBLE NOT NULL,
    node VARCHAR NOT NULL,
    browser VARCHAR NOT NULL,
    backend VARCHAR NOT NULL,
    expected_s DOUBLE,
    breakdown VARCHAR NOT NULL,
    factors VARCHAR NOT NULL,
    alternatives VARCHAR NOT NULL
);

CREATE TABLE faults (
    run_id VARCHAR NOT NULL,
    node VARCHAR NOT NULL,
    "at" DOUBLE NOT NULL,
    kind VARCHAR NOT NULL,
    nodeid VARCHAR NOT NULL,
    operation VARCHAR NOT NULL,
    instance VARCHAR NOT NULL,
    browser VARCHAR NOT NULL,
    detail VARCHAR NOT NULL,
    strategy VARCHAR NOT NULL,
    attempts VARCHAR NOT NULL,
    outcome VARCHAR NOT NULL,
    recovery_ms DOUBLE
);

CREATE TABLE metrics (
    run_id VARCHAR NOT NULL,
    node VARCHAR NOT NULL,
    "at" DOUBLE NOT NULL,
    name VARCHAR NOT NULL,
    value DOUBLE NOT NULL,
    instance VARCHAR NOT NULL
);

-- What was written when: a batch that is here is not written again, so a spool file that was merged by a process
-- which died before it removed the file counts once.
CREATE TABLE batches (
    batch VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL,
    "rows" BIGINT NOT NULL,
    written_at DOUBLE NOT NULL
);
