"""A runner for small suites in a process of their own."""

from __future__ import annotations

import pytest
from acceptance_support import Runner


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(pytester, monkeypatch)
