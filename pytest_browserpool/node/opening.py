"""From a marker with ``shards=`` to a model in several browsers, and many requests through it at once."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool.artefacts import pins
from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.pool import ModelContent
from pytest_browserpool.errors import BackendRefused, BrowserPoolError, Fault, ShardingError
from pytest_browserpool.models.sources import describe
from pytest_browserpool.node import speeds
from pytest_browserpool.node.cutting import Cut, Seat, cut, seats
from pytest_browserpool.node.recutting import place
from pytest_browserpool.node.refusals import Refusals
from pytest_browserpool.node.resident import Reply
from pytest_browserpool.node.sharded import Arrays, ShardedResident
from pytest_browserpool.node.use import ModelUse
from pytest_browserpool.sharding.threads import of_shard
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node


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
    opening = _Opening(node, needs, content)
    made = opening.cut()
    use = ModelUse(key=needs.model_key or describe(source), label=content.label, sha256=content.sha256)
    use.shards = needs.shards or 1
    pool = node.pool

    async def make() -> ShardedResident:  # in the loop, where its locks belong
        return ShardedResident(
            pool,
            needs,
            content,
            info,
            made,
            use,
            node.static,
            node.report,
            opening.recovered,
            opening.learned,
        )

    resident: ShardedResident = node.call(make, node.settings.launch_timeout)
    resident.tell_loads(
        lambda segment, loaded, started: node.report.segment_load(node.test, segment, loaded, started)
    )
    node.hold(resident)
    place(node, resident, opening.known, opening.cut)
    return resident


class _Opening:
    """What one model's shards were opened with, for as long as it lives: it may be cut again, and has things to tell."""

    def __init__(self, node: Node, needs: ModelNeeds, content: ModelContent) -> None:
        self._node, self._needs, self._content = node, needs, content
        self._places = seats(needs, node.capabilities().browsers, where=content.label)
        self._threads = of_shard(node.cores, needs.shards or 1)
        self.known = Refusals(node, needs, content.sha256)

    def cut(self) -> Cut:
        """The cut for what is known now of the browsers' speeds and refusals.

        Raises:
            BrowserPoolError: as ``cutting.cut``, with the model's label.
        """
        node, label = self._node, self._content.label
        try:
            return cut(
                self._needs,
                self._content,
                self._places,
                lambda seat: speeds.speed(node, seat, self._content.sha256, self._threads),
                memory=int(node.capabilities().memory_gib * (1 << 30)),
                most=node.settings.max_browsers,
                threads=self._threads,
                folder=pins.default_cache().root / "shards",
                refused=self.known.nodes,
            )
        except BackendRefused as error:
            lines = "\n    ".join(map(str, self.known.of(self._places)))
            raise BackendRefused(f"{error.what}\n    {lines}", where=label, remedy=error.remedy) from error
        except BrowserPoolError as error:
            if label not in (error.where or ""):  # which model, of a test's several
                error.where = f"{label}, {error.where}" if error.where else label
            raise

    def recovered(
        self,
        resident: ShardedResident,
        fault: Fault,
        steps: list[dict[str, Any]],
        outcome: str,
        recovery_ms: float | None,
        seat: Candidate,
    ) -> None:
        """Puts a shard's recovery on the record."""
        self._node.report.fault(
            self._node.test,
            resident,
            fault,
            strategy=f"shards, {self._needs.fault_tolerance}",
            attempts=json.dumps(steps),
            outcome=outcome,
            recovery_ms=recovery_ms,
            seat=seat,
        )

    def learned(self, seat: Seat, backend: str, seen: float) -> None:
        """Keeps what a shard's runs told of its browser's speed."""
        speeds.learn(self._node, seat, backend, self._content.sha256, self._threads, seen)


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
