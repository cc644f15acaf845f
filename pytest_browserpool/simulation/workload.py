"""Workloads: what ``browserpool simulate`` reads, checked before anything is simulated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_browserpool.config import did_you_mean
from pytest_browserpool.errors import ConfigurationError
from pytest_browserpool.values import BACKEND_ALIASES, BACKENDS

FAMILY = {"chromium": "chrome", "headless-shell": "chrome"}
"""Families of the browsers whose family is not their name."""
KNOWN = frozenset({"chrome", "chromium", "edge", "firefox", "headless-shell", "webkit"})
"""Browsers that exist, whether a node of the workload has them or not."""
LEAST, MOST = 1e-9, 1e9
"""Of numbers above zero, and of all: a nanosecond to 30 years. What is far beyond them overflows when it is multiplied."""


class WorkloadError(ConfigurationError):
    """The workload file is wrong."""


@dataclass(frozen=True, kw_only=True)
class SimBrowser:
    """A browser of a node: seconds to launch it on a node of speed 1, and the backends that it gives."""

    launch_s: float
    backends: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SimNode:
    """A node: all its times are divided by ``speed``."""

    id: str
    speed: float = 1.0
    memory_gib: float = 8.0
    browsers: Mapping[str, SimBrowser] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SimModel:
    """A model: seconds at speed 1 to load it, and for an average warm test of it, by (browser, backend)."""

    id: str
    memory_gib: float = 0.0
    type: str = ""
    load_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    run_s: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SimTest:
    """A test: empty ``browsers`` or ``backends`` mean any."""

    id: str
    model: str
    browsers: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    priority: int = 3
    run_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SimEvent:
    """At ``at`` seconds ``node`` is lost, joins (cold), or becomes slower by ``factor``."""

    at: float
    node: str
    kind: str
    factor: float = 0.5
    """What the node's speed is multiplied with by ``slow``; a test that runs already keeps its speed."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Everything that a simulation needs besides a seed."""

    nodes: tuple[SimNode, ...]
    models: Mapping[str, SimModel]
    tests: tuple[SimTest, ...]
    history: str = "cold"
    noise_sigma: float = 0.0
    overlap: float = 0.0
    events: tuple[SimEvent, ...] = ()

    def options(self, test: SimTest, node: SimNode) -> tuple[tuple[str, str], ...]:
        """The (browser, backend) pairs that ``node`` can give ``test``, on what a browser has and the model has times for:
        the first of the test's backends that some browser of the node gives, else of each browser the first of all; browsers
        in the test's order of preference."""
        model = self.models[test.model]
        if model.memory_gib > node.memory_gib:
            return ()
        names: Iterable[str] = node.browsers
        if test.browsers:
            wanted = [b for word in test.browsers for b in node.browsers if word in (b, FAMILY.get(b, b))]
            names = dict.fromkeys(wanted)
        given = {
            name: [
                backend
                for backend in test.backends or BACKENDS
                if backend in node.browsers[name].backends and (name, backend) in model.run_s
            ]
            for name in names
        }
        if test.backends:
            first = next((b for b in test.backends if any(b in backends for backends in given.values())), "")
            given = {name: [first] for name, backends in given.items() if first in backends}
        return tuple((name, backends[0]) for name, backends in given.items() if backends)

    @property
    def late(self) -> frozenset[str]:
        """Nodes that are not there at the beginning: their first event is that they join."""
        first: dict[str, str] = {}
        for event in self.events:
            if event.kind in ("join", "lost"):
                first.setdefault(event.node, event.kind)
        return frozenset(node for node, kind in first.items() if kind == "join")


# -- reading -------------------------------------------------------------------------------------------------


def parse(data: Any, where: str = "workload") -> Workload:
    """The workload that the JSON value ``data`` describes; see docs/scheduling.md for the format.

    Raises:
        WorkloadError: with the place (such as ``FILE: tests[3].browsers``) and the value that is wrong.
    """
    top = _Reader(data, where, "nodes models tests history noise_sigma overlap events name")
    workload = Workload(
        nodes=tuple(_node(x, f"{where}: nodes[{i}]") for i, x in enumerate(top.list("nodes"))),
        models={
            str(k): _model(str(k), x, f"{where}: models[{k!r}]") for k, x in top.mapping("models").items()
        },
        tests=tuple(_test(x, f"{where}: tests[{i}]") for i, x in enumerate(top.list("tests"))),
        history=top.word("history", "cold", ("cold", "warm")),
        noise_sigma=top.number("noise_sigma", 0.0),
        overlap=top.number("overlap", 0.0),
        events=tuple(_event(x, f"{where}: events[{i}]") for i, x in enumerate(top.list("events", []))),
    )
    _check(workload, where)  # before the events are sorted: it names their places in the file
    return replace(workload, events=tuple(sorted(workload.events, key=lambda event: event.at)))


class _Reader:
    """Takes typed values out of a JSON object and says where a wrong one is."""

    def __init__(self, data: Any, where: str, keys: str) -> None:
        if not isinstance(data, dict):
            raise WorkloadError(f"{data!r:.80} is not an object", where=where)
        self.data, self.where = data, where
        known = keys.split()
        for key in data:
            if key not in known:
                raise WorkloadError(
                    f"unknown key {key!r}{did_you_mean(key, known)}",
                    where=where,
                    remedy=f"known: {', '.join(known)}",
                )

    def _get(self, key: str, default: Any) -> Any:
        if self.data.get(key) is not None:
            return self.data[key]
        if default is None:
            raise WorkloadError(f"{key!r} is missing", where=self.where)
        return default

    def number(self, key: str, default: float | None, *, positive: bool = False) -> float:
        return number(self._get(key, default), f"{self.where}.{key}", positive=positive)

    def word(self, key: str, default: str | None, allowed: tuple[str, ...] = ()) -> str:
        value = self._get(key, default)
        if not isinstance(value, str) or (allowed and value not in allowed):
            raise WorkloadError(
                f"{value!r} is not {'one of ' + ', '.join(allowed) if allowed else 'a string'}",
                where=f"{self.where}.{key}",
            )
        return value

    def words(self, key: str) -> tuple[str, ...]:
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
            raise WorkloadError(f"{value!r:.80} is not a list of strings", where=f"{self.where}.{key}")
        return tuple(value)

    def list(self, key: str, default: list[Any] | None = None) -> list[Any]:
        value = self._get(key, default)
        if not isinstance(value, list):
            raise WorkloadError(f"{value!r:.80} is not a list", where=f"{self.where}.{key}")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self._get(key, None)
        if not isinstance(value, dict):
            raise WorkloadError(f"{value!r:.80} is not an object", where=f"{self.where}.{key}")
        return value


def number(value: Any, where: str, *, positive: bool = False) -> float:
    """``value`` as a float from 0 (or ``LEAST``, where it must be ``positive``) to ``MOST``.

    Raises:
        WorkloadError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -math.inf < value < math.inf:
        raise WorkloadError(f"{value!r:.80} is not a finite number", where=where)
    if value < 0 or (positive and value == 0):
        raise WorkloadError(f"{value!r:.80} is {'not above zero' if positive else 'negative'}", where=where)
    if value > MOST or (positive and value < LEAST):
        bound = f"more than {MOST:g}" if value > MOST else f"less than {LEAST:g}"
        raise WorkloadError(f"{value!r:.80} is {bound}", where=where)
    return float(value)


def _node(data: Any, where: str) -> SimNode:
    r = _Reader(data, where, "id speed memory_gib browsers")
    browsers = {}
    for name, value in r.mapping("browsers").items():
        b = _Reader(value, f"{where}.browsers[{name!r}]", "launch_s backends")
        backends = b.words("backends")
        _known_backends(backends, f"{b.where}.backends")
        browsers[name] = SimBrowser(launch_s=b.number("launch_s", None), backends=_plain(backends))
    return SimNode(
        id=r.word("id", None),
        speed=r.number("speed", 1.0, positive=True),
        memory_gib=r.number("memory_gib", 8.0),
        browsers=browsers,
    )


def _model(name: str, data: Any, where: str) -> SimModel:
    r = _Reader(data, where, "memory_gib type load_s run_s")
    return SimModel(
        id=name,
        memory_gib=r.number("memory_gib", 0.0),
        type=r.word("type", ""),
        load_s=_times(r.mapping("load_s"), f"{where}.load_s", positive=False),
        run_s=_times(r.mapping("run_s"), f"{where}.run_s", positive=True),
    )


def _times(data: dict[str, Any], where: str, *, positive: bool) -> dict[tuple[str, str], float]:
    times = {}
    for key, value in data.items():
        browser, slash, backend = key.partition("/")
        if not slash or not browser:
            raise WorkloadError(f"{key!r} is not BROWSER/BACKEND", where=where)
        _known_backends((backend,), where)
        session = browser, BACKEND_ALIASES.get(backend, backend)
        if session in times:
            raise WorkloadError(f"{'/'.join(session)} has two times", where=where, remedy=f"drop {key!r}")
        times[session] = number(value, f"{where}[{key!r}]", positive=positive)
    return times


def _test(data: Any, where: str) -> SimTest:
    r = _Reader(data, where, "id model browsers backends priority run_scale")
    priority = r.number("priority", 3.0)
    if priority not in (1, 2, 3, 4, 5):
        raise WorkloadError(
            f"{priority:g} is not a priority", where=f"{where}.priority", remedy="1 (first) to 5"
        )
    backends = r.words("backends")
    _known_backends(backends, f"{where}.backends")
    return SimTest(
        id=r.word("id", None),
        model=r.word("model", None),
        browsers=r.words("browsers"),
        backends=_plain(backends),
        priority=int(priority),
        run_scale=r.number("run_scale", 1.0, positive=True),
    )


def _event(data: Any, where: str) -> SimEvent:
    r = _Reader(data, where, "at node kind factor")
    factor = r.number("factor", 0.5, positive=True)
    if factor > 1:  # the lower bound takes a node's first speed for its greatest
        raise WorkloadError(
            f"factor is {factor:g}", where=where, remedy="slow multiplies the node's speed: give 1 or less"
        )
    return SimEvent(
        at=r.number("at", None),
        node=r.word("node", None),
        kind=r.word("kind", None, ("lost", "join", "slow")),
        factor=factor,
    )


def _plain(backends: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(BACKEND_ALIASES.get(b, b) for b in backends)


def _known_backends(names: tuple[str, ...], where: str) -> None:
    known = (*BACKENDS, *BACKEND_ALIASES)
    for name in names:
        if name not in known:
            raise WorkloadError(
                f"unknown backend {name!r}{did_you_mean(name, known)}",
                where=where,
                remedy=f"known: {', '.join(known)}",
            )


# -- checking ------------------------------------------------------------------------------------------------


def _check(workload: Workload, where: str) -> None:
    if not workload.nodes:
        raise WorkloadError("no nodes", where=f"{where}: nodes")
    if workload.overlap > 1:
        raise WorkloadError(f"{workload.overlap!r} is more than 1", where=f"{where}: overlap")
    _unique([n.id for n in workload.nodes], f"{where}: nodes")
    _unique([t.id for t in workload.tests], f"{where}: tests")
    _check_events(workload, where)
    # a model may have times for browsers that no node here has, but not for ones that nobody has
    browsers = {b for n in workload.nodes for b in n.browsers} | KNOWN
    for model in workload.models.values():
        for key in (*model.load_s, *model.run_s):
            if key[0] not in browsers:
                _unknown("browser", key[0], browsers, f"{where}: models[{model.id!r}]")
        for key in model.run_s:
            if key not in model.load_s:
                raise WorkloadError(
                    f"{'/'.join(key)} has run_s and no load_s", where=f"{where}: models[{model.id!r}].load_s"
                )
    _check_tests(workload, where, browsers)


def _check_events(workload: Workload, where: str) -> None:
    speeds = {n.id: n.speed for n in workload.nodes}
    for i, event in enumerate(workload.events):
        here = f"{where}: events[{i}]"
        if event.node not in speeds:
            _unknown("node", event.node, set(speeds), f"{here}.node")
        if event.kind == "slow":
            speeds[event.node] *= event.factor
        if speeds[event.node] < LEAST:
            raise WorkloadError(
                f"node {event.node!r} is slowed to a speed below {LEAST:g}",
                where=here,
                remedy="the factors of a node multiply: give greater ones, or have it lost",
            )


def _check_tests(workload: Workload, where: str, browsers: set[str]) -> None:
    words = browsers | {FAMILY.get(b, b) for b in browsers}
    capable: dict[tuple[object, ...], bool] = {}
    for i, test in enumerate(workload.tests):
        here = f"{where}: tests[{i}] ({test.id!r})"
        if test.model not in workload.models:
            _unknown("model", test.model, set(workload.models), f"{here}.model")
        for name in test.browsers:
            if name not in words:
                _unknown("browser", name, words, f"{here}.browsers")
        signature = (test.model, test.browsers, test.backends)
        if signature not in capable:
            capable[signature] = any(workload.options(test, n) for n in workload.nodes)
        if not capable[signature]:
            raise WorkloadError(
                f"no node can run it: model {test.model!r}, browsers {list(test.browsers) or 'any'}, "
                f"backends {list(test.backends) or 'any'}",
                where=here,
                remedy="give a node such a browser, backend and memory, and the model a run_s for it",
            )


def _unique(names: list[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise WorkloadError(f"two have the id {name!r}", where=where)
        seen.add(name)


def _unknown(what: str, name: str, known: set[str], where: str) -> None:
    raise WorkloadError(
        f"unknown {what} {name!r}{did_you_mean(name, known)}",
        where=where,
        remedy=f"known: {', '.join(sorted(known))}",
    )
