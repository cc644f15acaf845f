"""What makes a browser of this machine the same one as yesterday: its answers and its compiled code are kept by that."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pytest_browserpool.artefacts import runtime
from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.config import Settings

VERSION = 4
"""Raised when the probe asks other questions, so that older answers are not believed."""

DRIVERS = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/nvidia/share/vulkan/icd.d")
"""Where Vulkan drivers are registered: a driver installed later changes what the same browser can do."""


def fingerprint(installed: InstalledBrowser, settings: Settings) -> str:
    """What an answer of the probe depends on: executable, its switches, onnxruntime-web, the machine's GPU drivers."""
    parts: dict[str, Any] = {
        "probe": VERSION,
        "runtime": runtime.fingerprint_of(settings),
        "flags": list(installed.flags),
        "prefs": dict(installed.prefs),
        "environment": dict(installed.environment),
        "channel": installed.channel,
        "endpoint": installed.endpoint,
        "files": [_stamp(installed.executable)] if installed.executable else [],
        "drivers": [_stamp(str(p)) for d in DRIVERS if Path(d).is_dir() for p in sorted(Path(d).iterdir())],
    }
    if installed.executable:
        # wrappers such as /usr/bin/chromium stay the same when the browser behind them is updated
        for behind in (
            "/usr/lib/chromium/chromium",
            "/usr/lib/firefox-esr/firefox-esr",
            "/opt/google/chrome/chrome",
        ):
            if Path(behind).parent.name in Path(installed.executable).name:
                parts["files"].append(_stamp(behind))
    text = json.dumps(parts, sort_keys=True)
    return f"{installed.name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def _stamp(path: str) -> list[Any]:
    try:
        real = Path(path).resolve()
        status = real.stat()
    except OSError:
        return [path, None]
    return [str(real), status.st_size, status.st_mtime_ns]
