"""The fixtures of these tests: a cache and a server of their own, and small real graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
from artefact_support import cache, server

from pytest_browserpool.models.lock import LockFile

__all__ = ["cache", "server"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


@pytest.fixture
def lock(project: Path) -> LockFile:
    return LockFile.of(project)
