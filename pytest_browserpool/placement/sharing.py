"""Nodes of one machine share its cores: how much longer their work takes together, and what a second of it is
worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_browserpool.placement.state import NodePlan

BUSY_CORES = 1.7
"""Cores that a busy node fills: 60 tests of six models with their launches and loads, one after the other, took 44 s of
processor time in 26 s on two cores (``make bench-peers``, the physical limit). Launches 1.4, first runs on a software
adapter 1.8."""
PRICE_RANGE = (0.02, 0.25)
"""Of ``work_price``."""
DEAREST = 20.0
"""Bound of ``crowded_price``: a set-up of a second is not worth twenty, even where the cores give nothing more."""


def work_price(nodes: int) -> float:
    """What a second of work is worth beside a second of the end.

    Where ``nodes`` share the work evenly, each second of it moves the end by 1/nodes, sooner or later: a set-up that
    only fills a gap now is missed when estimates turn out wrong. At least 2 %: nobody wants ten seconds of set-up
    for a gain of a tenth; at most a quarter, so that two nodes still share.
    """
    return min(PRICE_RANGE[1], max(PRICE_RANGE[0], 1.0 / max(nodes, 1)))


def stretch(busy: int, cores: int) -> float:
    """How many times longer work takes on a machine of ``cores`` while ``busy`` of its nodes work than while one
    does."""
    return max(1.0, busy / max(1.0, cores / BUSY_CORES))


def crowded_price(nodes: int, cores: int) -> float:
    """``work_price`` between two of the ``nodes`` of one machine.

    With ends l₁ ≥ l₂ ≥ … its work takes T = Σ (lⱼ − lⱼ₊₁)·stretch(j). A second less for the node that ends last, and
    one more for the one that ends first, change T by −1 + w, w = stretch(nodes) − stretch(nodes − 1); a set-up of s
    seconds there costs w·s. So it must gain w ÷ (1 − w) of itself.
    """
    if nodes < 2:
        return 0.0
    weight = stretch(nodes, cores) - stretch(nodes - 1, cores)
    return min(DEAREST, weight / (1.0 - weight)) if weight < 1.0 else DEAREST


def together(lengths: Iterable[float], cores: int) -> float:
    """Seconds until nodes of one machine have done work that would take each of them ``lengths`` seconds alone."""
    ordered = sorted(lengths, reverse=True)
    ends = [*ordered[1:], 0.0]
    return sum(
        (own - after) * stretch(j, cores) for j, (own, after) in enumerate(zip(ordered, ends, strict=True), 1)
    )


class Prices:
    """What a second of work is worth between any two of ``nodes``."""

    def __init__(self, nodes: Sequence[NodePlan]) -> None:
        self.apart = work_price(len(nodes))
        hosts = Counter(n.machine for n in nodes if n.machine)
        self.shared: dict[str, float] = {}
        """Machine whose nodes fill its cores → the price between them."""
        for node in nodes:
            if hosts[node.machine] > 1 and node.machine not in self.shared:
                price = crowded_price(hosts[node.machine], node.capabilities.cores)
                if price > self.apart:
                    self.shared[node.machine] = price

    def between(self, a: NodePlan, b: NodePlan) -> float:
        """Seconds by which the end must come sooner for a second of set-up that moving work from ``a`` to ``b``
        adds."""
        if self.shared and a.machine == b.machine and a is not b:
            return self.shared.get(a.machine, self.apart)
        return self.apart
