"""Watching the run: forecasts, thresholds, waits and pool sizes, fed by what is sent and what ends."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_browserpool.placement.explain import Explainer
from pytest_browserpool.placement.history import Session
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.placement.poolsize import PoolAdvisor
from pytest_browserpool.placement.prediction import Predictor
from pytest_browserpool.placement.state import NodePlan, Test
from pytest_browserpool.placement.thresholds import Thresholds
from pytest_browserpool.placement.views import Waits


class Watch:
    """Sees tests go and come; every few seconds looks ahead."""

    def __init__(self, config: EngineConfig, explainer: Explainer) -> None:
        self.explainer = explainer
        self.predictor = Predictor()
        self.thresholds = Thresholds()
        self.advisor = PoolAdvisor(config)
        self.waits = Waits()
        self.collected_at = 0.0

    def sent(self, node: NodePlan, session: Session, test: Test, now: float) -> None:
        """``test`` was sent to ``node``."""
        self.waits.note(test.kind.priority, now - self.collected_at)
        self.predictor.began_test(node.id, session[0], test.kind.type, now)

    def ended(self, node: NodePlan, test: Test, now: float) -> None:
        """``test`` ended on ``node``."""
        self.predictor.ended_test(node.id, test.kind.type, now, node.expected_s)

    def look_ahead(self, nodes: Mapping[str, NodePlan], now: float) -> tuple[list[str], list[str]] | None:
        """If it is time: forecast, adapt the thresholds, and name the (overloaded, underused) browsers."""
        if not self.predictor.due(now):
            return None
        self.predictor.forecast(nodes.values(), {"": self.thresholds.high}, now)
        present = {b.name for n in nodes.values() for b in n.capabilities.browsers}
        latest = {name: f for name, f in self.predictor.latest.items() if name in present}
        self.thresholds.update({name: f.utilization for name, f in latest.items()}, now)
        self.explainer.told(
            {name: f.naive_utilization for name, f in latest.items()},
            {name: f.utilization for name, f in latest.items()},
        )
        return self.thresholds.those("overloaded"), self.thresholds.those("underused")
