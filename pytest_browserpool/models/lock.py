"""``browserpool.lock``: which bytes each remote source gave at its first use, enforced from then on."""

from __future__ import annotations

import json
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_browserpool.artefacts.cache import Cache, write_atomically
from pytest_browserpool.artefacts.pins import default_cache
from pytest_browserpool.errors import ConfigurationError, SourceError

FILE_NAME = "browserpool.lock"
VERSION = 1
"""Of the format; a newer one is refused rather than half understood."""


class LockFileWarning(UserWarning):
    """The lock file could not be written; the run goes on without the new entry."""


@dataclass(frozen=True)
class Locked:
    """What one source gave: hash and size in bytes of the file, hashes of its external data by location."""

    sha256: str
    size: int
    external: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, entry: Any) -> Locked:
        """As ``to_json`` wrote it.

        Raises:
            ValueError: it is no entry.
        """
        try:
            external = {str(name): str(sha256) for name, sha256 in entry.get("external", {}).items()}
            return cls(str(entry["sha256"]), int(entry["size"]), external)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"{entry!r:.80} is no entry ({type(error).__name__}: {error})") from error

    def to_json(self) -> dict[str, Any]:
        """As written in the file."""
        entry: dict[str, Any] = {"sha256": self.sha256, "size": self.size}
        return {**entry, "external": dict(sorted(self.external.items()))} if self.external else entry


class LockFile:
    """The lock file at ``path``; read anew on each use, because workers of one run share it."""

    def __init__(self, path: Path, *, cache: Cache | None = None) -> None:
        self.path = path
        self._cache = cache or default_cache()

    @classmethod
    def of(cls, rootdir: Path, cache: Cache | None = None) -> LockFile:
        """The lock file of the project in ``rootdir``."""
        return cls(rootdir / FILE_NAME, cache=cache)

    def entries(self) -> dict[str, Locked]:
        """Source as written → what it gave. Empty where there is no file.

        Raises:
            ConfigurationError: the file is not one of ours.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            version, models = content["version"], content["models"].items()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._unreadable(f"{type(error).__name__}: {error}") from error
        if version != VERSION:
            raise self._unreadable(f"version is {version!r}, this program knows {VERSION}")
        try:
            return {source: Locked.from_json(entry) for source, entry in models}
        except ValueError as error:
            raise self._unreadable(str(error)) from error

    def get(self, source: str) -> Locked | None:
        """What ``source`` must give, if it is locked."""
        return self.entries().get(source)

    def record(self, source: str, locked: Locked) -> None:
        """Add an entry, keeping what other processes added; warns where the file, or the cache, cannot be written."""
        try:
            # writers hold it for milliseconds
            with self._cache.lock(f"lock file {self.path.absolute()}", timeout=30.0):
                self._add(source, locked)
        except SourceError as error:  # the cache's: its directory cannot be written
            why = f"no entry is added to {self.path} without a lock: {error.what}, {error.where}"
            self._warn(source, locked, why)

    def _add(self, source: str, locked: Locked) -> None:
        entries = self.entries()
        if entries.get(source) == locked:
            return
        entries[source] = locked
        try:
            if self.path.exists() and not self.path.stat().st_mode & stat.S_IWUSR:
                raise PermissionError(
                    "the file is read-only"
                )  # a rename over it would succeed, and root always
            write_atomically(self.path, self._text(entries).encode())
        except OSError as error:
            self._warn(source, locked, f"{self.path} cannot be written ({error.strerror or error})")

    @staticmethod
    def _warn(source: str, locked: Locked, why: str) -> None:
        # a hash in the source would pin no external data
        pin = "" if locked.external else f"add #sha256={locked.sha256} to it, or "
        what = f"{source!r} stays unpinned" if pin else f"external data of {source!r} stay unpinned"
        warnings.warn(f"{why}: {what}; {pin}make that place writable once", LockFileWarning, stacklevel=2)

    @staticmethod
    def _text(entries: Mapping[str, Locked]) -> str:
        models = {source: entries[source].to_json() for source in sorted(entries)}
        return json.dumps({"version": VERSION, "models": models}, indent=2, ensure_ascii=False) + "\n"

    def _unreadable(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"the lock file cannot be used: {reason}",
            where=str(self.path),
            remedy="restore it from version control, or delete it to pin every source anew",
        )
