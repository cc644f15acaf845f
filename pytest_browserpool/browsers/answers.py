"""What the probe found earlier: kept per browser version, and read before each launch."""

from __future__ import annotations

from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.browsers.identity import fingerprint
from pytest_browserpool.config import Settings
from pytest_browserpool.values import BrowserCapabilities

KIND = "probes"
"""Under which the cache keeps them."""


def known(installed: InstalledBrowser, settings: Settings, cache: Cache) -> BrowserCapabilities | None:
    """The kept answer, or None. A browser behind an endpoint is asked every time: it may be another one by now."""
    if installed.endpoint:
        return None
    plain = cache.read_json(KIND, fingerprint(installed, settings))
    return BrowserCapabilities.from_plain(plain) if plain else None


def on_hardware(installed: InstalledBrowser, settings: Settings, cache: Cache) -> bool:
    """Whether its WebGPU is known to run on a GPU. A browser that was not asked yet is taken for one that does not."""
    answer = known(installed, settings, cache)
    return answer is not None and any(
        b.available and b.adapter is not None and not b.adapter.software for b in answer.backends
    )
