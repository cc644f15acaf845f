"""Shared by the history's tests: records that are plainly made up, and a process that writes."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "history.duckdb"
