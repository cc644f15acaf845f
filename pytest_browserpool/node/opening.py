"""From a marker with ``shards=`` to a model in several browsers, and many requests through it at once."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool.artefacts import pins
from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.page import SessionKey
from pytest_browserpool.browsers.pool import ModelContent
from pytest_browserpool.errors import (
    BackendRefused,
    BrowserPoolError,
    Fault,
    RunFailed,
    ShardingError,
    UnsupportedOperator,
)
from pytest_browserpool.models.sources import describe
from pytest_browserpool.node.cutting import (
    MEASURED_RUNS,
    Cut,
    Seat,
    cut,
    page_for,
    seats,
    speed_of,
    yardstick,
)
from pytest_browserpool.node.recutting import place
from pytest_browserpool.node.refusals import Refusals
from pytest_browserpool.node.resident import Reply
from pytest_browserpool.node.sharded import Arrays, ShardedResident
from pytest_browserpool.node.use import ModelUse
from pytest_browserpool.sharding.threads import of_shard
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node

MEASURE_SECONDS = 60.0
"""For loading and running the yardstick, which takes milliseconds but compiles for seconds on a software adapter."""


def open_sharded(node: Node, needs: ModelNeeds, source: Any, test_file: Path | None) -> ShardedResident:
    """A model cut, checked natively and loaded over ``needs.shards`` browsers.

    Where a shard's backend turns out to run nothing of its part it is cut anew (``recutting``).

    Raises:
        UsageError, CapabilityError: before any browser is launched for it. Fault: the infrastructure failed.
        BackendRefused: what a backend refused leaves no cut.
    """
    content, info = node.resolve(source, test_file)
    options = needs.session_options or {}
    if options.get("bundle", "jsep") != "jsep":
        raise ShardingError(
            f"shards run in the jsep bundle, and session_options asks for {options['bundle']!r}",
            where=content.label,
            remedy="leave bundle out",
        )
    capabilities = node.capabilities()
    places = seats(needs, capabilities.browsers, where=content.label)
    memory = int(capabilities.memory_gib * (1 << 30))
    folder = pins.default_cache().root / "shards"
    threads = of_shard(node.cores, needs.shards or 1)
    known = Refusals(node, needs, content.sha256)

    def cut_now() -> Cut:
        try:
            return cut(
                needs,
                content,
                places,
                lambda seat: speed(node, seat, content.sha256, threads),
                memory=memory,
                most=node.settings.max_browsers,
                threads=threads,
                folder=folder,
                refused=known.nodes,
            )
        except BackendRefused as error:
            lines = "\n    ".join(map(str, known.of(places)))
            raise BackendRefused(
                f"{error.what}\n    {lines}", where=content.label, remedy=error.remedy
            ) from error
        except BrowserPoolError as error:
            if content.label not in (error.where or ""):  # which model, of a test's several
                error.where = f"{content.label}, {error.where}" if error.where else content.label
            raise

    made = cut_now()
    use = ModelUse(key=needs.model_key or describe(source), label=content.label, sha256=content.sha256)
    use.shards = needs.shards or 1

    def recovered(
        resident: ShardedResident,
        fault: Fault,
        steps: list[dict[str, Any]],
        outcome: str,
        recovery_ms: float | None,
        seat: Candidate,
    ) -> None:
        strategy = f"shards, {needs.fault_tolerance}"
        node.report.fault(
            node.test,
            resident,
            fault,
            strategy=strategy,
            attempts=json.dumps(steps),
            outcome=outcome,
            recovery_ms=recovery_ms,
            seat=seat,
        )

    def learned(seat: Seat, backend: str, seen: float) -> None:
        learn(node, seat, backend, content.sha256, threads, seen)

    pool = node.pool

    async def make() -> ShardedResident:  # in the loop, where its locks belong
        return ShardedResident(
            pool, needs, content, info, made, use, node.static, node.report, recovered, learned
        )

    resident: ShardedResident = node.call(make, node.settings.launch_timeout)
    resident.tell_loads(
        lambda segment, loaded, started: node.report.segment_load(node.test, segment, loaded, started)
    )
    node.hold(resident)
    place(node, resident, known, cut_now)
    return resident


_speeds: dict[str, float | None] = {}
"""As this process read them: a run keeps to the cuts it began with, so that its shards stay warm."""

MOVED = 1.4
"""A speed seen is kept in place of a known one where they differ by this factor: less is the machine's noise."""


def speed(node: Node, seat: Seat, model: str, threads: int) -> float:
    """How fast the browser is with the backend that it would use and so many threads, relative to ``costs.REFERENCE``.

    On ``model`` (its hash) where earlier requests told; else on the yardstick, measured once for each version of the
    browser on this machine.

    Raises:
        Fault: the browser failed while it was measured.
    """
    general, own = _names(node, seat, seat.backends[0], model, threads)
    known = _recalled(own) or _recalled(general)
    if known is not None:
        return known
    found = _measured(node, seat, threads)
    if found is None:  # the yardstick does not run there; the model may
        return 1.0
    pins.default_cache().write_json("speeds", general, {"speed": found})
    _speeds[general] = found
    return found


def learn(node: Node, seat: Seat, backend: str, model: str, threads: int, seen: float) -> None:
    """Keeps a browser's speed on a model for later runs."""
    _, own = _names(node, seat, backend, model, threads)
    known = pins.default_cache().read_json("speeds", own).get("speed")
    if not isinstance(known, float) or not 1 / MOVED < seen / known < MOVED:
        pins.default_cache().write_json("speeds", own, {"speed": seen})


def _names(node: Node, seat: Seat, backend: str, model: str, threads: int) -> tuple[str, str]:
    browser = node.capabilities().browser(seat.browser)
    assert browser is not None
    general = f"{seat.browser}-{browser.version}-{backend}-{threads}t".replace("/", "_").replace(" ", "_")
    return general, f"{general}-{model[:16]}"


def _recalled(name: str) -> float | None:
    if name not in _speeds:
        known = pins.default_cache().read_json("speeds", name).get("speed")
        _speeds[name] = known if isinstance(known, float) and known > 0 else None
    return _speeds[name]


def _measured(node: Node, seat: Seat, threads: int) -> float | None:
    import numpy as np

    content, _ = node.resolve(yardstick()[0], None)
    key = SessionKey(content.sha256, seat.backends[0], page_for(seat.backends[0], threads))
    timeout = MEASURE_SECONDS

    pool = node.pool

    async def measure() -> list[float]:
        loaded = await pool.load(seat.browser, key, _labelled(content), timeout, seat.slot)
        try:
            inputs: Mapping[str, Any] = {"x": np.ones((1, 32, 48, 48), np.float32)}
            return await pool.benchmark(loaded, inputs, MEASURED_RUNS, timeout)
        finally:
            await pool.release(loaded)

    try:
        return speed_of(node.call(measure, timeout * 2))
    except (BackendRefused, UnsupportedOperator, RunFailed):
        return None  # what the yardstick lacks there the model may do without


def _labelled(content: ModelContent) -> ModelContent:
    return ModelContent(content.sha256, content.path, "the yardstick of browsers' speed", content.size)


def run_many(
    node: Node, resident: ShardedResident, inputs: Iterable[Arrays], in_flight: int
) -> Iterator[Reply]:
    """Replies in the order of ``inputs``, with up to ``in_flight`` requests under way.

    ``inputs`` is read only as fast as replies are taken. After an error, or when the caller stops, what is under way
    ends by itself first: giving it up would cost the pages that are at it.
    """
    waiting: deque[tuple[float, Arrays, Any]] = deque()
    items, limit = iter(inputs), resident.budget * in_flight
    try:
        while True:
            while len(waiting) < in_flight and (given := next(items, None)) is not None:
                # the caller may fill the same arrays anew for the next request, while this one is under way
                own: Arrays = {name: array.copy() for name, array in given.items()}
                task = node.start(functools.partial(resident.run, own))
                waiting.append((time.time(), own, task))
            if not waiting:
                return
            started, arrays, task = waiting.popleft()
            wait = functools.partial(node.finish, task, limit)
            yield node.report.called(node.test, resident, started, arrays, wait)
    finally:
        for _, _, task in waiting:
            with contextlib.suppress(BrowserPoolError):
                node.finish(task, limit)
