-- What `browserpool apply` had set when a run began: with it the gain that came can be told from the gain that was
-- promised. `change` is the whole of it, as JSON.

CREATE TABLE applied (
    run_id VARCHAR NOT NULL,
    id VARCHAR NOT NULL,
    title VARCHAR NOT NULL,
    evidence VARCHAR NOT NULL,
    applied_at DOUBLE NOT NULL,
    expected_s DOUBLE,
    change VARCHAR NOT NULL
);
