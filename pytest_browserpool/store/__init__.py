"""The history: one DuckDB file, written by the controller alone, read by everybody."""
