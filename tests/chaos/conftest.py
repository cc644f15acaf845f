"""Faults injected into real browsers: a node per browser, and the table of what came of it.

The short form runs in ``make test``; ``make chaos`` sets BROWSERPOOL_CHAOS=full, which runs every fault on every browser
where it exists.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_support import Bench, here, make_bench
from chaos_support import Ledger

HERE = Path(__file__).parent
FULL = os.environ.get("BROWSERPOOL_CHAOS") == "full"
LEDGER: pytest.StashKey[Ledger] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEDGER] = Ledger()
    config.addinivalue_line("markers", "full: only in the full form of the chaos suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.chaos)
    if not FULL:
        left = [item for item in mine if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    ledger = config.stash[LEDGER]
    if ledger.lines:
        terminalreporter.section("faults on real browsers: outcome, seconds from the fault to the answer")
        for line in ledger.table():
            terminalreporter.write_line(line)


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Ledger:
    return request.config.stash[LEDGER]


@pytest.fixture(scope="module")
def shared_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = make_bench(tmp_path_factory.mktemp("chaos"), max_browsers=4)
    yield bench
    bench.node.close()


@pytest.fixture
def bench(bench: Bench) -> Bench:
    """The module's node, with a test begun on it and an empty record."""
    bench.rows("faults")
    bench.told.clear()
    return bench


@pytest.fixture(scope="session")
def browsers() -> list[str]:
    found = here()
    assert found, "no browser is installed: run `browserpool install`"
    return found
