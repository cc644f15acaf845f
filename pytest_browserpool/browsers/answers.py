"""What the probe found earlier: kept per browser version, and read before each launch."""

from __future__ import annotations

import math
import time

from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.browsers.identity import fingerprint
from pytest_browserpool.config import Settings
from pytest_browserpool.values import BrowserCapabilities

KIND = "probes"
"""Under which the cache keeps them."""

FAULTED_SECONDS = 3600.0
"""How long an answer is kept in which a backend gave none. A machine that was too busy for it is asked again within the
hour; a switch that hangs the browser costs its deadline once in that time, and not at every start."""


def known(installed: InstalledBrowser, settings: Settings, cache: Cache) -> BrowserCapabilities | None:
    """The kept answer, or None. A browser behind an endpoint is asked every time: it may be another one by now."""
    if installed.endpoint:
        return None
    plain = cache.read_json(KIND, fingerprint(installed, settings))
    if not plain or time.time() > float(plain.get("until", math.inf)):
        return None
    return BrowserCapabilities.from_plain(plain)


def keep(found: BrowserCapabilities, installed: InstalledBrowser, settings: Settings, cache: Cache) -> None:
    """Keeps an answer for the next start: for good, or for ``FAULTED_SECONDS`` where a backend gave none."""
    if installed.endpoint:
        return
    plain = found.to_plain()
    if any(b.faulted for b in found.backends):
        plain["until"] = time.time() + FAULTED_SECONDS
    cache.write_json(KIND, fingerprint(installed, settings), plain)


def on_hardware(installed: InstalledBrowser, settings: Settings, cache: Cache) -> bool:
    """Whether its WebGPU is known to run on a GPU. A browser that was not asked yet is taken for one that does not."""
    answer = known(installed, settings, cache)
    return answer is not None and any(
        b.available and b.adapter is not None and not b.adapter.software for b in answer.backends
    )
