"""What Chromium compiled of onnxruntime-web's WebAssembly, kept between runs.

A Chromium compiles the 26 MB of WebAssembly for each browser anew, 3 s of processor time. It would keep the result in its
profile, but a profile of ours lives as long as its browser. So the compiled code is copied out of the profile when a browser
closes, and into those of later ones before they start. Chromium uses it only for the same URL, and only while the response
that it was compiled from is still in the HTTP cache: hence a host and a path that stay the same, and both caches.

What is kept stays as it is. Code that V8 reads, adds to and writes again tells how near each function is to being optimised,
and some are giants: every run that starts so near may pay for them, 8 s of processor time and 1 GB more were measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_browserpool.artefacts import pins, runtime
from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.browsers.wrapper import script
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import BrowserPoolError

HOST = "browserpool.localhost"
"""Under this name a Chromium of ours reaches its node whatever the port; names under localhost are secure contexts."""

CODE = Path("Code Cache", "wasm")
KEPT = (Path("Cache"), CODE)
"""Of a profile's ``Default`` directory. Nothing else: no cookies, no storage, no shaders (they gained 2 % at most)."""

LEAST_BYTES = 3 << 20
"""Chromium writes with each megabyte that got hot: 4 – 8 MB after a run of a few models. What has less has hardly begun, and
would stand in the way of more."""

KEEP_SECONDS = 30 * 86400.0
"""Since a browser last started with it: an update of the browser makes it useless, and it is 36 MB."""

IN_USE_SECONDS = 3600.0
"""Before what a larger one replaced is removed: a launch may be copying it."""

SEED = "BROWSERPOOL_SEED"
EXECUTABLE = "BROWSERPOOL_CHROMIUM"
"""Environment variables of the wrapper: what it puts into the profile, and what it becomes."""

WRAPPER = f"""#!/bin/sh
for word in "$@"; do
  case "$word" in --user-data-dir=*) profile="${{word#--user-data-dir=}}/Default" ;; esac
done
# whatever goes wrong here, the browser compiles for itself what it lacks
mkdir -p "$profile" && cp -R "${SEED}/." "$profile/"
exec "${EXECUTABLE}" "$@"
"""


@dataclass(frozen=True)
class CodeCache:
    """Compiled code: ``compiled/<fingerprint of browser and runtime>/<bytes of its largest piece>/``; the most is used."""

    cache: Cache

    @property
    def _root(self) -> Path:
        return self.cache.root / "compiled"

    def secret(self, directory: Path) -> str:
        """A path for the runtime in ``directory``, that only this user knows and that stays until one of its files changes:
        an address that a browser remembers must never mean another file.

        Raises:
            OSError: the cache cannot be written.
        """
        stamps = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in runtime.files(directory)]
        return hmac.new(self._salt(), repr(stamps).encode(), hashlib.sha256).hexdigest()[:32]

    def _salt(self) -> bytes:
        path = self._root / "salt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.cache.scratch() as scratch:
                fresh = scratch / "salt"
                fresh.touch(mode=0o600)
                fresh.write_bytes(secrets.token_bytes(32))
                with contextlib.suppress(FileExistsError):
                    os.link(fresh, path)  # fails where another process was first, unlike a rename
        return path.read_bytes()

    def seed(self, fingerprint: str) -> Path | None:
        """What to put into the profile of a browser before it starts, or None."""
        kept = list(self._kept(fingerprint))
        if not kept:
            return None
        _, path = max(kept)
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def size(self, fingerprint: str) -> int:
        """Bytes that a browser would start with; 0: nothing is kept for it yet."""
        _, path = max(self._kept(fingerprint), default=(0, None))
        with contextlib.suppress(OSError):
            return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path is not None else 0
        return 0

    def keep(self, fingerprint: str, profile: Path) -> None:
        """Copies what a running browser, that started without a seed, has compiled. For a thread.

        A copy that fails is given up (a full disk, a file that went meanwhile): the next browser compiles for itself.
        Chromium checks sums of what it reads, so a file that was copied half is no harm either.
        """
        default = profile / "Default"
        with contextlib.suppress(OSError, ValueError, BrowserPoolError):
            # one file for each state of the code that was written, and the last ones are the largest
            size = max(p.stat().st_size for p in (default / CODE).iterdir() if p.is_file())
            known = max((size for size, _ in self._kept(fingerprint)), default=0)
            if size < LEAST_BYTES or size <= known:
                return
            with self.cache.scratch() as scratch:
                fresh = scratch / "profile"
                for part in KEPT:
                    shutil.copytree(default / part, fresh / part)
                target = self._root / fingerprint / str(size)
                target.parent.mkdir(parents=True, exist_ok=True)
                fresh.rename(target)
            self._prune(fingerprint, size)

    def _kept(self, fingerprint: str) -> Iterator[tuple[int, Path]]:
        with contextlib.suppress(OSError):
            for path in (self._root / fingerprint).iterdir():
                if path.name.isdecimal():
                    yield int(path.name), path

    def _prune(self, fingerprint: str, best: int) -> None:
        now = time.time()
        for path in self._root.glob("*/*"):
            unused = now - path.stat().st_mtime
            smaller = path.parent.name == fingerprint and path.name.isdecimal() and int(path.name) < best
            replaced = smaller and unused > IN_USE_SECONDS
            if replaced or unused > KEEP_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def name_of(fingerprint: str, bundle: str) -> str:
    """What compiled code of that browser and that bundle of onnxruntime-web is kept as: each has a WebAssembly of its own."""
    return fingerprint if bundle == "all" else f"{fingerprint}-{bundle}"


def opened(settings: Settings, directory: Path) -> tuple[CodeCache | None, str]:
    """The code cache and the runtime's path on the node's server.

    None, and a path of this run only, where it is switched off or the cache directory cannot be written.
    """
    if settings.code_cache:
        kept = CodeCache(pins.default_cache())
        with contextlib.suppress(OSError, BrowserPoolError):
            return kept, kept.secret(directory)
    return None, secrets.token_urlsafe(24)


def wrapper(folder: Path) -> Path | None:
    """The script that Playwright starts in place of a Chromium, or None: it compiles for itself there."""
    return script(folder, "chromium", WRAPPER)
