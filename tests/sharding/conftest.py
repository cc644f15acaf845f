"""Real models for the sharding tests, from the shared cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sharding_graphs import REAL, resnet50

from pytest_browserpool.errors import SourceError
from pytest_browserpool.models.sources import LockFile, resolve

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture
def real_model(tmp_path: Path) -> Callable[[str], tuple[Path, Shapes]]:
    """The file of a real model by name, and the shapes to read it at; skips where it cannot be fetched."""

    def get(name: str) -> tuple[Path, Shapes]:
        if name == "resnet50":
            return resnet50(), {}
        source, shapes = REAL[name]
        try:
            found = resolve(
                source, test_file=None, rootdir=tmp_path, lock=LockFile(tmp_path / "browserpool.lock")
            )
        except SourceError as error:
            pytest.skip(f"the model cannot be had: {error.what}")
        return found.path, dict(shapes)

    return get
