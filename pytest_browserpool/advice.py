"""Tells each node how many browsers its pool is to keep, as its plan changes, and puts that on the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pytest_browserpool.link import Message
from pytest_browserpool.records import MetricRecord

if TYPE_CHECKING:
    from pytest_browserpool.ledger import Ledger
    from pytest_browserpool.placement.engine import PlacementEngine
    from pytest_browserpool.placement.poolsize import PoolAdvice

POOL_SIZE = "pool_size"
"""Name of the series: a point for each node where its size changed."""


class PoolAdviser:
    """Reads the engine's advice. ``tick`` is to be called about once a second; ``tell`` sends a directive to a node."""

    def __init__(self, engine: PlacementEngine, ledger: Ledger, tell: Callable[[Any, Message], None]) -> None:
        self._engine, self._ledger, self._tell = engine, ledger, tell
        self._told: dict[str, PoolAdvice] = {}

    def tick(self, nodes: Iterable[Any]) -> None:
        """Tell each of ``nodes`` (xdist's) that has a pool what to keep, where that is something new."""
        for node in nodes:
            name = str(node.gateway.id)
            plan = self._engine.book.nodes.get(name)
            advice = self._engine.pool_advice(name)
            before = self._told.get(name)
            if plan is None or advice is None or not plan.capabilities.browsers or advice == before:
                continue
            self._told[name] = advice
            self._tell(
                node, {"kind": "pool", "size": advice.size, "most": advice.most, "soon": sorted(advice.soon)}
            )
            if before is None or before.size != advice.size:
                self._ledger.writer.add(
                    MetricRecord(
                        run_id=self._ledger.run_id,
                        node=name,
                        at=time.time(),
                        name=POOL_SIZE,
                        value=float(advice.size),
                    )
                )
