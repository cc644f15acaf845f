"""Kinds of model pages, and which build of onnxruntime-web each takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

BUNDLES = ("all", "native", "wasm")


class PageKind(NamedTuple):
    """What is settled for a page before its first session: pages that differ in it are different pages."""

    bundle: str = "all"
    """Of ``BUNDLES``: ``all`` (JSEP, WebNN, wasm), ``native`` (the native WebGPU provider) or ``wasm``
    (nothing else: half the WebAssembly to fetch and compile, and the same answers to the bit, docs/architecture.md)."""
    threads: int | None = None
    """Of WebAssembly (``ort.env.wasm.numThreads``); None: as many as the pool gives a whole model."""


WHOLE = PageKind()
"""What a whole model gets unless it runs on wasm or asks for another bundle."""


def page_for(backend: str, threads: int | None = None) -> PageKind:
    """The page of a session on ``backend``. ``threads`` are WebAssembly's: what runs elsewhere shares the page of whole
    models, because another one would have a GPU device of its own for nothing."""
    return PageKind("wasm", threads) if backend == "wasm" else WHOLE


@dataclass(frozen=True)
class Builds:
    """Which build the pages of one browser take."""

    threads: int
    """Of a page that asks for no number."""
    small: bool = True
    """Whether the runtime has a build for wasm alone; one of a user's own may not."""
    whole_soon: bool = False
    """Whether tests of the run need more than wasm from this browser: two pages would compile two builds."""

    def of(self, kind: PageKind) -> PageKind:
        """The page that is opened where ``kind`` is asked for and nothing is open yet."""
        threads = kind.threads or self.threads
        shared = self.whole_soon and threads == self.threads
        whole = kind.bundle == "wasm" and (shared or not self.small)
        return PageKind("all" if whole else kind.bundle, threads)
