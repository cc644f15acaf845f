"""One node with real browsers for all the tests here: launching them again for each would take minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_browserpool.config import Settings
from pytest_browserpool.fixtures import Model
from pytest_browserpool.node.node import Node
from pytest_browserpool.values import ModelNeeds

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


class Bench:
    """A node and what it told the controller."""

    def __init__(self, node: Node, told: list[dict[str, Any]]) -> None:
        self.node, self.told = node, told

    def load(self, source: Any, browser: str, backend: str | None = "wasm", **needs: Any) -> Model:
        """A model in that browser, as a test of its own would get it."""
        wanted = ModelNeeds(browsers=(f"={browser}",), backends=(backend,) if backend else (), **needs)
        return Model(self.node, self.node.load(wanted, source, None))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [m["fields"] for m in self.told if m["kind"] == "event" and m["event"] == name]

    def page_of(self, model: Model) -> Any:
        loaded = model._resident.loaded
        assert loaded is not None
        return loaded.page

    def evaluate(self, model: Model, script: str) -> Any:
        """Runs a script in the model's page: how tests break it for real."""
        page = self.page_of(model)
        return self.node.call(lambda: page._page.evaluate(script), 10)


def make_bench(rootdir: Path, **settings: Any) -> Bench:
    told: list[dict[str, Any]] = []
    return Bench(Node(Settings(rootdir=str(rootdir), db="", **settings), "main", told.append), told)


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


def here() -> list[str]:
    """The browsers of this machine that the project is developed against and that are installed."""
    from pytest_browserpool.browsers.catalogue import discover

    found = {b.name for b in discover(Settings(rootdir=".", db="")).installed}
    return [name for name in ("chromium", "firefox", "headless-shell") if name in found]


@pytest.fixture(params=["chromium", "firefox", "headless-shell"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param not in here():
        pytest.fail(f"{request.param} is not installed: run `browserpool install`")
    return str(request.param)
