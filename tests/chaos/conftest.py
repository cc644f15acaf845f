"""Faults injected into real browsers: a node per browser, and the table of what came of it.

The short form runs in ``make test``; ``make chaos`` sets BROWSERPOOL_CHAOS=full, which runs every fault on every browser
where it exists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_fixtures import mark_all
from bench_support import Bench, here, open_bench
from chaos_support import Ledger, Seen, each_once, listen, none_of, nothing_astray, token_of

HERE = Path(__file__).parent
FULL = os.environ.get("BROWSERPOOL_CHAOS") == "full"
LEDGER: pytest.StashKey[Ledger] = pytest.StashKey()


OF_THE_HISTORY = {
    "test_a_flipped_byte_never_costs_a_row": "history file: a byte flipped",
    "test_a_truncated_file_never_costs_a_row": "history file: truncated",
    "test_damage_at_random_places_never_costs_a_row": "history file: flips and truncation at 200 random places",
    "test_rows_of_a_killed_process_that_were_committed_are_there": "writer of the history SIGKILLed",
    "test_a_full_disk_costs_only_what_did_not_fit": "disk full (a tmpfs of 2 MiB), then not",
    "test_a_disk_that_stays_full_loses_the_rows_loudly_and_keeps_what_was_there": "disk full for good",
    "test_a_directory_that_cannot_be_written_costs_the_history_and_says_so": "read-only directory",
}
"""Tests of tests/store that `make chaos` runs too, and their line in the table."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEDGER] = Ledger()
    config.addinivalue_line("markers", "full: only in the full form of the chaos suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mine = mark_all(items, HERE, pytest.mark.chaos)
    if not FULL:
        left = [item for item in mine if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    ledger = config.stash[LEDGER]
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            line = OF_THE_HISTORY.get(report.nodeid.rpartition("::")[2].partition("[")[0])
            if line is not None and (report.when == "call" or outcome != "passed"):
                ledger.add(line, "any", outcome, None)
    if ledger.lines:
        terminalreporter.section("faults on real browsers: outcome, seconds from the fault to the answer")
        for line in ledger.table():
            terminalreporter.write_line(line)


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Ledger:
    return request.config.stash[LEDGER]


@pytest.fixture(scope="module")
def shared_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with open_bench(tmp_path_factory.mktemp("chaos"), max_browsers=4) as bench:
        yield bench


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the test itself sees of each call it makes."""
    return listen(monkeypatch)


@pytest.fixture
def bench(bench: Bench, seen: Seen) -> Iterator[Bench]:
    """The module's node, with a test begun on it and an empty record. Afterwards the record has each of the test's calls
    once, as the test saw it, and no process of what failed is left."""
    bench.rows("faults")
    bench.told.clear()
    yield bench
    each_once([bench], seen)
    nothing_astray(bench)


@pytest.fixture
def fresh_bench(fresh_bench: Callable[..., Bench], seen: Seen) -> Iterator[Callable[..., Bench]]:
    """Nodes of the test's own. Afterwards as for ``bench``, and with a node all its processes end."""
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(fresh_bench(**settings))
        return made[-1]

    yield make
    each_once(made, seen)
    for bench in made:
        nothing_astray(bench)
        token = token_of(bench)
        bench.node.close()
        none_of(token)


@pytest.fixture(scope="session")
def browsers() -> list[str]:
    found = here()
    assert found, "no browser is installed: run `browserpool install`"
    return found
