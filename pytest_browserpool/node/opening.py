"""From a marker with ``shards=`` to a model in several browsers, and many requests through it at once."""

from __future__ import annotations

import contextlib
import dataclasses
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
from pytest_browserpool.errors import BackendRefused, BrowserPoolError, CapabilityError, Fault, ShardingError
from pytest_browserpool.models.sources import describe
from pytest_browserpool.node import speeds
from pytest_browserpool.node.away import Visit
from pytest_browserpool.node.cutting import Cut, Seat, cut, seats
from pytest_browserpool.node.reach import Arrangement, arrangements, why_no_more
from pytest_browserpool.node.recutting import place
from pytest_browserpool.node.refusals import Refusals
from pytest_browserpool.node.resident import Reply
from pytest_browserpool.node.sharded import Arrays, ShardedResident
from pytest_browserpool.node.use import ModelUse
from pytest_browserpool.sharding.threads import of_shard
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.models.inspect import ModelInfo
    from pytest_browserpool.node.node import Node
    from pytest_browserpool.values import NodeCapabilities


def open_sharded(node: Node, needs: ModelNeeds, source: Any, test_file: Path | None) -> ShardedResident:
    """A model cut, checked natively and loaded over ``needs.shards`` browsers, some of them of other nodes where this one
    cannot hold it and the settings allow that.

    Where a shard's backend turns out to run nothing of its part it is cut anew (``recutting``).

    Raises:
        UsageError, CapabilityError: before any browser is launched for it. Fault: the infrastructure failed.
        BackendRefused: what a backend refused leaves no cut.
    """
    needs = _tolerating(needs, node.settings.recovery)
    content, info = node.resolve(source, test_file)
    options = needs.session_options or {}
    if options.get("bundle", "jsep") != "jsep":
        raise ShardingError(
            f"shards run in the jsep bundle, and session_options asks for {options['bundle']!r}",
            where=content.label,
            remedy="leave bundle out",
        )
    opening = _Opening(node, needs, content)
    try:
        return _opened(opening, node, needs, source, content, info)
    except BaseException:
        opening.end()
        raise


def _tolerating(needs: ModelNeeds, usual: str) -> ModelNeeds:
    """The needs, where no recovery is wanted, with the level of fault tolerance that means that. ``usual``: the recovery of
    tests whose marker names none; a level in the marker, other than that of all markers, is nearer."""
    off = needs.recovery == "none"
    unsaid = needs.recovery is None and needs.fault_tolerance == ModelNeeds().fault_tolerance
    if off or (unsaid and usual == "none"):
        return dataclasses.replace(needs, fault_tolerance="none")
    return needs


def _opened(
    opening: _Opening, node: Node, needs: ModelNeeds, source: Any, content: ModelContent, info: ModelInfo
) -> ShardedResident:
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
            node.recovery.breakers,
            opening.visit,
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
        browsers = node.capabilities().browsers
        # asked once: when the model is cut again it is on trial in a half-open browser itself
        self._avoid = node.recovery.breakers.refusing(time.monotonic())
        self._all = seats(needs, browsers, where=content.label)
        self._places = seats(needs, browsers, where=content.label, avoid=self._avoid)
        self._threads = of_shard(node.cores, needs.shards or 1)
        self.known = Refusals(node, needs, content.sha256)
        self.visit: Visit | None = None
        self._arranged: Arrangement | None = None

    def cut(self) -> Cut:
        """The cut for what is known now of the browsers' speeds and refusals; over this node's browsers, or where those
        are too few or have too little memory, and the settings allow it, with others of other nodes.

        Raises:
            BrowserPoolError: as ``cutting.cut``, with the model's label.
        """
        if self._arranged is not None:
            return self._cut(self._arranged)
        try:
            return self._cut_here()
        except (CapabilityError, ShardingError) as error:
            if isinstance(error, BackendRefused) or not self._others_may(error):
                raise
            return self._cut_over_nodes(error)

    def _cut_here(self) -> Cut:
        """Over this node's browsers; those with an open circuit breaker come in where the others cannot take the model,
        and else stay a last way for shards that are lost."""
        try:
            made = self._cut(None)
        except (ShardingError, BackendRefused):
            if self._places == self._all:
                raise
            self._places = self._all
            made = self._cut(None)
        left_out = (seat for seat in self._all if seat not in self._places)
        return dataclasses.replace(made, spare=(*made.spare, *left_out))

    def _others_may(self, error: BrowserPoolError) -> bool:
        """Whether other nodes are to be asked; where the settings keep them from it, the error says so."""
        node, wanted, hint = self._node, self._node.settings.shards_over == "nodes", ""
        if node.peers is not None and wanted:
            return True
        if wanted:
            hint = "-n or --tx with our scheduler, under which other nodes may lend their browsers"
        elif node.peers is not None:
            hint = "--browserpool-shards-over=nodes, for browsers of other nodes where one has too few"
        if hint:
            error.remedy = f"{error.remedy}; or {hint}" if error.remedy else hint
        return False

    def _cut_over_nodes(self, alone: BrowserPoolError) -> Cut:
        """With as few browsers of other nodes as will do.

        Raises:
            CapabilityError: those are too few too. Otherwise as ``cut``, and ``Visit``.
        """
        node, label = self._node, self._content.label
        assert node.peers is not None
        assert node.depot is not None
        self.visit = Visit(node.peers, node.depot, label)
        own, tried = node.capabilities(), alone
        others: list[NodeCapabilities] = []
        ways: list[Arrangement] = []
        for others in self.visit.gather():
            for arranged in arrangements(self._needs, own, others, where=label, avoid=self._avoid):
                if arranged in ways:
                    continue
                ways.append(arranged)
                try:
                    self.visit.reserve(arranged.lent)
                    made = self._cut(arranged)
                except ShardingError as error:  # too little memory still: more of it elsewhere
                    tried = error
                    continue
                self._arranged = arranged
                return made
        raise CapabilityError(
            f"{tried.what}\n    {why_no_more(own, others)}",
            where=label,
            remedy="more nodes, --browserpool-max-browsers, or fewer shards",
        ) from alone

    def end(self) -> None:
        """Gives back what other nodes lend; nothing where none does."""
        if self.visit is not None:
            self.visit.end()

    def _speed(self, seat: Seat) -> float:
        if seat.node:
            assert self.visit is not None
            return self.visit.speed(seat, self._content.sha256)
        return speeds.speed(self._node, seat, self._content.sha256, self._threads)

    def _cut(self, arranged: Arrangement | None) -> Cut:
        node, label = self._node, self._content.label
        if arranged is not None:  # the own cores are shared by those alone that run here
            here = sum(1 for place in arranged.places if not place.node)
            self._threads = of_shard(node.cores, here)
        try:
            return cut(
                self._needs,
                self._content,
                arranged.places if arranged else self._places,
                self._speed,
                memory=int(node.capabilities().memory_gib * (1 << 30)),
                most=(self._needs.shards or 1) if arranged else node.settings.max_browsers,
                threads=self._threads,
                folder=pins.default_cache().root / "shards",
                refused=self.known.nodes,
                limit=arranged.limit if arranged else None,
            )
        except BackendRefused as error:
            lines = "\n    ".join(map(str, self.known.of(arranged.places if arranged else self._places)))
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
        if not seat.node:
            speeds.learn(self._node, seat, backend, self._content.sha256, self._threads, seen)
        elif self.visit is not None:
            self.visit.learn(seat, backend, self._content.sha256, seen)


def run_many(
    node: Node, resident: ShardedResident, inputs: Iterable[Arrays], in_flight: int
) -> Iterator[Reply]:
    """Replies in the order of ``inputs``, with up to ``in_flight`` requests under way.

    ``inputs`` is read only as fast as replies are taken. An error of ``inputs`` itself is raised where its reply would
    have come, after those to all that was given before. After another error, or when the caller stops, what is under
    way ends by itself first: giving it up would cost the pages that are at it.
    """
    waiting: deque[tuple[float, Arrays, Any]] = deque()
    items, limit = iter(inputs), resident.budget * in_flight
    ended: Exception | None = None
    try:
        while True:
            while len(waiting) < in_flight and ended is None:
                try:
                    given = next(items)
                except Exception as error:  # noqa: BLE001 - the caller's own, raised in its turn below
                    ended = error
                    break
                # the caller may fill the same arrays anew for the next request, while this one is under way
                own: Arrays = {name: array.copy() for name, array in given.items()}
                task = node.start(functools.partial(resident.run, own))
                waiting.append((time.time(), own, task))
            if not waiting and ended is not None:
                if isinstance(ended, StopIteration):
                    return
                raise ended
            started, arrays, task = waiting.popleft()
            wait = functools.partial(node.finish, task, limit)
            yield node.report.called(node.test, resident, started, arrays, wait)
    finally:
        for _, _, task in waiting:
            with contextlib.suppress(BrowserPoolError):
                node.finish(task, limit)
