"""One node with real browsers for all the tests here: launching them again for each would take minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_fixtures import mark_all
from bench_support import Bench, here, open_bench

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_all(items, HERE, pytest.mark.browser)


@pytest.fixture(scope="session")
def shared_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with open_bench(tmp_path_factory.mktemp("bench")) as bench:
        yield bench


@pytest.fixture(params=["chromium", "firefox", "headless-shell"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param not in here():
        pytest.fail(f"{request.param} is not installed: run `browserpool install`")
    return str(request.param)
