"""A sharded model loaded into its browsers, and cut anew where a shard's backend runs nothing of its part."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pytest_browserpool import records
from pytest_browserpool.errors import BackendRefused, BrowserPoolError
from pytest_browserpool.node.journal import Operation
from pytest_browserpool.node.refusals import Refusal, Refusals, SegmentsRefused

if TYPE_CHECKING:
    from pytest_browserpool.node.cutting import Cut
    from pytest_browserpool.node.node import Node
    from pytest_browserpool.node.sharded import ShardedResident

MOST_CUTS = 8
"""Cuts tried when a model is opened. Each bars at least one more node from a browser, so the search ends anyway; but
planning, the native check and the loads of one cut take seconds, so eight keep a test within about a minute. What was
met is kept, and the next opening goes on from there."""


def place(node: Node, resident: ShardedResident, known: Refusals, recut: Callable[[], Cut]) -> None:
    """All shards loaded, on the record; ``recut`` makes a cut without what ``known`` has.

    Raises:
        BackendRefused: no cut is left, or ``MOST_CUTS`` were refused; each refusal is named. Otherwise as ``recut`` and
            ``Lanes.place``.
    """
    started = time.time()
    resident.use.operation = Operation("load")
    try:
        _placed(node, resident, known, recut)
    except BrowserPoolError as error:
        latency = (time.time() - started) * 1000
        node.report.operation(node.test, resident, "load", started, latency, error=error)
        raise


def _placed(node: Node, resident: ShardedResident, known: Refusals, recut: Callable[[], Cut]) -> None:
    work: Callable[[], Awaitable[Any]] = resident.place
    for tried in range(1, MOST_CUTS + 1):
        began = time.time()
        try:
            node.call(work, node.budget(resident))
        except SegmentsRefused as error:
            known.learn(error.refusals)
            for refusal in error.refusals:
                _record(node, resident, refusal, began)
            if tried < MOST_CUTS:
                work = functools.partial(resident.place_again, recut(), error.refusals)
        else:
            return
    lines = "\n    ".join(map(str, known.met))
    raise BackendRefused(
        f"{MOST_CUTS} cuts were tried, and in each a shard's backend ran nothing of its part:\n    {lines}",
        where=resident.content.label,
        remedy="run it again, which goes on from here; or allow another backend, or ask for fewer shards",
    )


def _record(node: Node, resident: ShardedResident, refusal: Refusal, began: float) -> None:
    """The refusal in the history: a load of that segment which came to nothing, and why."""
    segment = resident.segment_of(refusal.nodes)
    found = node.capabilities().browser(refusal.browser)
    model = records.ModelRecord(sha256=segment.sha256, label=segment.label, bytes=segment.size)
    node.report.row("models", model)
    operation = records.OperationRecord(
        run_id="",
        operation=Operation("load").id,
        nodeid=node.test.nodeid if node.test else "",
        node=node.node_id,
        instance="",
        browser=refusal.browser,
        browser_version=found.version if found is not None else "",
        backend=refusal.backend,
        model=segment.sha256,
        kind="load",
        started_at=began,
        latency_ms=(time.time() - began) * 1000,
        placement=json.dumps(dict(refusal.placed)),
        ok=False,
        error=f"BackendRefused: {refusal}; the model is cut anew"[:500],
    )
    node.report.row("operations_log", operation)
