"""Which browsers take the shards of a model, how fast they are, and the checked pieces on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_browserpool.browsers import choice
from pytest_browserpool.browsers.pool import ModelContent
from pytest_browserpool.errors import BackendRefused, CapabilityError, ConfigurationError, ShardingError
from pytest_browserpool.values import BrowserCapabilities, ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.sharding.plan import Host
    from pytest_browserpool.sharding.prepare import Sharded
    from pytest_browserpool.sharding.read import Source

WASM_MEMORY = 4 << 30
"""Bytes: a 32-bit WebAssembly memory has at most 65,536 pages of 64 KiB (WebAssembly specification, "Memory Types")."""

LINK_BYTES_PER_S = 50e6
LINK_SECONDS = 0.005
"""Of a page on another node, beside ``plan.Host``'s of one here. Through two links and the controller on one machine
110 MB/s were measured; a network of 1 Gbit/s, which the controller's host has to pass twice, leaves half of that."""

MEASURED_RUNS = 8
"""Runs of the yardstick; the quickest counts, because a busy machine only ever adds."""


@dataclass(frozen=True)
class Seat:
    """A browser that a shard can run in. ``backends`` in order of preference."""

    browser: str
    slot: int
    """Which of several browsers of that name."""
    backends: tuple[str, ...]
    node: str = ""
    """That lends it; empty: the one that runs the test."""

    @property
    def name(self) -> str:
        """As plans and reports call it: ``chromium``, ``chromium#2``, ``firefox@gw1`` …"""
        name = self.browser if self.slot == 0 else f"{self.browser}#{self.slot + 1}"
        return f"{name}@{self.node}" if self.node else name

    @property
    def circuit(self) -> str:
        """What its circuit breaker goes by, the same for all browsers of one name on a node: ``chromium``,
        ``firefox@gw1``."""
        return _circuit(self.browser, self.node)


def _circuit(browser: str, node: str) -> str:
    return f"{browser}@{node}" if node else browser


@dataclass(frozen=True)
class Cut:
    """A model in checked pieces, with the seat of each shard."""

    source: Source
    sharded: Sharded
    seats: tuple[Seat, ...]
    """By shard."""
    spare: tuple[Seat, ...]
    """Other browsers that qualify: where a shard goes whose own browser does not come back."""
    speeds: tuple[float, ...]
    """Of each shard's browser, as the cut was made for."""
    threads: int
    """Of WebAssembly, that each shard's page has: its part of the node's cores."""
    model: str = ""
    """SHA-256 of the model and its external data, in hex."""

    def speed_seen(self, shard: int, compute_ms: float) -> float:
        """The browser's speed on this shard, from the milliseconds that one request computed there."""
        segments = self.sharded.plan.segments
        work = sum(segments[i].seconds for i in self.sharded.plan.shards[shard].segments) * self.speeds[shard]
        return _step(work / (compute_ms / 1000))


def seats(
    needs: ModelNeeds,
    browsers: Sequence[BrowserCapabilities],
    *,
    where: str,
    count: int | None = None,
    node: str = "",
    avoid: Collection[str] = (),
) -> tuple[Seat, ...]:
    """Seats for at least ``count`` shards (all unless given): one of each kind that qualifies, then further ones of each
    in turn. ``node``: whose browsers these are, where it is another one. ``avoid``: circuit breakers (``Seat.circuit``)
    that are open: their kinds are left out while another one qualifies, except where ``shard_backends=`` names them.

    The order depends on these and the machine alone, so that a second test finds its shards warm. Backends are a
    strict order: with ``backends=`` only browsers that give the first one that any browser here gives are taken;
    ``shard_backends=`` says for each browser what its shard runs on.

    Raises:
        CapabilityError: no browser qualifies, or one does not give the backend that its shard is to run on.
    """
    shards = count or needs.shards or 1
    found = choice.candidates(needs, browsers)
    if not found:
        raise CapabilityError(
            f"nothing here can run the shards of {where}:\n    "
            + "\n    ".join(choice.reasons(needs, browsers)),
            remedy="`browserpool doctor` shows what each browser gives; change browsers= or backends=",
        )
    first = found[0].backend
    kinds = dict.fromkeys(c.browser for c in found if not needs.backends or c.backend == first)
    named = [b.name for b in browsers if _own_backends(needs, b)]
    _within_browsers(needs, named, kinds, where)
    if not needs.browsers:  # who says what a browser's shard runs on wants a shard there
        kinds = dict.fromkeys(sorted(kinds, key=lambda kind: kind not in named))
    backends = {kind: tuple(c.backend for c in found if c.browser == kind) for kind in kinds}
    avoided: list[str] = []
    for browser in (b for b in browsers if b.name in kinds):
        wanted = _own_backends(needs, browser)
        given = tuple(backend for backend in wanted if browser.gives(backend))
        if wanted and not given:
            told = [f"{s.name}: {s.detail}" for s in browser.backends if s.name in wanted]
            raise CapabilityError(
                f"shard_backends wants {' or '.join(wanted)} of {browser.name}: {'; '.join(told) or 'unknown there'}",
                where=where,
                remedy="`browserpool doctor` shows what each browser gives",
            )
        backends[browser.name] = given or backends[browser.name]
        if _circuit(browser.name, node) in avoid and not wanted:
            avoided.append(browser.name)
    taken = [kind for kind in kinds if kind not in avoided] or list(kinds)
    slots = -(-shards // len(taken))
    return tuple(Seat(kind, slot, backends[kind], node) for slot in range(slots) for kind in taken)


def _within_browsers(needs: ModelNeeds, named: Sequence[str], kinds: Collection[str], where: str) -> None:
    left_out = [name for name in named if name not in kinds]
    if needs.browsers and left_out and left_out == list(named):
        raise CapabilityError(
            f"shard_backends={dict(needs.shard_backends or {})} says nothing of browsers={list(needs.browsers)}",
            where=where,
            remedy="name the same browsers in both, or drop browsers=",
        )


def _own_backends(needs: ModelNeeds, browser: BrowserCapabilities) -> tuple[str, ...]:
    """What the marker says of this browser's shard: by name before by family."""
    own = needs.shard_backends or {}
    return own.get(browser.name) or next((b for word, b in own.items() if browser.answers_to(word)), ())


def cut(
    needs: ModelNeeds,
    content: ModelContent,
    places: Sequence[Seat],
    speed: Callable[[Seat], float],
    *,
    memory: int,
    most: int,
    threads: int,
    folder: Path,
    refused: Callable[[Seat], frozenset[int]] = lambda seat: frozenset(),
    limit: Callable[[Seat], int] | None = None,
) -> Cut:
    """Cuts the model for ``places`` and checks the pieces natively; the same cut is found on disk later.

    ``speed`` may launch a browser to measure it, so it is asked only once the model is known to be cuttable. ``threads``:
    of each shard's page. ``refused``: nodes (by index) of which no backend of a seat runs any. ``limit``: bytes that a
    shard may use in a seat, where that is not an equal part of ``memory``.

    Raises:
        ShardingError, InvalidModel, UnsupportedOperator, ConfigurationError: as ``sharding.prepare``.
        BackendRefused: it could be cut so, but what was refused leaves no cut.
        CapabilityError: the node may not run so many browsers (``most``); said after what no node could do.
    """
    from pytest_browserpool.sharding.execute import check_tolerance
    from pytest_browserpool.sharding.prepare import prepare

    check_tolerance(needs.fault_tolerance)  # before a browser is launched to measure its speed
    shards = needs.shards or 1
    source = _source(content.sha256, content.path, content.external, _frozen(needs), folder)
    hosts = [_host(seat, limit(seat) if limit else min(WASM_MEMORY, memory // shards)) for seat in places]
    hosts = _cuttable(source, hosts, places, needs, content.label, refused)
    if shards > most:
        raise CapabilityError(
            f"shards={shards} needs {shards} browsers at once, and this node may run {most}",
            where=content.label,
            remedy=f"--browserpool-max-browsers={shards}, or fewer shards",
        )
    by_name = {seat.name: seat for seat in places}
    hosts = [replace(host, speed=speed(seat)) for host, seat in zip(hosts, places, strict=True)]
    sharded = prepare(source, shards=shards, hosts=hosts, folder=folder, strategy=needs.sharding)
    taken = tuple(by_name[shard.host] for shard in sharded.plan.shards)
    spare = tuple(seat for seat in places if seat not in taken)
    by_host = {host.name: host.speed for host in hosts}
    speeds = tuple(by_host[seat.name] for seat in taken)
    return Cut(source, sharded, taken, spare, speeds, threads, content.sha256)


def _host(seat: Seat, memory: int) -> Host:
    """A place of yet unknown speed."""
    from pytest_browserpool.sharding.plan import Host

    if not seat.node:
        return Host(name=seat.name, memory=memory)
    return Host(name=seat.name, memory=memory, bytes_per_s=LINK_BYTES_PER_S, latency_s=LINK_SECONDS)


def _cuttable(
    source: Source,
    hosts: list[Host],
    places: Sequence[Seat],
    needs: ModelNeeds,
    where: str,
    refused: Callable[[Seat], frozenset[int]],
) -> list[Host]:
    """The places with what was refused there. What cannot be is said before anything is launched."""
    from pytest_browserpool.sharding.partition import check

    check(source.graph, hosts, needs.shards or 1, needs.sharding)
    hosts = [replace(host, refused=refused(seat)) for host, seat in zip(hosts, places, strict=True)]
    if any(host.refused for host in hosts):
        try:
            check(source.graph, hosts, needs.shards or 1, needs.sharding)
        except ShardingError as error:
            raise BackendRefused(error.what, where=where, remedy=error.remedy) from error
    return hosts


Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def _frozen(needs: ModelNeeds) -> Shapes:
    return tuple(sorted((name, tuple(dims)) for name, dims in (needs.input_shapes or {}).items()))


@lru_cache(maxsize=8)  # reading runs the whole model once; a graph has a few megabytes at most
def _source(
    sha256: str, path: Path, external: tuple[tuple[str, Path], ...], shapes: Shapes, folder: Path
) -> Source:
    """``sha256`` of the content, which may be another one under the same path by now."""
    from pytest_browserpool.sharding.prepare import gather, read_for_sharding

    return read_for_sharding(gather(path, dict(external), folder), dict(shapes))


def contents(made: Cut, label: str) -> list[ModelContent]:
    """The segments as the pool takes them, in order of execution."""
    found = []
    for file, segment in zip(made.sharded.files, made.sharded.plan.segments, strict=True):
        path = Path(file.path)
        # what a segment computes, whatever cut it is of: after another cut the sessions of those that stayed are warm
        told = json.dumps([made.model, segment.nodes, file.inputs, file.outputs])
        identity = hashlib.sha256(told.encode()).hexdigest()
        external = ((Path(file.data).name, Path(file.data)),) if file.data else ()
        found.append(ModelContent(identity, path, f"{label}, segment {file.index}", file.bytes, external))
    return found


def fixed_shapes(made: Cut, index: int) -> Shapes:
    """The shapes of a segment's inputs at the shapes that the model was read with.

    Raises:
        ShardingError: one of them is unknown.
    """
    shapes = []
    for name in made.sharded.files[index].inputs:
        dims = made.source.types.shape(name)
        if dims is None:
            raise ShardingError(
                f"the shape of {name!r}, which crosses a cut, is not known, and WebNN needs it",
                remedy="use another backend, or fewer shards",
            )
        shapes.append((name, dims))
    return tuple(sorted(shapes))


# -- speed --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def yardstick() -> tuple[bytes, float]:
    """A model of convolutions and products, and the seconds that a host of speed 1 takes for it."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from pytest_browserpool.sharding.read import read

    generator = np.random.default_rng(7)

    def weights(name: str, *dims: int) -> onnx.TensorProto:
        return numpy_helper.from_array((generator.standard_normal(dims) / 30).astype(np.float32), name)

    # the WebGPU provider's convolution refuses to go by the defaults of these
    told = {"pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "kernel_shape": [3, 3], "group": 1}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], **told),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], **told),
        helper.make_node("MatMul", ["c", "w3"], ["d"]),
        helper.make_node("Tanh", ["d"], ["y"]),
    ]
    size = [1, 32, 48, 48]
    graph = helper.make_graph(
        nodes,
        "yardstick",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, size)],
        [weights("w1", 32, 32, 3, 3), weights("w2", 32, 32, 3, 3), weights("w3", 48, 48)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString(), read(model).graph.total_seconds


def speed_of(milliseconds: Iterable[float]) -> float:
    """Speed relative to ``costs.REFERENCE`` from the yardstick's times.

    Raises:
        ConfigurationError: no time at all.
    """
    times = [t for t in milliseconds if t > 0]
    if not times:
        raise ConfigurationError("a browser's clock stood still while it was measured", remedy="try again")
    return _step(yardstick()[1] / (min(times) / 1000))


def _step(speed: float) -> float:
    """To steps of an eighth of an octave: noise must not move a cut, which would be written and checked again."""
    return float(2 ** (round(8 * math.log2(speed)) / 8))
