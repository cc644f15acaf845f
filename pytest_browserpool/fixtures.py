"""The fixtures: ``model`` (a handle that is called with arrays) and ``browser_pool``. Thin, and easy to override."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from numpy.typing import NDArray

from pytest_browserpool.errors import MarkerError, ShardingError, hide_from_traceback
from pytest_browserpool.models.inputs import checked
from pytest_browserpool.models.inspect import Tensor

__tracebackhide__ = hide_from_traceback

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node
    from pytest_browserpool.node.resident import Resident
    from pytest_browserpool.values import ModelNeeds


@dataclass(frozen=True)
class Browser:
    """A browser as a test sees it."""

    name: str
    """As in ``browsers=``: chromium, firefox, headless-shell …"""
    version: str
    """As the browser says it."""
    family: str
    """chrome, edge, firefox or webkit."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Model:
    """A model in a real browser. Call it with ``{input name: array}``; it returns ``{output name: array}``.

    The outputs own their memory. Attributes that say what really ran (``browser``, ``backend``, ``placement``) are None
    or empty until a session exists: at once, except on WebNN for a model with open shapes, where the first call (or
    ``input_shapes=``) fixes them.
    """

    def __init__(self, node: Node, resident: Resident) -> None:
        self._node, self._resident = node, resident
        self.last_inputs: dict[str, NDArray[Any]] | None = None
        """The arrays of the latest call as they were sent; ``assert_close`` takes dynamic shapes from them."""

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Runs the model once.

        Raises:
            InputError: an unknown or missing input, a wrong dtype or shape. Nothing was sent then.
            RunFailed: onnxruntime-web raised. Fault: browser, page or GPU failed.
        """
        return self.run(inputs)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """What a call does."""
        arrays = checked(inputs, self._resident.info, where=self._resident.content.label)
        self.last_inputs = arrays
        return dict(self._node.run(self._resident, arrays).outputs)

    def benchmark(self, inputs: Mapping[str, Any], runs: int = 10) -> list[float]:
        """Milliseconds of ``runs`` inferences, each timed inside the page, after one that warms up."""
        arrays = checked(inputs, self._resident.info, where=self._resident.content.label)
        return self._node.benchmark(self._resident, arrays, runs)

    def reload(self) -> None:
        """Makes the session anew in the same browser."""
        self._node.reload(self._resident)

    @property
    def browser(self) -> Browser | None:
        """The browser that has the session."""
        loaded = self._resident.loaded
        if loaded is None:
            return None
        process = loaded.instance.process
        return Browser(process.installed.name, process.version, process.installed.family)

    @property
    def backend(self) -> str | None:
        """The backend that really ran, by onnxruntime's own placement log."""
        return self._resident.use.backend or None

    @property
    def placement(self) -> dict[str, int]:
        """Nodes of the graph per execution provider; WebNN's are counted before it fuses them."""
        return dict(self._resident.use.placement)

    @property
    def adapter(self) -> str:
        """The WebGPU adapter in words, with "software" or "hardware"; empty on other backends."""
        return self._resident.use.adapter

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the model declares: name, dtype, dims."""
        return self._resident.info.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What the model declares to return: name, dtype, dims."""
        return self._resident.info.outputs

    @property
    def metadata(self) -> Mapping[str, str]:
        """The model's own metadata (an alphabet, labels …)."""
        return self._resident.info.metadata

    @property
    def path(self) -> Path:
        """The ONNX file, for reference runs elsewhere. Do not write to it."""
        return self._resident.content.path

    @property
    def sha256(self) -> str:
        """The hash of the model's bytes, in hexadecimal."""
        return self._resident.content.sha256

    @property
    def label(self) -> str:
        """The source as the test wrote it."""
        return self._resident.content.label

    @property
    def timings(self) -> list[float]:
        """Milliseconds of each call in this test, from call to return."""
        return list(self._resident.use.timings)

    @property
    def load_time_ms(self) -> float:
        """Milliseconds of creating the session; 0 where it was warm."""
        return self._resident.use.load_ms

    @property
    def warm(self) -> bool:
        """Whether the session was there before this test."""
        return self._resident.use.warm

    @property
    def degraded(self) -> bool:
        """Whether it runs on the CPU because the wanted backend failed and the marker allowed it."""
        return self._resident.use.degraded

    @property
    def recoveries(self) -> int:
        """How many faults this test's operations on the model survived."""
        return self._resident.use.recoveries

    def __repr__(self) -> str:
        return f"<model {self.label} on {self.backend} in {self.browser}>"


class BrowserPool:
    """The browsers of this process, for tests that need more than one model."""

    def __init__(self, node: Node, request: pytest.FixtureRequest) -> None:
        self._node, self._request = node, request

    def load(self, source: Any, **keywords: Any) -> Model:
        """Loads a model like the marker does; ``keywords`` are the marker's and stand above those of the test's own."""
        from pytest_browserpool import markers

        needs, raw = markers.needs_for_call(self._request.node, source, keywords)
        return _model(self._node, needs, raw, self._request.node.path)

    def lease(
        self, browsers: Sequence[str] | None = None, backends: Sequence[str] | None = None
    ) -> AbstractContextManager[Any]:
        """``with browser_pool.lease() as page:`` — a page of its own, with Playwright's methods, synchronous."""
        return self._node.lease(browsers, backends)

    @property
    def browsers(self) -> list[Browser]:
        """What is running now."""
        pool = self._node.pool
        return [
            Browser(i.name, i.process.version, i.process.installed.family) for i in pool.instances if i.usable
        ]

    def stats(self) -> dict[str, Any]:
        """Counts since the process began: launches, loads, warm hits, evictions, sessions now, bytes of each browser."""
        pool = self._node.pool
        return {
            "launches": pool.launches,
            "loads": pool.loads,
            "warm_hits": pool.warm_hits,
            "evictions": pool.evictions,
            "sessions": sum(len(i.sessions()) for i in pool.instances),
            "memory_bytes": {
                f"{i.name}#{i.identity.split('/')[-1]}": i.process.memory() for i in list(pool.instances)
            },
        }


def _model(node: Node, needs: ModelNeeds, source: Any, test_file: Path) -> Model:
    if (needs.shards or 1) > 1:  # never whole instead: a test that asked for shards would prove what it did not do
        raise ShardingError(
            f"shards={needs.shards}: this version does not run the shards of a model in browsers",
            where=needs.source,
            remedy="leave shards out; pytest_browserpool.sharding.prepare cuts a model and checks the pieces natively",
        )
    return Model(node, node.load(needs, source, test_file))


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Model:
    """The model of the test's ``model`` marker, loaded in a real browser."""
    from pytest_browserpool import markers, worker

    wanted = markers.request_for(request.node)
    if wanted.source is None:
        raise MarkerError(
            "the marker names no source, so there is nothing to load",
            where=request.node.nodeid,
            remedy='@pytest.mark.model("path/to/model.onnx"), or use browser_pool.load(source)',
        )
    return _model(worker.node_for(request.node), wanted.needs, wanted.source, wanted.test_file)


@pytest.fixture
def browser_pool(request: pytest.FixtureRequest) -> BrowserPool:
    """The pool of real browsers of this process."""
    from pytest_browserpool import worker

    return BrowserPool(worker.node_for(request.node), request)
