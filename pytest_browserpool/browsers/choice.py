"""In which order a node tries (browser, backend) pairs for a test. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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


@dataclass(frozen=True, order=True)
class Weight:
    """Why a candidate stands where it does: compared field by field, lower goes first."""

    not_hinted: int
    """0: the scheduler's choice, made with all nodes and the measured cost in view."""
    not_preferred: int
    """0: the way that ``browserpool apply`` set for the model or its type."""
    backend_rank: int
    """Its place in the marker's ``backends``, a strict order; without one, in what this browser gives and prefers."""
    cold: int
    """0: the session is there."""
    not_running: int
    """0: the browser runs."""
    browser_rank: int
    """Its place in the marker's ``browsers``."""
    against_prior: int
    """0: the browser that the prior names for the model's type."""
    position: int
    """Its place in the catalogue, so that the order is complete."""


def weighed(
    needs: ModelNeeds,
    browsers: Iterable[BrowserCapabilities],
    *,
    hint: Candidate | None = None,
    preferred: Candidate | None = None,
    warm: Collection[Candidate] = (),
    running: Collection[str] = (),
) -> list[tuple[Weight, Candidate]]:
    """Every pair that the needs allow and the probe found, best first, each with its weight."""
    found: list[tuple[Weight, Candidate]] = []
    for position, browser in enumerate(browsers):
        wish = _wish(needs.browsers, browser)
        if wish is None:
            continue
        prior = 0 if AFFINITY.get(needs.type or "") in (browser.family, browser.name) else 1
        # A test that names no backend takes any: of each browser the first that it prefers, and the browser decides.
        order = needs.backends or tuple(b for b in browser.preference if browser.gives(b))
        for rank, backend in enumerate(order):
            if browser.gives(backend):
                candidate = Candidate(browser.name, backend)
                weight = Weight(
                    not_hinted=int(candidate != hint),
                    not_preferred=int(candidate != preferred),
                    backend_rank=rank,
                    cold=int(candidate not in warm),
                    not_running=int(browser.name not in running),
                    browser_rank=wish,
                    against_prior=prior,
                    position=position,
                )
                found.append((weight, candidate))
    return sorted(found)


def candidates(
    needs: ModelNeeds,
    browsers: Iterable[BrowserCapabilities],
    *,
    hint: Candidate | None = None,
    warm: Collection[Candidate] = (),
    running: Collection[str] = (),
) -> list[Candidate]:
    """``weighed`` without the weights."""
    return [candidate for _, candidate in weighed(needs, browsers, hint=hint, warm=warm, running=running)]


def beyond_wasm(run: Iterable[ModelNeeds], browsers: Sequence[BrowserCapabilities]) -> frozenset[str]:
    """Browsers from which a test of the run needs more than wasm: what the test would try first there."""
    found = set()
    for needs in run:
        for browser in browsers:
            first = next(iter(candidates(needs, [browser])), None)
            if first is not None and first.backend != "wasm":
                found.add(browser.name)
    return frozenset(found)


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
