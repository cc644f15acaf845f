"""Shared by all tests: pytester, which runs pytest on small suites, and fixtures of nodes with real browsers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest

# no test fails for the time that it took: machines are busy, and what is slow is for the benchmarks to say
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

HERE = Path(__file__).parent

pytest_plugins = ["pytester", "bench_fixtures"]

CACHES = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
"""Looked up before pytester changes the home directory."""
NOT_NEEDED = "-p no:hypothesispytest -p no:playwright"
"""Plugins that the small suites do without: importing them is a quarter of the time of each start of pytest."""

LONGEST_FIRST = (
    "browser/test_sharded.py",
    "chaos/test_faults.py",
    "chaos/test_hard_cases.py",
    "remote/test_nodes.py",
    "browser/test_traps.py",
    "browser/test_leases.py",
    "browser/test_nothing_left.py",
    "browser/test_bad_browser.py",
    "acceptance/test_lost_nodes.py",
    "browser/test_failures_real.py",
    "remote/test_remote_models.py",
    "browser/test_beside_plugins.py",
    "chaos/test_state.py",
    "test_docs.py",
    "acceptance/test_applied.py",
    "acceptance/test_recovery_outcomes.py",
    "chaos/test_standby.py",
    "acceptance/test_over_nodes.py",
    "browser/test_loading.py",
    "sharding/test_sharding_llm.py",
    "browser/test_models.py",
    "chaos/test_killed_runs.py",
    "browser/test_code_cache_real.py",
    "browser/test_learning.py",
    "remote/test_remote_shards.py",
    "browser/test_report_page.py",
    "browser/test_pool_size.py",
    "acceptance/test_needs.py",
    "browser/test_warm_calls.py",
    "test_compare_operators.py",
    "browser/test_transformers_js.py",
    "acceptance/test_own_runtime.py",
    "acceptance/test_other_directory.py",
    "browser/test_sessions.py",
    "chaos/test_own_strategy.py",
    "browser/test_sharded_refusals.py",
)
"""Files of tests with browsers by how long they take: a long one that begins last would keep all other cores waiting."""


def pytest_configure() -> None:
    """Interrupts work, for what the tests start too: a script that runs pytest in the background lets it inherit that they
    are ignored, and neither Ctrl-C nor execnet could end a run then."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    last = len(LONGEST_FIRST)
    ranks = {HERE / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, last))


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """pytester's runs have a home of their own, but the machine's caches.

    What was probed, fetched or compiled once (browsers, onnxruntime-web, shaders) is not again for each run.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", CACHES)
    monkeypatch.setenv("PYTEST_ADDOPTS", NOT_NEEDED)
    return pytester
