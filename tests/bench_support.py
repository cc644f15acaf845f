"""A node with real browsers and what it told the controller: for tests that look inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_browserpool.config import Settings
from pytest_browserpool.fixtures import Model
from pytest_browserpool.link import each_of
from pytest_browserpool.node.node import Node
from pytest_browserpool.values import ModelNeeds


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

    def rows(self, table: str) -> list[dict[str, Any]]:
        """What the history gets."""
        self.node.report.flush()
        return [m["row"] for m in self.told if m["kind"] == "record" and m["table"] == table]

    def page_of(self, model: Model) -> Any:
        loaded = model._resident.loaded
        assert loaded is not None
        return loaded.page

    def cut(self, model: Model) -> None:
        """Resets the connection of the model's page, as a broken network would."""
        page = self.page_of(model)

        async def abort() -> None:
            page.channel._socket._req.transport.abort()

        self.node.call(abort, 10)

    def evaluate(self, model: Model, script: str) -> Any:
        """Runs a script in the model's page: how tests break it for real."""
        page = self.page_of(model)
        return self.node.call(lambda: page._page.evaluate(script), 10)


@contextmanager
def open_bench(rootdir: Path, **settings: Any) -> Iterator[Bench]:
    """A node of its own, which ends with the context."""
    bench = make_bench(rootdir, **settings)
    try:
        yield bench
    finally:
        bench.node.close()


def make_bench(rootdir: Path, **settings: Any) -> Bench:
    told: list[dict[str, Any]] = []
    node = Node(
        Settings(rootdir=str(rootdir), db="", **settings),
        "main",
        lambda message: told.extend(each_of(message)),
    )
    return Bench(node, told)


def here() -> list[str]:
    """The browsers of this machine that the project is developed against and that are installed."""
    from pytest_browserpool.browsers.catalogue import discover

    found = {b.name for b in discover(Settings(rootdir=".", db="")).installed}
    return [name for name in ("chromium", "firefox", "headless-shell") if name in found]
