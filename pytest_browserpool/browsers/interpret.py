"""From an error text of the page to the error that is raised: the meaning is looked up in ``failures``."""

from __future__ import annotations

from pytest_browserpool import errors
from pytest_browserpool.browsers.failures import diagnose
from pytest_browserpool.browsers.symptoms import Observation, Origin
from pytest_browserpool.errors import BrowserPoolError

LONGEST = 1500
"""Characters of the page's text that go into a message: onnxruntime quotes whole graphs."""

REMEDIES: dict[type[BrowserPoolError], str] = {
    errors.InvalidModel: "check the file with onnx.checker.check_model",
    errors.UnsupportedOperator: "another backend, or session_options={'bundle': 'native'} for onnxruntime's other "
    "WebGPU implementation",
    errors.InputError: "compare the call with model.inputs",
}

NOTHING_COMPUTED = "uncaptured GPU"
"""How the page tells of what the GPU refused behind onnxruntime's back (``Models.computed`` in models.js)."""

OTHER_BACKEND = (
    "the GPU did not compute this: another backend, or a float32 model where the adapter lacks shader-f16"
)


def interpret(text: str, *, where: str) -> BrowserPoolError:
    """The error that onnxruntime-web's ``text`` stands for; ``RunFailed`` where nothing is known about it."""
    kind = diagnose(Observation(origin=Origin.RUNTIME, text=text.strip())).error or errors.RunFailed
    remedy = REMEDIES.get(kind)
    if kind is errors.RunFailed and NOTHING_COMPUTED in text:
        remedy = OTHER_BACKEND
    return kind(f"onnxruntime-web: {text.strip()[:LONGEST]}", where=where, remedy=remedy)
