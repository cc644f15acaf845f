"""In which order a node tries (browser, backend) pairs for a test. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pytest_browserpool.values import BrowserCapabilities, ModelNeeds

AFFINITY: Mapping[str, str] = {
    "audio": "firefox",
    "vision": "chrome",
    "text": "edge",
    "text_embedding": "edge",
    "large_language_model": "chrome",
    "multimodal": "chrome",
}
"""Model type → browser family that is tried first while nothing is known. Priors only: any measurement beats them."""


@dataclass(frozen=True, order=True)
class Candidate:
    """One way to run a model here."""

    browser: str
    backend: str


def candidates(
    needs: ModelNeeds,
    browsers: Iterable[BrowserCapabilities],
    *,
    hint: Candidate | None = None,
    warm: Collection[Candidate] = (),
    running: Collection[str] = (),
) -> list[Candidate]:
    """Every pair that the needs allow and the probe found, best first.

    Backends are a strict order. Among the browsers of one backend: one with the session warm, a running one, the order
    of the marker, the prior for the model's type. ``hint`` (the scheduler's choice, made with all nodes and the measured
    cost in view) goes first if it is allowed at all.
    """
    found: list[tuple[tuple[int, ...], Candidate]] = []
    for position, browser in enumerate(browsers):
        wish = _wish(needs.browsers, browser)
        if wish is None:
            continue
        wanted = needs.backends or browser.preference
        for rank, backend in enumerate(wanted):
            if not browser.gives(backend):
                continue
            candidate = Candidate(browser.name, backend)
            prior = 0 if AFFINITY.get(needs.type or "") in (browser.family, browser.name) else 1
            order = (
                0 if candidate == hint else 1,
                rank,
                0 if candidate in warm else 1,
                0 if browser.name in running else 1,
                wish,
                prior,
                position,
            )
            found.append((order, candidate))
    return [candidate for _, candidate in sorted(found)]


def _wish(wanted: tuple[str, ...], browser: BrowserCapabilities) -> int | None:
    if not wanted:
        return 0
    return next((i for i, word in enumerate(wanted) if browser.answers_to(word)), None)


def reasons(needs: ModelNeeds, browsers: Iterable[BrowserCapabilities]) -> list[str]:
    """Why nothing qualifies: one line per browser."""
    lines = []
    for browser in browsers:
        if _wish(needs.browsers, browser) is None:
            lines.append(f"{browser.name}: not among browsers={list(needs.browsers)}")
            continue
        for support in browser.backends:
            if (not needs.backends or support.name in needs.backends) and not support.available:
                lines.append(f"{browser.name}/{support.name}: {support.detail}")
    return lines or ["no browser here"]
