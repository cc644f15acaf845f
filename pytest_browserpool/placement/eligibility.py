"""Hard constraints: which sessions a node can give a test, and in words why it cannot."""

from __future__ import annotations

from collections.abc import Collection

from pytest_browserpool.placement.history import Session
from pytest_browserpool.preferences import Preference
from pytest_browserpool.values import BrowserCapabilities, ModelNeeds, NodeCapabilities

NO_SESSION: Session = ("", "", "")
"""What a test without needs uses."""


def needs_browser(needs: ModelNeeds | None) -> bool:
    """Whether the test must have a browser. A marker that states no constraint and no model asks for
    nothing."""
    if needs is None:
        return False
    return bool(needs.model_key or needs.browsers or needs.backends or needs.type or needs.shards)


def sessions_on(
    node: NodeCapabilities,
    needs: ModelNeeds | None,
    refused: Collection[Session],
    *,
    every_backend: bool = False,
    preferred: Preference | None = None,
) -> tuple[Session, ...]:
    """The sessions that ``node`` can give a test with ``needs``, one per browser, in the test's order of
    preference.

    The backends that a test names are a strict order: its sessions are those on the first of them that some browser of the
    node really gives and that is not in ``refused``. A test that names none takes of each browser the first that it gives;
    with ``every_backend`` all of those. Where the node gives ``preferred``, that is the only one.
    """
    if needs is not None and needs.min_memory is not None and needs.min_memory > node.memory_gib:
        return ()
    if needs is None or not needs_browser(needs):
        return (NO_SESSION,)
    wanted = _in_order(node, needs.browsers)
    for browser in wanted:
        if preferred is not None and preferred.fits(browser):
            session = (*preferred.way, needs.model_key)
            if session not in refused:
                return (session,)
    given = {browser.name: _backends(browser, needs, refused) for browser in wanted}
    if needs.backends:
        first = next((b for b in needs.backends if any(b in backends for backends in given.values())), None)
        return tuple(
            (name, first, needs.session_key) for name, backends in given.items() if first in backends
        )
    return tuple(
        (name, backend, needs.session_key)
        for name, backends in given.items()
        for backend in (backends if every_backend else backends[:1])
    )


def _in_order(node: NodeCapabilities, wanted: tuple[str, ...]) -> list[BrowserCapabilities]:
    if not wanted:
        return list(node.browsers)
    ordered = [b for word in wanted for b in node.browsers if b.answers_to(word)]
    return list(dict.fromkeys(ordered))


def _backends(browser: BrowserCapabilities, needs: ModelNeeds, refused: Collection[Session]) -> list[str]:
    return [
        backend
        for backend in needs.backends or browser.preference
        if browser.gives(backend)
        and (browser.name, backend, needs.model_key) not in refused
        and (browser.name, backend, needs.session_key) not in refused
    ]


def why_not(node: NodeCapabilities, needs: ModelNeeds | None, refused: Collection[Session]) -> str:
    """One line that says why ``node`` cannot run a test with ``needs``; empty if it can."""
    if sessions_on(node, needs, refused):
        return ""
    assert needs is not None
    if needs.min_memory is not None and needs.min_memory > node.memory_gib:
        return f"{node.node}: needs {needs.min_memory:g} GiB, node has {node.memory_gib:.3g}"
    wanted = _in_order(node, needs.browsers)
    if not wanted:
        have = ", ".join(b.name for b in node.browsers) or "none"
        return f"{node.node}: no {' or '.join(needs.browsers) or 'browser'} (has {have})"
    return f"{node.node}: " + "; ".join(_browser_reason(b, needs, refused) for b in wanted)


def _browser_reason(browser: BrowserCapabilities, needs: ModelNeeds, refused: Collection[Session]) -> str:
    wanted = needs.backends or browser.preference
    parts: dict[str, list[str]] = {}
    for backend in wanted:
        support = next((b for b in browser.backends if b.name == backend), None)
        detail = (support.detail if support else "") or "not available"
        if (browser.name, backend, needs.model_key) in refused:
            detail = "refused this model"
        parts.setdefault(detail, []).append(backend)
    said = "; ".join(f"{', '.join(names)}: {detail}" for detail, names in parts.items())
    return f"{browser.name} ({said})"
