"""How many browsers a node should keep: as many as its plan uses soon, within bounds, memory and a
cool-down."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.placement.prediction import HORIZON_S
from pytest_browserpool.placement.state import NodePlan


@dataclass(frozen=True, kw_only=True)
class PoolAdvice:
    """What a node's pool is to keep."""

    size: int
    """Browsers alive at once, as long as no more are in use."""
    most: int
    """What the pool's maximum and the node's memory allow."""
    soon: frozenset[str]
    """Browsers that the plan uses within the next minute: the last to be closed."""


@dataclass
class PoolAdvisor:
    """Remembers what it advised per node, so that it grows at once and shrinks only after the cool-down."""

    config: EngineConfig
    sizes: dict[str, int] = field(default_factory=dict)
    changed: dict[str, float] = field(default_factory=dict)

    def advise(self, node: NodePlan, now: float) -> PoolAdvice:
        """What ``node`` should keep."""
        soon = frozenset(self._soon(node, now))
        return PoolAdvice(size=self._size(node, len(soon), now), most=self._most(node), soon=soon)

    def _size(self, node: NodePlan, wanted: int, now: float) -> int:
        wanted = self._bounded(node, wanted)
        size = self.sizes.get(node.id)
        cooled = size is None or now - self.changed[node.id] >= self.config.pool_cool_down_s
        if size is None or wanted > size or (wanted < size and cooled):
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

    def _most(self, node: NodePlan) -> int:
        config = self.config
        by_memory = math.floor(config.memory_share * node.capabilities.memory_gib / config.browser_memory_gib)
        return max(1, min(node.capabilities.max_browsers, by_memory))

    def _bounded(self, node: NodePlan, wanted: int) -> int:
        most = self._most(node)
        return max(min(self.config.min_browsers, most), min(wanted, most))
