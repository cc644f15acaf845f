"""The fixtures: ``model`` (a handle that is called with arrays) and ``browser_pool``. Thin, and easy to override."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from numpy.typing import NDArray

from pytest_browserpool.errors import BrowserPoolError, InputError, MarkerError, hide_from_traceback
from pytest_browserpool.models.inputs import checked
from pytest_browserpool.models.inspect import Tensor

__tracebackhide__ = hide_from_traceback

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node
    from pytest_browserpool.node.resident import Resident
    from pytest_browserpool.node.session import ModelSession
    from pytest_browserpool.node.sharded import ShardedResident
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

    def __init__(self, node: Node, resident: Resident | ShardedResident) -> None:
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
        """Milliseconds of ``runs`` inferences, each timed inside the page, after one that warms up.

        Raises:
            InputError: ``runs`` is no whole number from 1 on; or as a call.
        """
        if not isinstance(runs, int) or runs < 1:
            raise InputError(f"runs is {runs!r}", remedy="give a whole number from 1 on")
        arrays = checked(inputs, self._resident.info, where=self._resident.content.label)
        return self._node.benchmark(self._resident, arrays, runs)

    def session(
        self,
        state: Mapping[str, str],
        *,
        initial: Mapping[str, Any] | None = None,
        checkpoint_every: int | None = None,
    ) -> ModelSession:
        """The model with state that stays in the browser between calls: a recurrent state, a KV cache.

        ``state`` maps outputs to the inputs that they become at the next call. ``initial`` has those inputs before the
        first call; zeros where it leaves one out and the model fixes its size. Every ``checkpoint_every`` calls (16: the
        state is fetched then, and so many calls are replayed after a fault at most) the state is copied to the node.

        Raises:
            InputError: a name that the model does not have, types that do not match, an unknown size.
        """
        from pytest_browserpool.node.session import ModelSession

        return ModelSession(self._node, self._resident, state, initial, checkpoint_every)

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


@dataclass(frozen=True)
class Shard:
    """One browser's part of a sharded model, and where its time went in this test (milliseconds)."""

    browser: Browser
    node: str
    """That the browser is on: the one that runs the test, or another one that lends it."""
    instance: str
    """Which of several browsers of one kind: unlike for each shard."""
    backend: str
    """What really ran, joined with "+" where its segments differ."""
    segments: int
    """Pieces of the model that run there, each a session of its own."""
    placement: Mapping[str, int]
    """Nodes of the graph per execution provider."""
    threads: int
    """Of WebAssembly in its page, as the page says: the node's cores are shared by the shards."""
    load_time_ms: float
    calls: int
    compute_ms: float
    """Inside onnxruntime-web."""
    transfer_ms: float
    """Tensors on their way to the page and back, and the command itself."""
    idle_ms: float
    """Requests were under way, and nothing was asked of this browser."""
    bytes_in: int
    bytes_out: int
    faults: int


class ShardedModel(Model):
    """A model over several browsers: called like a ``Model``. ``browser`` is that of the first shard."""

    _resident: ShardedResident

    def run_many(
        self, inputs: Iterable[Mapping[str, Any]], in_flight: int | None = None
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """The outputs for each of ``inputs``, in their order, with several requests under way at once.

        ``inputs`` may be a generator: it is read only as fast as outputs are taken, and what it raises comes after the
        outputs for what it gave before. ``in_flight`` (twice the number of shards unless given: one request at work in
        each browser, and one on its way to it) bounds what is held.

        Raises:
            InputError: ``in_flight`` is no whole number from 1 on, said at once; or what a call raises for inputs.
            Fault: as a call.
        """
        from pytest_browserpool.node.opening import run_many

        resident = self._resident
        given = 2 * len(resident.lanes) if in_flight is None else in_flight
        if not isinstance(given, int) or given < 1:
            raise InputError(f"in_flight is {in_flight!r}", remedy="give 1 or more, or leave it out")
        many = (checked(each, resident.info, where=resident.content.label) for each in inputs)
        return (dict(reply.outputs) for reply in run_many(self._node, resident, many, given))

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Each browser's part, in the order of the plan."""
        found = []
        for lane, times in zip(self._resident.lanes, self._resident.times, strict=True):
            sessions = list(lane.sessions.values())
            placement: dict[str, int] = {}
            for loaded in sessions:
                for provider, nodes in loaded.session.placement.items():
                    placement[provider] = placement.get(provider, 0) + nodes
            process = sessions[0].instance.process
            found.append(
                Shard(
                    Browser(process.installed.name, process.version, process.installed.family),
                    node=sessions[0].instance.node or self._node.node_id,
                    instance=sessions[0].instance.identity,
                    backend=lane.backend,
                    segments=len(lane.stages),
                    placement=placement,
                    threads=lane.threads,
                    load_time_ms=lane.load_ms,
                    calls=times.calls,
                    compute_ms=times.compute_ms,
                    transfer_ms=times.transfer_ms,
                    idle_ms=times.idle_ms,
                    bytes_in=times.bytes_in,
                    bytes_out=times.bytes_out,
                    faults=times.faults,
                )
            )
        return tuple(found)

    @property
    def plan(self) -> str:
        """How the model was cut, in words; where a backend ran nothing of its part, that it was cut anew for it."""
        again = [f"  cut anew: {refusal}" for refusal in self._resident.refusals]
        return "\n".join([self._resident.made.sharded.plan.describe(), *again])


class BrowserPool:
    """The browsers of this process, for tests that need more than one model."""

    def __init__(self, node: Node, request: pytest.FixtureRequest) -> None:
        self._node, self._request = node, request

    def load(self, source: Any, **keywords: Any) -> Model:
        """Loads a model like the marker does; ``keywords`` are the marker's and stand above those of the test's own."""
        from pytest_browserpool import markers

        try:
            needs, raw = markers.needs_for_call(self._request.node, source, keywords)
            return _model(self._node, needs, raw, self._request.node.path)
        except BrowserPoolError as error:
            # how sources are read and markers parsed says nothing to a test's author
            raise error.with_traceback(None) from error.__cause__

    def lease(
        self, browsers: Sequence[str] | None = None, backends: Sequence[str] | None = None
    ) -> AbstractContextManager[Any]:
        """``with browser_pool.lease() as page:`` — a page of its own, with Playwright's methods, synchronous. The marker's
        ``timeout`` bounds each of them."""
        from pytest_browserpool import markers
        from pytest_browserpool.node.lease import leased

        try:
            timeout = markers.request_for(self._request.node).needs.timeout
        except BrowserPoolError as error:
            raise error.with_traceback(None) from error.__cause__
        return leased(self._node, browsers, backends, timeout)

    @property
    def browsers(self) -> list[Browser]:
        """What is running now."""
        pool = self._node.pool
        return [
            Browser(i.name, i.process.version, i.process.installed.family) for i in pool.instances if i.usable
        ]

    def stats(self) -> dict[str, Any]:
        """Counts since the process began: launches, loads, warm hits, evictions, sessions now; bytes and health (0 to
        100) of each browser; the circuit breaker (closed, open, half_open) of each name that has met a fault."""
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
            "health": {
                f"{i.name}#{i.identity.split('/')[-1]}": round(i.health.score) for i in list(pool.instances)
            },
            "breakers": self._node.recovery.circuits(),
        }


def _model(node: Node, needs: ModelNeeds, source: Any, test_file: Path) -> Model:
    if (needs.shards or 1) > 1:
        from pytest_browserpool.node.opening import open_sharded

        return ShardedModel(node, open_sharded(node, needs, source, test_file))
    return Model(node, node.load(needs, source, test_file))


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Model:
    """The model of the test's ``model`` marker, loaded in a real browser. Function-scoped; its session stays warm."""
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
    """The pool of real browsers of this process, with ``load`` and ``lease``.

    Function-scoped, like ``model``: deadlines, recoveries and the record are each test's own, so a fixture of class, module
    or session scope cannot ask for it (pytest's ScopeMismatch). Load in each test, or in a function-scoped fixture: browsers
    and sessions stay warm between tests, and a model that is loaded again is found where it is.
    """
    from pytest_browserpool import worker

    return BrowserPool(worker.node_for(request.node), request)
