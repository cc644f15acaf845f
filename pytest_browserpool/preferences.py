"""What ``browserpool apply`` wrote down for the next runs: preferred ways, pool size, nodes per browser. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_browserpool.values import BrowserCapabilities, ModelNeeds, Plain


@dataclass(frozen=True, kw_only=True)
class Preference(Plain):
    """One way that a model, or every model of a type, is run where a test leaves it open and a node can give it."""

    browser: str
    backend: str
    model: str = ""
    """``ModelNeeds.model_key``; empty: ``type`` says which."""
    type: str = ""
    adapter: str = ""
    """software or hardware: only where the browser's adapter is of that kind, for the other is another capability.
    Empty for backends that use none."""

    @property
    def way(self) -> tuple[str, str]:
        """(browser, backend)"""
        return self.browser, self.backend

    def fits(self, browser: BrowserCapabilities) -> bool:
        """Whether ``browser`` is the one, and gives what is preferred."""
        if browser.name != self.browser or not browser.gives(self.backend):
            return False
        if not self.adapter:
            return True
        support = next(b for b in browser.backends if b.name == self.backend)
        return support.adapter is not None and support.adapter.software == (self.adapter == "software")


@dataclass(frozen=True, kw_only=True)
class AppliedChange(Plain):
    """One recommendation that was applied, with what was known and promised then."""

    id: str
    """Such as ``prefer/vad.onnx``: the same subject has the same id, so that a later one replaces it."""
    title: str
    evidence: str
    applied_at: float
    """Seconds since the epoch, UTC."""
    expected_s: float | None = None
    """Seconds that each run is expected to save."""
    prefer: Preference | None = None
    max_browsers: int | None = None
    nodes: Mapping[str, int] = field(default_factory=dict)
    """Browser → on how many nodes it is used at most."""
    of_nodes: int | None = None
    """In a run with so many; with more nodes it may be on more, in proportion."""


def prefer_of(changes: Iterable[AppliedChange]) -> tuple[Preference, ...]:
    """The preferences among ``changes``."""
    return tuple(change.prefer for change in changes if change.prefer is not None)


def browser_nodes_of(changes: Iterable[AppliedChange], nodes: int) -> dict[str, int]:
    """Browser → on how many of ``nodes`` nodes ``changes`` want it at most."""
    return {
        browser: math.ceil(count * max(1.0, nodes / (change.of_nodes or nodes or 1)))
        for change in changes
        for browser, count in change.nodes.items()
    }


def preferred(preferences: Iterable[Preference], needs: ModelNeeds | None) -> Preference | None:
    """What a test with ``needs`` is to use where a node can give it; None: as without preferences.

    What the test's marker says wins: with browsers, ``on="each"`` or shards of its own it is left alone, and a
    preference for another backend than the first that it lists is none for it. A model's own preference goes before
    its type's.
    """
    if needs is None or needs.browsers or needs.on == "each" or (needs.shards or 1) > 1:
        return None
    for_type = None
    for each in preferences:
        if needs.backends and each.backend != needs.backends[0]:
            continue
        if each.model and each.model == needs.model_key:
            return each
        if each.type and each.type == needs.type and for_type is None:
            for_type = each
    return for_type
