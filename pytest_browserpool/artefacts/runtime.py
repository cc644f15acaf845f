"""onnxruntime-web as a run uses it: the pinned one, or a build of the user's own, examined before anything starts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_browserpool.artefacts import pins
from pytest_browserpool.artefacts.cache import sha256_of
from pytest_browserpool.config import OwnRuntime, Settings
from pytest_browserpool.errors import ConfigurationError

BUNDLES = ("ort.all.bundle.min.mjs", "ort.webgpu.bundle.min.mjs")
"""What pages import by name; which WebAssembly a bundle loads is its own affair, and other versions have other names."""
SMALL = "ort.wasm.bundle.min.mjs"
"""For pages of wasm alone, where it is there."""
SERVED = (".mjs", ".wasm")
"""What pages may be given of the directory, and so what its identity is made of."""
OLDEST = (1, 21, 0)
"""The oldest release that works in our pages, measured in headless shell 147: with 1.20.0 and 1.20.1 a session on WebNN is
never made and its page hangs, 1.19.2 asks for a WebNN that browsers no longer have, 1.18.0 has no such bundles."""
UNKNOWN = "unknown"
"""The version of a build that says none."""

_BANNER = re.compile(r"ONNX Runtime Web v(\d[\w.+-]*)")
_RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_LOADS = re.compile(r"""["'`](ort-[\w.-]+\.wasm)["'`]""")
_BANNER_BYTES = 4096
"""The banner is the first comment of a bundle."""
_REMEDY = (
    f"give the directory of the files that the npm package onnxruntime-web ({'.'.join(map(str, OLDEST))} or newer) "
    "has in dist/, or the package's own"
)


def examine(directory: Path, where: str) -> OwnRuntime:
    """The build in ``directory`` or its ``dist/``, read once (about 0.4 s of CPU for a whole package).

    Args:
        where: what named the directory, for errors.

    Raises:
        ConfigurationError: it is no directory, lacks a file that pages load, or is a release older than ``OLDEST``.
    """
    place = _place(directory, where)
    _complete(place, where)
    version = _version(place)
    numbers = _RELEASE.match(version)
    if numbers and tuple(map(int, numbers.groups())) < OLDEST:
        raise ConfigurationError(
            f"{place} is onnxruntime-web {version}, whose sessions on WebNN hang the page or are never made",
            where=where,
            remedy=_REMEDY,
        )
    return OwnRuntime(
        directory=str(place),
        version=version,
        sha256=identity((p.name, sha256_of(p)) for p in files(place)),
    )


def files(directory: Path) -> list[Path]:
    """What pages may be given of ``directory``, by name."""
    return sorted(p for p in directory.iterdir() if p.suffix in SERVED and p.is_file())


def has_small(directory: Path) -> bool:
    """Whether the build in ``directory`` has a bundle for wasm alone, with the WebAssembly that it loads."""
    return (directory / SMALL).is_file() and all((directory / n).is_file() for n in _named(directory / SMALL))


def identity(hashes: Iterable[tuple[str, str]]) -> str:
    """SHA-256, in hex, over names and hashes of a build's files."""
    lines = (f"{name} {sha256}\n" for name, sha256 in sorted(hashes))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def directory_of(settings: Settings) -> Path:
    """What this process serves to its pages; the pinned one is fetched where it is not there.

    Raises:
        SourceError, HashMismatch: as ``pins.runtime_dir``.
    """
    own = settings.own_runtime
    return Path(own.directory) if own is not None else pins.runtime_dir()


def label_of(settings: Settings) -> str:
    """What the history and reports call it."""
    own = settings.own_runtime
    return own.label if own is not None else pins.RUNTIME.version


def fingerprint_of(settings: Settings) -> str:
    """What answers of browsers depend on: a version of ours, or every byte of an own build."""
    own = settings.own_runtime
    return own.sha256 if own is not None else pins.RUNTIME.version


def pin_of(own: OwnRuntime | None) -> pins.Pin:
    """As what it is kept in a cache that another machine sent it to; there is no tarball, so no hash of one."""
    if own is None:
        return pins.RUNTIME
    return pins.Pin(name=pins.RUNTIME.name, version="own", sha256=own.sha256, sha512="")


# -- the directory -------------------------------------------------------------------------------------------


def _place(directory: Path, where: str) -> Path:
    if not directory.is_dir():
        what = "a file, not a directory" if directory.exists() else "not there"
        raise ConfigurationError(f"{directory} is {what}", where=where, remedy=_REMEDY)
    dist = directory / "dist"
    inside = any((dist / name).is_file() for name in BUNDLES) or (dist.is_dir() and not files(directory))
    return (dist if inside else directory).resolve()


def _complete(place: Path, where: str) -> None:
    lacking = [name for name in BUNDLES if not (place / name).is_file()]
    lacking += [name for name in _loaded(place) if not (place / name).is_file()]
    if not lacking and not any(place.glob("*.wasm")):
        lacking = [".wasm file"]
    if lacking:
        raise ConfigurationError(
            f"{place} has no {' and no '.join(lacking)}, which the pages load", where=where, remedy=_REMEDY
        )


def _loaded(place: Path) -> Iterator[str]:
    """WebAssembly files that the bundles name."""
    yield from sorted({name for bundle in BUNDLES for name in _named(place / bundle)})


def _named(bundle: Path) -> list[str]:
    """WebAssembly files that this bundle names."""
    return _LOADS.findall(bundle.read_text(encoding="utf-8", errors="replace")) if bundle.is_file() else []


def _version(place: Path) -> str:
    """As the bundle itself says; else its package; a build without its first comment may have neither."""
    with (place / BUNDLES[0]).open("rb") as file:
        said = _BANNER.search(file.read(_BANNER_BYTES).decode("utf-8", errors="replace"))
    if said:
        return said[1]
    try:
        package = json.loads((place.parent / "package.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return UNKNOWN
    ours = isinstance(package, dict) and package.get("name") == pins.RUNTIME.name
    return str(package.get("version") or UNKNOWN) if ours else UNKNOWN
