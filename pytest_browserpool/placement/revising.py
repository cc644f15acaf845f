"""When estimates move: work that waits on a node goes to another browser of that node, where that takes fewer
seconds."""

from __future__ import annotations

from pytest_browserpool.placement.history import Session
from pytest_browserpool.placement.state import Batch, NodePlan

GAIN = 0.05
"""Share of its seconds that a change of browser must save: below that, estimates are noise."""


def revise(node: NodePlan) -> bool:
    """Give batches that could run in several sessions of ``node`` the one that takes fewest seconds; whether any
    changed.

    Batches that share a session are looked at together first: only then is its set-up saved.
    """
    together: dict[Session, list[Batch]] = {}
    for batch in node.batches.values():
        if len(batch.kind.options[node.profile]) > 1:
            together.setdefault(batch.session, []).append(batch)
    changed = False
    for session, batches in together.items():
        changed = _move(node, session, batches) or changed
    return changed


def _move(node: NodePlan, session: Session, batches: list[Batch]) -> bool:
    options = set(batches[0].kind.options[node.profile])
    for batch in batches[1:]:
        options &= set(batch.kind.options[node.profile])
    work, count = sum(b.work for b in batches), sum(len(b.tests) for b in batches)
    before = node.load
    node.discharge(session, work, count)
    stay = before - node.load
    order = [s for s in batches[0].kind.options[node.profile] if s in options]
    best = min(order, key=lambda s: node.setup(s) + work * node.unit(s))
    seconds = node.setup(best) + work * node.unit(best)
    node.charge(session, work, count)
    if best == session or seconds > stay * (1 - GAIN):
        return False
    for batch in batches:
        tests = list(batch.tests)
        node.take(batch, tests)
        node.put(batch.kind, best, tests)
    return True
