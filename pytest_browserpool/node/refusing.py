"""Whether a model really runs where it was loaded, and what its test is told where it does not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.page import Session
from pytest_browserpool.config import did_you_mean
from pytest_browserpool.errors import (
    BackendRefused,
    BrowserPoolError,
    CapabilityError,
    MarkerError,
    SourceError,
)

BUNDLES = {"jsep": "all", "native": "native"}
"""``session_options={"bundle": …}`` → the page's bundle. JSEP is quicker on software adapters and exact where the native
WebGPU provider was off by 1e-2 (Silero VAD); the native one covers more operators. Unless given: JSEP for webgpu and
webnn, and for wasm whichever build is there, for they answer alike (``browsers.kinds``)."""


def bundle_of(word: Any) -> str:
    """The page's bundle that a marker names.

    Raises:
        MarkerError: there is no such bundle.
    """
    if word not in BUNDLES:
        raise MarkerError(
            f"session_options['bundle'] is {word!r}{did_you_mean(str(word), BUNDLES)}",
            remedy=f"one of {', '.join(BUNDLES)}",
        )
    return BUNDLES[word]


def placed_on(candidate: Candidate, session: Session) -> bool:
    """Whether any node of the model really runs on the candidate's backend."""
    provider = "webnn" if candidate.backend.startswith("webnn") else candidate.backend
    return bool(session.placement.get(provider))


def not_placed(candidate: Candidate, label: str, session: Session) -> BackendRefused:
    """The backend took the model, and onnxruntime ran all of it elsewhere."""
    missing = f"; no kernel for {', '.join(session.missing)}" if session.missing else ""
    return BackendRefused(
        f"{candidate.backend} in {candidate.browser} got no node of {label}: "
        f"onnxruntime placed {_words(session.placement)}{missing}",
        remedy="another backend; WebNN also needs input_shapes= that its operators can take",
    )


def changed(label: str, path: Path) -> SourceError:
    """A session is to be made anew, and the file holds something else by now: its answers would be another model's."""
    return SourceError(
        f"the file of {label} has changed since the test loaded it",
        where=str(path),
        remedy="write a new model under a name of its own, or load it again",
    )


def none_left(label: str, tried: Sequence[tuple[Candidate, BrowserPoolError]]) -> BrowserPoolError:
    """Each candidate that was tried refused the model."""
    if len(tried) == 1:
        return tried[0][1]
    if not tried:
        return CapabilityError(f"nothing is left to run {label} on", where="an earlier call of this test")
    lines = "\n    ".join(f"{c.browser}/{c.backend}: {e.what}" for c, e in tried)
    return BackendRefused(
        f"none of {len(tried)} ways runs {label}:\n    {lines}",
        remedy="allow another backend or browser in the marker",
    )


def _words(placement: Mapping[str, int]) -> str:
    return ", ".join(f"{count} on {name}" for name, count in placement.items()) or "nothing"
