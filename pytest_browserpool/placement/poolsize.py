"""How many browsers a node should keep: as many as its plan uses soon, within bounds, memory and a
cool-down."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.placement.prediction import HORIZON_S
from pytest_browserpool.placement.state import NodePlan

COOL_DOWN_S = 60.0
"""Seconds before a pool shrinks after it last changed: a browser closed too soon is launched again."""


@dataclass
class PoolAdvisor:
    """Remembers what it advised per node, so that it grows at once and shrinks only after the cool-down."""

    config: EngineConfig
    sizes: dict[str, int] = field(default_factory=dict)
    changed: dict[str, float] = field(default_factory=dict)

    def advise(self, node: NodePlan, now: float) -> int:
        """Browsers that ``node`` should keep alive at once."""
        wanted = self._bounded(node, len(self._soon(node, now)))
        size = self.sizes.get(node.id)
        if size is None or wanted > size or (wanted < size and now - self.changed[node.id] >= COOL_DOWN_S):
            if wanted != size:
                self.sizes[node.id], self.changed[node.id] = wanted, now
            return wanted
        return min(size, self._bounded(node, size))

    def _soon(self, node: NodePlan, now: float) -> set[str]:
        """The browsers that the plan uses within the forecast's horizon."""
        used = {node.session[0]} if node.session is not None and node.session[0] else set()
        ahead = max(0.0, node.busy_until - now)
        for batch in reversed(node.ordered()):
            if ahead > HORIZON_S:
                break
            if batch.session[0]:
                used.add(batch.session[0])
            ahead += sum(node.setup_now(batch.session)) + batch.work * node.unit(batch.session)
        return used

    def _bounded(self, node: NodePlan, wanted: int) -> int:
        config = self.config
        by_memory = math.floor(config.memory_share * node.capabilities.memory_gib / config.browser_memory_gib)
        most = max(1, min(node.capabilities.max_browsers, by_memory))
        return max(min(config.min_browsers, most), min(wanted, most))
