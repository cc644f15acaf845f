"""In words, for a reader: why nothing here can run a test, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_browserpool.errors import BrowserPoolError, NoNode
from pytest_browserpool.values import BrowserCapabilities, ModelNeeds

LOST, NONE_UP = "lost", "no node came up"
"""What the engine says of a node that could have run the test, and where there is none to say anything of."""


def no_node(reasons: Sequence[str], troubles: Iterable[str] = ()) -> NoNode:
    """The error for a test that no node can run.

    ``reasons``: ``NODE: REASON`` for each node, as the engine and ``why_not`` give them; nodes with one reason are named
    together. ``troubles``: why nodes have no browser at all.
    """
    where: str | None
    nodes_of: dict[str, list[str]] = {}
    for reason in reasons:
        node, _, text = reason.partition(": ")
        nodes_of.setdefault(text or node, []).extend([node] if text else [])
    what = "no node can run this test"
    if len(nodes_of) == 1:
        ((text, nodes),) = nodes_of.items()
        what, where = f"{what}: {text}", ", ".join(nodes) or None
    else:
        where = "\n    ".join(["", *(f"{', '.join(nodes)}: {text}" for text, nodes in nodes_of.items())])
    details = [line for trouble in troubles for line in trouble.splitlines()]
    return NoNode("\n  ".join([what, *details]), where=where, remedy=_remedy(nodes_of))


def _remedy(reasons: Iterable[str]) -> str:
    missing = "browserpool doctor says what is missing; --browserpool-missing=skip skips such tests"
    if all(reason == NONE_UP for reason in reasons):
        return f"see above why {NONE_UP}"
    if all(reason == LOST for reason in reasons):
        return "see above why the nodes were lost"
    if all(reason.startswith("needs ") for reason in reasons):
        return "lower min_memory=, or start fewer nodes on that machine: they share its memory"
    return missing


def insisted(needs: ModelNeeds | None, chosen: Iterable[str], given: Iterable[BrowserCapabilities]) -> bool:
    """Whether the test would take a browser that ``--browserpool-browsers`` names and that gives nothing anywhere.

    Then it fails where it would be skipped: the machine is not the one that the run was meant for. ``given``: the browsers of
    all nodes, those that do not start among them.
    """
    here = list(given)
    wanted = needs.browsers if needs is not None else ()
    for word in chosen:
        meant = [browser for browser in here if browser.answers_to(word)]
        if any(browser.usable for browser in meant):
            continue
        # one that is not there at all is known by its name alone
        if not wanted or any(w.lstrip("=") == word or any(b.answers_to(w) for b in meant) for w in wanted):
            return True
    return False


def in_full(error: BrowserPoolError) -> str:
    """As the text of a failed test."""
    return f"{type(error).__name__}: {error}"


def in_a_line(error: BrowserPoolError) -> str:
    """As the reason of a skipped test."""
    where = " ".join((error.where or "").split())
    return " ".join(f"{error.what} ({where})".split())
