"""Bytes: what kind of file are they?"""

from __future__ import annotations

import io
import json
import sqlite3
import wave
import zipfile

import numpy as np
import pytest
from PIL import Image

from example_suite.sounds import SPEECH_RATE, tone

MAGIKA = "pypi:magika==1.0.3/magika/models/standard_v3_3/model.onnx"
CONFIG = "pypi:magika==1.0.3/magika/models/standard_v3_3/config.min.json"

BLOCK, PART, NOTHING = 4096, 1024, 256
"""Bytes looked at from each end, bytes of them given to the model, and the number that stands for no byte."""


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("greeting.txt", "hello " * 40)
    return file.getvalue()


def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(SPEECH_RATE)
        made.writeframes((tone(0.5, 440) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE people (name TEXT, age INTEGER)")
        return connection.serialize()


SCRIPT = b"""'use strict';
const canvas = document.querySelector('canvas');
function draw(time) {
  const context = canvas.getContext('2d');
  context.clearRect(0, 0, canvas.width, canvas.height);
  requestAnimationFrame(draw);
}
requestAnimationFrame(draw);
"""

FILES = {
    "python": lambda: open(json.__file__, "rb").read(),  # noqa: SIM115 - closed by the interpreter at once
    "javascript": lambda: SCRIPT,
    "html": lambda: (
        b"<!doctype html><html><head><title>A page</title></head><body><p>Hello</p></body></html>"
    ),
    "json": lambda: json.dumps(
        {"name": "x", "list": [1, 2], "nested": {"a": None, "b": True}}, indent=2
    ).encode(),
    "png": png,
    "zip": archive,
    "wav": sound,
    "sqlite": database,
}


def features(content: bytes) -> list[int]:
    """What Magika looks at: the first and the last bytes, white space at the ends left out."""
    first, last = list(content[:BLOCK].lstrip()[:PART]), list(content[-BLOCK:].rstrip()[-PART:])
    return first + [NOTHING] * (2 * PART - len(first) - len(last)) + last


@pytest.fixture(scope="session")
def kinds(asset) -> list[str]:
    """Names of the model's classes."""
    return json.loads(asset(CONFIG).read_text())["target_labels_space"]


@pytest.mark.model(MAGIKA, backends=["wasm"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_recognised_by_its_bytes(model, agree, kinds, kind):
    inputs = {"bytes": np.array([features(FILES[kind]())], np.int32)}
    outputs = model(inputs)
    assert kinds[outputs["target_label"].argmax()] == kind
    agree(model, inputs, outputs)


@pytest.mark.model(MAGIKA, backends=["wasm"], browsers=["firefox"])
def test_a_batch_of_files_is_recognised_in_firefox(model, agree, kinds):
    inputs = {"bytes": np.array([features(make()) for make in FILES.values()], np.int32)}
    outputs = model(inputs)
    assert [kinds[i] for i in outputs["target_label"].argmax(axis=1)] == list(FILES)
    assert model.browser.name == "firefox"
    agree(model, inputs, outputs)
