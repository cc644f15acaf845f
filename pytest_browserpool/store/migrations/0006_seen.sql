-- What the scheduler foresaw beside what came, the tests that it moved, and what failures left to look at.

CREATE TABLE forecasts (
    run_id VARCHAR NOT NULL,
    "at" DOUBLE NOT NULL,
    browser VARCHAR NOT NULL,
    horizon_s DOUBLE NOT NULL,
    utilization DOUBLE NOT NULL,
    active_models BIGINT NOT NULL,
    overloaded BOOLEAN NOT NULL,
    confidence DOUBLE NOT NULL,
    as_last_minute DOUBLE NOT NULL,
    came DOUBLE
);

CREATE TABLE steals (
    run_id VARCHAR NOT NULL,
    nodeid VARCHAR NOT NULL,
    "at" DOUBLE NOT NULL,
    from_node VARCHAR NOT NULL,
    to_node VARCHAR NOT NULL,
    expected_there_s DOUBLE,
    took_s DOUBLE,
    useful BOOLEAN
);

CREATE TABLE attachments (
    run_id VARCHAR NOT NULL,
    nodeid VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    content VARCHAR NOT NULL
);

CREATE VIEW forecast_errors AS
-- How good the forecasts of a browser's next minute were, beside "as the last minute".
SELECT
    run_id,
    browser,
    count(*) AS forecasts,
    avg(abs(utilization - came)) AS mean_error,
    avg(abs(as_last_minute - came)) AS mean_error_as_last_minute
FROM forecasts
WHERE came IS NOT NULL
GROUP BY ALL;
