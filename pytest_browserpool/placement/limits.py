"""Which nodes use a browser that is to be used on a few of them only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pytest_browserpool.values import NodeCapabilities


def excluded(nodes: Sequence[NodeCapabilities], limits: Mapping[str, int]) -> dict[str, frozenset[str]]:
    """Node → the browsers that it leaves to others, so that each browser is on as many nodes as ``limits`` says.

    A browser stays on every node that has it where those are no more than its limit; so what can run anywhere can run
    after this. Of more, those nodes keep it that keep the fewest others, and the scarcest browser chooses first. A node
    is never left without any browser.
    """
    holders = {name: [node for node in nodes if node.browser(name) is not None] for name in sorted(limits)}
    kept: Counter[str] = Counter()
    left_out: dict[str, set[str]] = {node.node: set() for node in nodes}
    order = {node.node: place for place, node in enumerate(nodes)}
    for name in sorted(holders, key=lambda name: (limits[name], name)):
        ranked = sorted(holders[name], key=lambda node: (kept[node.node], order[node.node]))
        for node in ranked[: limits[name]]:
            kept[node.node] += 1
        for node in ranked[limits[name] :]:
            left_out[node.node].add(name)
    for node in nodes:
        if node.browsers and len(left_out[node.node]) == len(node.browsers):
            left_out[node.node].clear()
    return {name: frozenset(browsers) for name, browsers in left_out.items() if browsers}
