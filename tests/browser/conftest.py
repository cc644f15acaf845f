"""One node with real browsers for all the tests here: launching them again for each would take minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_support import Bench, here, make_bench

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def shared_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = make_bench(tmp_path_factory.mktemp("bench"))
    yield bench
    bench.node.close()


@pytest.fixture
def bench(shared_bench: Bench, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The shared node, with a test begun on it."""
    shared_bench.node.begin_test(request.node.nodeid)
    yield shared_bench
    shared_bench.node.end_test()


@pytest.fixture
def fresh_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """A node of the test's own, with settings of its own."""
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(make_bench(tmp_path, **settings))
        made[-1].node.begin_test("fresh")
        return made[-1]

    yield make
    for each in made:
        each.node.close()


@pytest.fixture(params=["chromium", "firefox", "headless-shell"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param not in here():
        pytest.fail(f"{request.param} is not installed: run `browserpool install`")
    return str(request.param)
