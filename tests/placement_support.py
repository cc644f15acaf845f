"""Helpers of the placement tests: nodes, needs, and an engine driven by hand."""

from __future__ import annotations

from typing import Any

from pytest_browserpool.placement.engine import PlacementEngine
from pytest_browserpool.placement.events import Command, NodeUp, Run, TestFinished, TestsCollected
from pytest_browserpool.placement.history import History, Sample
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.values import (
    BACKENDS,
    BackendSupport,
    BrowserCapabilities,
    ModelNeeds,
    NodeCapabilities,
    TestNeeds,
)

FAMILIES = {"chromium": "chrome", "headless-shell": "chrome", "firefox": "firefox", "edge": "edge"}


def node(
    name: str = "n1", *browsers: str, memory: float = 8.0, backends: tuple[str, ...] = ("wasm",)
) -> NodeCapabilities:
    """A node with ``browsers`` (chromium if none is named), each with ``backends``."""
    return NodeCapabilities(
        node=name,
        host=name,
        memory_gib=memory,
        browsers=tuple(
            BrowserCapabilities(
                name=b,
                family=FAMILIES[b],
                version="1",
                backends=tuple(
                    BackendSupport(
                        name=x,
                        available=x in backends,
                        detail="" if x in backends else "createContext throws",
                    )
                    for x in BACKENDS
                ),
            )
            for b in browsers or ("chromium",)
        ),
    )


def wanting(name: str, model: str = "m", **keywords: Any) -> TestNeeds:
    """A test of ``model`` with these marker keywords."""
    return TestNeeds(nodeid=name, needs=ModelNeeds(source=model, **keywords))


def engine(*nodes: NodeCapabilities, history: History | None = None, **config: Any) -> PlacementEngine:
    """An engine with these nodes up at 0."""
    made = PlacementEngine(EngineConfig(expected_nodes=len(nodes), **config), history)
    for capabilities in nodes:
        made.handle(NodeUp(at=0.0, capabilities=capabilities))
    return made


def collect(made: PlacementEngine, *tests: TestNeeds, at: float = 0.0) -> list[Command]:
    return made.handle(TestsCollected(at=at, tests=tests))


def runs(commands: list[Command]) -> list[Run]:
    return [c for c in commands if isinstance(c, Run)]


def finish(made: PlacementEngine, run: Run, at: float, seconds: float = 1.0) -> list[Command]:
    return made.handle(TestFinished(at=at, node=run.node, test=run.test, seconds=seconds))


def known_runs(**seconds: float) -> dict[tuple[str, str, str], Sample]:
    """``browser_model=seconds`` on wasm, measured often."""
    return {(k.split("_")[0], "wasm", k.split("_")[1]): Sample(v, 1000) for k, v in seconds.items()}
