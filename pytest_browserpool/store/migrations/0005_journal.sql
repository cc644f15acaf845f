-- The transactions of each node's state: browsers, models and operations, as they changed. In the order of `number` they
-- can be applied to an empty state; `changes` is JSON.

CREATE TABLE journal (
    run_id VARCHAR NOT NULL,
    node VARCHAR NOT NULL,
    number BIGINT NOT NULL,
    "at" DOUBLE NOT NULL,
    changes VARCHAR NOT NULL
);
