"""The one cache directory: models by content hash, unpacked packages, locks; made to be shared."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_browserpool.errors import BrowserPoolError, DeadlineExceeded, HashMismatch, SourceError

ENVIRONMENT_VARIABLE = "BROWSERPOOL_CACHE"
MAX_BYTES = 8 << 30
"""Largest download, and largest file of a package: larger than any model that a browser can hold, small enough to save a
disk."""
CHUNK = 1 << 20
"""Bytes per read: large enough that the loop costs nothing, small enough for memory."""
LOCK_TIMEOUT = 900.0
"""Seconds to wait for another process that fetches the same: longer than any fetch's own deadline (600 s)."""
STALE_AFTER = 86400.0
"""Seconds after which a temporary file counts as left over by a killed process: no fetch takes a day."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_root() -> Path:
    """``$BROWSERPOOL_CACHE``, else the platform's user cache (``~/.cache/browserpool``). Not created here."""
    override = os.environ.get(ENVIRONMENT_VARIABLE)
    if override:
        return Path(override).expanduser().absolute()
    return _platforms(os.environ.get("HOME"), os.environ.get("XDG_CACHE_HOME"))


@functools.lru_cache(maxsize=1)
def _platforms(home: str | None, cache: str | None) -> Path:
    """Asked for with each model; the arguments are what it may depend on while a process lives."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("browserpool"))


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_of(path: Path) -> tuple[int, int, int, int]:
    """What tells that a file is still the same: inode, bytes, and times (ns) of its content and of its inode. Copying tools
    set the former back to what it was at the source; nobody can set the latter.

    Raises:
        OSError: it cannot be looked at.
    """
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class Stored:
    """A file in the cache: ``models/<sha256>``, its size in bytes."""

    sha256: str
    path: Path
    size: int


_sound: dict[Path, tuple[tuple[int, ...], Stored]] = {}
"""Files that this process has found sound, with their ``state_of`` then."""


@dataclass(frozen=True)
class Cache:
    """A cache under ``root``. Creating the object touches nothing.

    Layout: ``models/<sha256>``, ``meta/`` (sizes), ``sources/`` (which source gave which hash), ``graphs/``
    (external data of a model),
    ``packages/`` (archives of models), ``unpacked/`` (runtime and browser), ``compiled/`` (browsers' code), ``locks/``,
    ``tmp/``.
    """

    root: Path

    # -- locks and temporary files ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, name: str, *, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
        """Hold the lock of ``name`` against other processes and threads.

        Raises:
            DeadlineExceeded: another process held it for ``timeout`` seconds.
            SourceError: the cache directory cannot be written.
        """
        import filelock

        path = self._directory("locks") / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock"
        held = filelock.FileLock(path, timeout=timeout)
        try:
            held.acquire()
        except filelock.Timeout:
            raise DeadlineExceeded(
                f"another process has been fetching {name!r} for {timeout:g} s",
                where=str(path),
                remedy="end that process; the lock is freed with it",
            ) from None
        except OSError as error:
            raise self._unusable(error) from error
        try:
            yield
        finally:
            held.release()

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary directory on the cache's own file system, so that a rename out of it is atomic."""
        parent = self._directory("tmp")
        self._sweep(parent)
        try:
            path = Path(tempfile.mkdtemp(dir=parent))
        except OSError as error:
            raise self._unusable(error) from error
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def writable(self) -> bool:
        """Whether something can be put into it."""
        try:
            with self.scratch():
                return True
        except (OSError, BrowserPoolError):
            return False

    def _sweep(self, parent: Path) -> None:
        oldest = time.time() - STALE_AFTER
        for path in parent.iterdir():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    shutil.rmtree(path, ignore_errors=True)

    def _directory(self, name: str) -> Path:
        path = self.root / name
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        return path

    def _unusable(self, error: OSError) -> SourceError:
        return SourceError(
            f"the cache directory cannot be used: {error.strerror or error}",
            where=str(self.root),
            remedy=f"free space or permissions there, or name another directory in {ENVIRONMENT_VARIABLE}",
        )

    # -- models ----------------------------------------------------------------------------------------------

    def add(
        self,
        chunks: Iterable[bytes],
        *,
        expected: str | None = None,
        where: str = "",
        check: Callable[[str, Path], None] | None = None,
    ) -> Stored:
        """Store what ``chunks`` gives as ``models/<sha256>``: written aside, synced, then renamed.

        Args:
            check: gets the SHA-256 and the file before it is in its place; where it raises, nothing is kept.

        Raises:
            HashMismatch: ``expected`` is another hash; nothing is kept.
            SourceError: the cache directory cannot be written.
        """
        digest, size = hashlib.sha256(), 0
        with self.scratch() as scratch:
            try:
                with (scratch / "content").open("wb") as file:
                    for chunk in chunks:
                        digest.update(chunk)
                        size += len(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                sha256 = digest.hexdigest()
                if expected is not None and sha256 != expected:
                    raise mismatch(sha256, expected, where)
                if check is not None:
                    check(sha256, scratch / "content")
                path = self._directory("models") / sha256
                os.replace(scratch / "content", path)
                _sync_directory(path.parent)
            except OSError as error:
                raise self._unusable(error) from error
        self.write_json("meta", sha256, {"size": size})
        return Stored(sha256, path, size)

    def model(self, sha256: str) -> Stored | None:
        """The stored file if it is there and sound: checked by size, in full where its size is unknown."""
        if not _SHA256.fullmatch(sha256):
            return None
        path = self.root / "models" / sha256
        try:
            stamp = state_of(path)
        except OSError:
            return None
        size = stamp[1]
        if (seen := _sound.get(path)) is not None and seen[0] == stamp:
            return seen[1]
        known = self.read_json("meta", sha256).get("size")
        if not isinstance(known, int) and sha256_of(path) == sha256:
            self.write_json("meta", sha256, {"size": size})
            known = size
        if size != known:
            return None
        _sound[path] = (stamp, Stored(sha256, path, size))
        return _sound[path][1]

    def models(self) -> frozenset[str]:
        """Hashes of the models here."""
        try:
            return frozenset(p.name for p in (self.root / "models").iterdir() if _SHA256.fullmatch(p.name))
        except OSError:
            return frozenset()

    def verify(self) -> tuple[str, ...]:
        """Hash every model again; returns the hashes whose files are damaged. Removes nothing."""
        return tuple(h for h in sorted(self.models()) if sha256_of(self.root / "models" / h) != h)

    def drop_damaged(self) -> tuple[str, ...]:
        """Remove the models whose content is no longer their name's; returns their hashes."""
        damaged = self.verify()
        for sha256 in damaged:
            (self.root / "models" / sha256).unlink(missing_ok=True)
        return damaged

    def size(self) -> int:
        """Bytes that the cache takes."""
        total = 0
        for directory, _, files in os.walk(self.root):
            for name in files:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(directory, name)).st_size
        return total

    # -- small JSON records ----------------------------------------------------------------------------------

    def read_json(self, kind: str, name: str) -> dict[str, Any]:
        """The record, or an empty one where it is missing or damaged: records can always be made again."""
        try:
            value = json.loads((self.root / kind / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def write_json(self, kind: str, name: str, value: dict[str, Any]) -> None:
        """Replace the record in one step. In a cache that cannot be written nothing is kept, which ``doctor`` says: all that
        was ever fetched into it can be used still, and what the record says is found out again."""
        with contextlib.suppress(OSError, SourceError):
            write_atomically(
                self._directory(kind) / f"{name}.json", json.dumps(value, sort_keys=True).encode()
            )


def mismatch(actual: str, expected: str, where: str) -> HashMismatch:
    """The error for bytes that are not the pinned ones."""
    return HashMismatch(
        f"sha256 is {actual}, pinned is {expected}",
        where=where or None,
        remedy="the file at its source has changed or was damaged on the way; "
        "if the change is wanted, replace the pinned hash",
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside ``path``, sync, rename: a reader sees the old or the new content, never a part.

    Raises:
        OSError: as the file system says.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it 0600, which a shared checkout cannot read
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
