"""Values that travel: what a node can do, what a test needs.

All of them are frozen and turn into plain builtins (``to_plain``) and back (``from_plain``), because execnet
carries only builtins and the nodes may run another version of Python.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Backend = str
"""``webgpu``, ``webnn``, ``webnn-gpu``, ``webnn-npu`` or ``wasm``."""

BACKENDS: tuple[Backend, ...] = ("webgpu", "webnn", "webnn-gpu", "webnn-npu", "wasm")
"""Every backend, in the order tried when a test names none: the accelerated ones first, wasm runs anything."""

BACKEND_ALIASES: Mapping[str, Backend] = {"cpu": "wasm", "webnn-cpu": "webnn"}

Strategy = Literal["progressive", "immediate", "coordinated", "none"]
STRATEGIES: tuple[str, ...] = ("progressive", "immediate", "coordinated", "none")


class Plain:
    """Mixin for frozen dataclasses: to builtins and back, nested, unknown keys ignored (older and newer nodes mix)."""

    def to_plain(self) -> dict[str, Any]:
        """This value as builtins only."""
        return {f.name: _lower(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The value that ``to_plain`` made ``plain`` from."""
        hints = typing.get_type_hints(cls)
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: _raise(hints[key], value) for key, value in plain.items() if key in known})


def _lower(value: Any) -> Any:
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
        return self.fallback or any(w in words for w in ("swiftshader", "llvmpipe", "lavapipe", "warp", "basic render"))

    def __str__(self) -> str:
        name = self.description or " ".join(x for x in (self.vendor, self.architecture, self.device) if x) or "unknown"
        return f"{name} ({'software' if self.software else 'hardware'})"


@dataclass(frozen=True, kw_only=True)
class BackendSupport(Plain):
    """What the probe page found of one backend in one browser."""

    name: Backend
    available: bool
    detail: str = ""
    """Why it is not available, or what it runs on."""
    adapter: Adapter | None = None


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

    def answers_to(self, wanted: str) -> bool:
        """Whether a marker's ``browsers=[wanted]`` means this browser: by name or by family; ``=NAME`` by name alone."""
        return wanted[1:] == self.name if wanted.startswith("=") else wanted in (self.name, self.family)


@dataclass(frozen=True, kw_only=True)
class NodeCapabilities(Plain):
    """What one node (xdist worker) has, sent to the controller before scheduling."""

    node: str
    host: str = ""
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


@dataclass(frozen=True, kw_only=True)
class ModelNeeds(Plain):
    """What a test asks for, from its ``model`` markers. Every field but ``source`` is a marker keyword."""

    source: str | None = None
    """The source in words: the reference as written, or a content hash for bytes, protos and functions."""
    id: str | None = None
    type: str | None = None
    browsers: tuple[str, ...] = ()
    """Allowed browser names or families in order of preference; empty means any."""
    backends: tuple[Backend, ...] = ()
    """Allowed backends, strict order; empty means any (``BACKENDS`` order)."""
    on: str = "best"
    min_memory: float | None = None
    priority: int = 3
    timeout: float = 60.0
    recovery: str | None = None
    fallback: str | None = None
    shards: int | None = None
    sharding: str = "layer_balanced"
    fault_tolerance: str = "medium"
    expected_duration: float | None = None
    concurrency_key: tuple[str, int] | None = None
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    session_options: Mapping[str, Any] | None = None

    @property
    def model_key(self) -> str:
        """What tests share a model by, before its bytes are known: the id, else the source."""
        return self.id or self.source or ""


@dataclass(frozen=True, kw_only=True)
class TestNeeds(Plain):
    """One collected test and what it needs; ``needs`` is None for a test that uses no browser."""

    __test__ = False  # pytest would collect a class of this name

    nodeid: str
    needs: ModelNeeds | None = None
