"""Fixtures of the tests that look inside a node with real browsers; a directory says itself how long its node lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # every test process imports this module, few need a node
    from bench_support import Bench


def mark_all(items: list[pytest.Item], directory: Path, mark: pytest.MarkDecorator) -> list[pytest.Item]:
    """Marks the tests below ``directory``: a conftest is told of all that are collected. Which they are."""
    mine = [item for item in items if directory in item.path.parents]
    for item in mine:
        item.add_marker(mark)
    return mine


@pytest.fixture
def bench(shared_bench: Bench, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The directory's ``shared_bench``, with a test begun on it."""
    shared_bench.node.begin_test(request.node.nodeid)
    yield shared_bench
    shared_bench.node.end_test()


@pytest.fixture
def fresh_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """A node of the test's own, with settings of its own."""
    from bench_support import make_bench

    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(make_bench(tmp_path, **settings))
        made[-1].node.begin_test("fresh")
        return made[-1]

    yield make
    for each in made:
        each.node.close()
