"""What onnxruntime-web's error texts mean. Pure: text in, error out.

The texts are those of onnxruntime-web 1.30 in Chromium and Firefox; each pattern was seen or is in its sources. Faults
come first: a lost device can make any later message.
"""

from __future__ import annotations

import re

from pytest_browserpool import errors
from pytest_browserpool.errors import BrowserPoolError

_PATTERNS: tuple[tuple[str, type[BrowserPoolError], str | None], ...] = (
    # one failed create blocks all later ones in the page
    (r"another WebGPU EP inference session is being created", errors.SessionRefused, None),
    (r"multiple calls to 'initWasm\(\)'|previous call to 'initWasm\(\)' failed", errors.SessionRefused, None),
    (r"device (was )?(is )?lost|DeviceLost|lost device|GPUDevice.*(lost|destroyed)|external Instance reference", errors.DeviceLost, None),
    (r"mapAsync.*(abort|unmapped)|Buffer.*destroyed", errors.DeviceLost, None),
    (r"requestAdapter|Failed to get GPU adapter|no available adapters", errors.DeviceLost, None),
    (
        r"bad_alloc|out of memory|OutOfMemory|Array buffer allocation failed|Invalid (array buffer|array|typed array) length|out-of-range index|WebAssembly\.Memory.*grow"
        r"|failed to allocate|allocation (size )?overflow|Failed to allocate memory",
        errors.OutOfMemory,
        "a smaller model or batch, fewer models per browser, or min_memory= in the marker",
    ),
    # a trapped wasm instance is unusable for good
    (r"memory access out of bounds|RuntimeError: (unreachable|Aborted|index out of bounds|table index)", errors.PageCrashed, None),
    (
        r"protobuf parsing failed|Protobuf parsing failed|ModelProto does not have|INVALID_PROTOBUF|INVALID_GRAPH"
        r"|Load model.*failed|ERROR_CODE: (7|10)\b|Failed to load model",
        errors.InvalidModel,
        "check the file with onnx.checker.check_model",
    ),
    (
        r"Could not find an implementation|NOT_IMPLEMENTED|ERROR_CODE: 9\b|No Op registered|is not a registered function"
        r"|kernel .*not (found|supported)|unsupported (data type|operator|op)|not support(ed)? .* data ?type|binary op",
        errors.UnsupportedOperator,
        "another backend, or session_options={'bundle': 'native'} for onnxruntime's other WebGPU implementation",
    ),
    (
        r"invalid dimensions|Invalid (rank|input name|feed)|Unexpected input data type|INVALID_ARGUMENT|ERROR_CODE: 2\b"
        r"|input '.*' is missing in 'feeds'|Required inputs .* are missing",
        errors.InputError,
        "compare the call with model.inputs",
    ),
)
_TABLE = tuple((re.compile(pattern, re.IGNORECASE), kind, remedy) for pattern, kind, remedy in _PATTERNS)


def interpret(text: str, *, where: str) -> BrowserPoolError:
    """The error that a page's error text stands for; ``RunFailed`` where nothing is known about it."""
    for pattern, kind, remedy in _TABLE:
        if pattern.search(text):
            return kind(f"onnxruntime-web: {text.strip()[:1500]}", where=where, remedy=remedy)
    return errors.RunFailed(f"onnxruntime-web: {text.strip()[:1500]}", where=where)
