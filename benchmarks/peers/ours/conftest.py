"""Counts for the benchmark, as each runner counts its own."""

from __future__ import annotations

import pytest
from suite import record


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    side = session.config.pluginmanager.getplugin("browserpool-node")
    node = getattr(side, "_node", None)
    if node is not None and node._pool is not None:
        record("totals", launches=node.pool.launches, loads=node.pool.loads)
