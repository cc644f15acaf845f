"""The ways in which a node can run a model now, best first: what is set, warm or running here goes into the order."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_browserpool.browsers import choice
from pytest_browserpool.browsers.choice import Candidate, Weight
from pytest_browserpool.browsers.pool import ModelContent, Pool
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import CapabilityError
from pytest_browserpool.preferences import prefer_of, preferred
from pytest_browserpool.values import ModelNeeds, NodeCapabilities

Hint = tuple[str, str | None]
"""The scheduler's choice: a browser's name, and the backend if it chose one."""


def ways(
    pool: Pool,
    node: NodeCapabilities,
    settings: Settings,
    needs: ModelNeeds,
    content: ModelContent,
    hint: Hint | None,
) -> Sequence[tuple[Weight, Candidate]]:
    """Each browser and backend that the needs allow, with its weight; at least one.

    Raises:
        CapabilityError: there is none, with the reason for each browser.
    """
    if needs.min_memory is not None and needs.min_memory > node.memory_gib:
        raise CapabilityError(
            f"{content.label} needs {needs.min_memory:g} GiB, node {node.node} has {node.memory_gib:.3g}",
            remedy="lower min_memory=, or start fewer nodes on that machine: they share its memory",
        )
    wanted = None
    if hint is not None:
        wanted = Candidate(hint[0], hint[1] or next(iter(needs.backends), "wasm"))
    warm = {
        Candidate(i.name, s.key.backend)
        for i in pool.instances
        for s in i.sessions()
        if s.key.sha256 == content.sha256
    }
    running = {i.name for i in pool.instances if i.usable}
    own = preferred(prefer_of(settings.applied), needs)
    set_way = Candidate(*own.way) if own and any(own.fits(b) for b in node.browsers) else None
    found = choice.weighed(needs, node.browsers, hint=wanted, preferred=set_way, warm=warm, running=running)
    if not found:
        raise CapabilityError(
            f"nothing on node {node.node} can run {content.label}:\n    "
            + "\n    ".join(choice.reasons(needs, node.browsers)),
            remedy="`browserpool doctor` shows what each browser gives; change browsers= or backends=",
        )
    return found
