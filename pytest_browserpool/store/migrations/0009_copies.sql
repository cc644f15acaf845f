-- How many files should hold the history, as the last run had it: one row. What asks later (`browserpool verify`) can tell a
-- copy that is missing from one that nobody wanted, and one that is behind from one that is renewed in time.

CREATE TABLE copies (
    files BIGINT NOT NULL,
    since DOUBLE NOT NULL,
    renewed_every_s DOUBLE NOT NULL,
    renewed_at DOUBLE
);
