"""Values that travel: what a node can do, what a test needs.

All of them are frozen and turn into plain builtins (``to_plain``) and back (``from_plain``), because execnet
carries only builtins and the nodes may run another version of Python.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Backend = str
"""``webgpu``, ``webnn``, ``webnn-gpu``, ``webnn-npu`` or ``wasm``."""

BACKENDS: tuple[Backend, ...] = ("webgpu", "webnn", "webnn-gpu", "webnn-npu", "wasm")
"""Every backend, the accelerated ones first; wasm runs anything."""

BACKEND_ALIASES: Mapping[str, Backend] = {"cpu": "wasm", "webnn-cpu": "webnn"}

Strategy = Literal["progressive", "immediate", "coordinated", "none"]
STRATEGIES: tuple[str, ...] = ("progressive", "immediate", "coordinated", "none")


class Plain:
    """Mixin for frozen dataclasses: to builtins and back, nested, unknown keys ignored (older and newer nodes mix)."""

    def to_plain(self) -> dict[str, Any]:
        """This value as builtins only."""
        return {name: _lower(getattr(self, name)) for name in self.__dataclass_fields__}  # type: ignore[attr-defined]

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The value that ``to_plain`` made ``plain`` from."""
        hints = _hints(cls)  # type: ignore[arg-type]  # mypy takes a class for unhashable
        return cls(
            **{
                key: value if type(value) in _SCALARS else _raise(hints[key], value)
                for key, value in plain.items()
                if key in hints
            }
        )


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Type of each field. Kept: resolving the annotations took 200 µs, which each row of the history would pay."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


_SCALARS = frozenset({str, int, float, bool, type(None), bytes})


def _lower(value: Any) -> Any:
    if (
        type(value) in _SCALARS
    ):  # nearly every value: rows of the history are flat, and there is one for each call
        return value
    if isinstance(value, Plain):
        return value.to_plain()
    if isinstance(value, Mapping):
        return {str(k): _lower(v) for k, v in value.items()}
    if isinstance(value, (tuple, list, frozenset, set)):
        items = sorted(value) if isinstance(value, (frozenset, set)) else value
        return [_lower(v) for v in items]
    return value


def _raise(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            if option is not type(None):
                return _raise(option, value)
    if isinstance(hint, type) and issubclass(hint, Plain):
        return hint.from_plain(value)
    arguments = typing.get_args(hint)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_raise(arguments[0], v) for v in value)
        return tuple(_raise(h, v) for h, v in zip(arguments, value, strict=True))
    if origin is frozenset:
        return frozenset(_raise(arguments[0], v) for v in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {k: _raise(arguments[1], v) for k, v in value.items()}
    return value


@dataclass(frozen=True, kw_only=True)
class Adapter(Plain):
    """A WebGPU adapter as ``adapter.info`` describes it. A software one is another capability than a hardware one."""

    vendor: str = ""
    architecture: str = ""
    device: str = ""
    description: str = ""
    fallback: bool = False

    @property
    def software(self) -> bool:
        """Whether shaders run on the CPU. ``isFallbackAdapter`` is not enough: lavapipe does not set it."""
        words = f"{self.vendor} {self.architecture} {self.device} {self.description}".lower()
        return self.fallback or any(
            w in words for w in ("swiftshader", "llvmpipe", "lavapipe", "warp", "basic render")
        )

    def __str__(self) -> str:
        name = (
            self.description
            or " ".join(x for x in (self.vendor, self.architecture, self.device) if x)
            or "unknown"
        )
        return f"{name} ({'software' if self.software else 'hardware'})"


@dataclass(frozen=True, kw_only=True)
class BackendSupport(Plain):
    """What the probe page found of one backend in one browser."""

    name: Backend
    available: bool
    detail: str = ""
    """Why it is not available, or what it runs on."""
    adapter: Adapter | None = None
    faulted: bool = False
    """Whether the browser gave no answer, where another time it may: such an answer is not kept for good."""


@dataclass(frozen=True, kw_only=True)
class BrowserCapabilities(Plain):
    """One browser of a node, probed."""

    name: str
    family: str
    version: str
    backends: tuple[BackendSupport, ...] = ()
    isolated: bool = False
    """Whether pages are cross-origin isolated, so that wasm threads work."""

    def gives(self, backend: Backend) -> bool:
        """Whether the probe found ``backend`` to work."""
        return any(b.name == backend and b.available for b in self.backends)

    @property
    def usable(self) -> tuple[Backend, ...]:
        return tuple(b.name for b in self.backends if b.available)

    @property
    def preference(self) -> tuple[Backend, ...]:
        """The order in which backends are tried for a test that names none.

        WebGPU on a software adapter comes last: it compiles for seconds (3 – 18 s a model, measured) what wasm runs at
        once. Everywhere else it comes first.
        """
        software = any(
            b.name == "webgpu" and b.adapter is not None and b.adapter.software for b in self.backends
        )
        return (*(b for b in BACKENDS if b != "webgpu"), "webgpu") if software else BACKENDS

    def answers_to(self, wanted: str) -> bool:
        """Whether a marker's ``browsers=[wanted]`` means this browser: by name or by family; ``=NAME`` by name alone."""
        return wanted[1:] == self.name if wanted.startswith("=") else wanted in (self.name, self.family)


@dataclass(frozen=True, kw_only=True)
class NodeCapabilities(Plain):
    """What one node (xdist worker) has, sent to the controller before scheduling."""

    node: str
    host: str = ""
    machine: str = ""
    """What the nodes that share its cores have in common; empty: the host's name."""
    cores: int = 1
    memory_gib: float = 0.0
    """Memory that this node may use for browsers, in GiB."""
    gpu: str = ""
    max_browsers: int = 3
    browsers: tuple[BrowserCapabilities, ...] = ()
    cached_models: frozenset[str] = frozenset()
    """Hashes of the models in the node's cache."""

    def browser(self, name: str) -> BrowserCapabilities | None:
        return next((b for b in self.browsers if b.name == name), None)


def sharded_key(model: str, shards: int) -> str:
    """The model key of a model that is cut over ``shards`` browsers: its times are not those of the whole."""
    return f"{model} in {shards} shards" if shards > 1 else model


@dataclass(frozen=True, kw_only=True)
class ModelNeeds(Plain):
    """What a test asks for, from its ``model`` markers. Every field but ``source`` is a marker keyword."""

    source: str | None = None
    """The source in words: the reference as written, or a content hash for bytes, protos and functions."""
    id: str | None = None
    """A name for the model in history and reports; tests that share it share what is learned. Without it: the source."""
    type: str | None = None
    """audio, vision, text, text_embedding, large_language_model, multimodal, or any word of your own: what the
    scheduler's first guess of a good browser goes by, until it has measurements."""
    browsers: tuple[str, ...] = ()
    """Allowed browser names or families; any unless given. A set: the order only breaks ties."""
    backends: tuple[Backend, ...] = ()
    """Allowed backends, a strict order: the first that really runs the model. Unless given, any: webgpu first on a
    hardware adapter and last on a software one, where it compiles for seconds what wasm runs at once."""
    on: str = "best"
    """best: once, where it is expected to end first. each: one test for each browser. Most tests are about the model,
    and one browser answers them."""
    min_memory: float | None = None
    """GiB that the node must have for its browsers. Unless given nothing is asked: only the author knows."""
    priority: int = 3
    """1 goes first, 5 last. The middle, so that there is room on both sides."""
    timeout: float = 60.0
    """Seconds for one attempt of an operation. A WebGPU compile on a software adapter took up to 18 s on an idle machine."""
    recovery: str | None = None
    """What is done after a fault. Unless given: ``--browserpool-recovery``; priorities 1 and 2 recover immediately where
    neither names a strategy."""
    fallback: str | None = None
    """cpu: the last step of a recovery may be the CPU, and the result is then marked degraded. Not unless it is asked
    for: a test of WebGPU that passed on the CPU has shown nothing."""
    shards: int | None = None
    """Over how many browsers the model is cut (docs/sharding.md). Unless given it is whole."""
    sharding: str = "layer_balanced"
    """How it is cut: contiguous stages have the fewest transfers."""
    shard_backends: Mapping[str, tuple[Backend, ...]] | None = None
    """Browser → what its shard runs on, where shards are to run on different backends; ``backends`` is one order for all.
    A browser that it leaves out takes what it prefers."""
    fault_tolerance: str = "medium"
    """What a lost shard costs: medium goes on from the last good stage without a second copy in memory."""
    expected_duration: float | None = None
    """Seconds that the test is expected to take, for the scheduler's first run; measurements replace it."""
    concurrency_key: tuple[str, int] | None = None
    """At most so many tests with the same word run at once over all nodes: ``"gpu"`` means one, ``("gpu", 2)`` two.
    Where tests give a word different numbers, a line says so and the least holds. No limit unless given."""
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    """Shapes of the inputs by name, for backends that need them before the first call (WebNN). Unless given the first
    call fixes them."""
    session_options: Mapping[str, Any] | None = None
    """Passed on to onnxruntime-web's ``InferenceSession.create``."""

    @property
    def model_key(self) -> str:
        """What tests share a model by, before its bytes are known: the id, else the source."""
        return self.id or self.source or ""

    @property
    def session_key(self) -> str:
        """What tests share a warm session by: the model, whole or in so many shards."""
        return sharded_key(self.model_key, self.shards or 1)


@dataclass(frozen=True, kw_only=True)
class TestNeeds(Plain):
    """One collected test and what it needs; ``needs`` is None for a test that uses no browser."""

    __test__ = False  # pytest would collect a class of this name

    nodeid: str
    needs: ModelNeeds | None = None
