"""The chart library of the HTML report: D3 and Observable Plot from npm, pinned, put into the page with their licences.

Why these: SVG that takes its colours from the page's style sheet (light and dark), marks with labels and links for
keyboard and screen reader, half a megabyte together, ISC licence, and years of stable interfaces behind them.
"""

from __future__ import annotations

import os
import tarfile
from functools import partial
from pathlib import Path

from pytest_browserpool.artefacts import archive, pins
from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.artefacts.pins import Pin

D3 = Pin(
    name="d3",
    version="7.9.0",
    sha256="7e36605710a2ba54846797c8c6d888911341b215ae53257dc32a49a0b824355e",
    sha512="7b5538ea354ffb0ec8badf09b7cae2d58b0f3af169838ea4f8af13a426f43fec"
    "e30a48e43e757b5b37c3273307cb52e703ec23e692d3d708cef74d602d778484",
)
PLOT = Pin(
    name="@observablehq/plot",
    version="0.6.17",
    sha256="4dcc9f7afd10caee8b2283c0075a5765610cfbbf6d7d93cdb153b3b5d3501afc",
    sha512="fea6973ffee67383144b4b3870f3c50120d18edb16a7ce7f4db7ec722a83814d"
    "47c188b16d26dbcad36e2270fc01c4d80b7c5ac400a0557d3a6a075f432f56fa",
)
"""It asks for d3 ^7.9.0."""

SCRIPTS = {D3: "d3.min.js", PLOT: "plot.umd.min.js"}
"""The one file of each that is used, in the order in which a page needs them."""

LICENSE = "LICENSE"


def held(cache: Cache | None = None) -> bool:
    """Whether both are here and whole; never fetches."""
    return all(pins.held(pin, cache) is not None for pin in SCRIPTS)


def fetch(cache: Cache | None = None) -> None:
    """Bring both here where they are not.

    Raises:
        SourceError: npm is missing or the registry cannot be reached. HashMismatch: not the pinned package.
    """
    for pin, script in SCRIPTS.items():
        pins.unpacked(cache or pins.default_cache(), pin, partial(_unpack, script))


def source(cache: Cache | None = None) -> str | None:
    """Both scripts with their licences as comments; None where they are not here."""
    parts = []
    for pin, script in SCRIPTS.items():
        directory = pins.held(pin, cache)
        if directory is None:
            return None
        licence = (directory / LICENSE).read_text(encoding="utf-8").strip()
        text = (directory / script).read_text(encoding="utf-8").strip()
        parts.append(f"/* {pin.name} {pin.version}\n{licence}\n*/\n{text}\n")
    return "".join(parts)


def _unpack(script: str, tarball: Path, into: Path) -> None:
    with tarfile.open(tarball) as tar:
        archive.unpack(tar, into, {f"dist/{script}", LICENSE}.__contains__)
    os.replace(into / "dist" / script, into / script)
    (into / "dist").rmdir()
