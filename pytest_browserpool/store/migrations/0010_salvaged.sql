-- From which runs rows were read out of a damaged file, and whether that was all: of a run that was not read completely, rows
-- which come again (from a spool file, from a run that goes on) are compared with what is there.

CREATE TABLE salvaged (
    run_id VARCHAR NOT NULL,
    file VARCHAR NOT NULL,
    "at" DOUBLE NOT NULL,
    "rows" BIGINT NOT NULL,
    complete BOOLEAN NOT NULL
);
