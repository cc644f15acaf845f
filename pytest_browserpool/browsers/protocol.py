"""The wire format between node and page: one binary WebSocket message carries one command or reply with its tensors.

Layout, little-endian: ``u32`` length of the header, the header (UTF-8 JSON), zero padding to a multiple of 8, then the
tensors' bytes, each padded to a multiple of 8, so that the page can lay typed arrays over the message without a copy.
The header's ``tensors`` is a list of ``[name, type, dims, offset, nbytes]`` with ``offset`` counted from the end of the
padded header; strings travel in the header (``strings``), because typed arrays have none.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_browserpool.errors import InputError

Array = NDArray[Any]

DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name)
    for name in (
        "float32",
        "float64",
        "float16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    )
}
"""onnxruntime-web's tensor types and the numpy types that carry them; ``string`` is object or str arrays."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_MESSAGE = 1 << 31
"""Bytes: ArrayBuffers end at 2 GiB in Firefox and Chromium's sockets; a model's weights do not go this way."""


def type_name(array: Array) -> str:
    """The onnxruntime-web type of ``array``.

    Raises:
        InputError: a dtype that onnxruntime-web has no tensor type for.
    """
    if array.dtype.kind in "OUT":
        return "string"
    name = _NAMES.get(array.dtype.newbyteorder("="))
    if name is None:
        raise InputError(
            f"dtype {array.dtype} is none that onnxruntime-web has",
            remedy=f"convert it to one of {', '.join(DTYPES)} or an array of str",
        )
    return name


def encode(header: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """One message: ``header`` (JSON-able) with ``tensors`` by name."""
    table: list[list[Any]] = []
    strings: dict[str, list[str]] = {}
    parts: list[Any] = []
    offset = 0
    for name, array in tensors.items():
        kind = type_name(array)
        if kind == "string":
            strings[name] = [str(s) for s in array.ravel().tolist()]
            table.append([name, kind, list(array.shape), 0, 0])
            continue
        data = np.ascontiguousarray(
            array, dtype=DTYPES[kind]
        )  # also to the machine's byte order, which browsers share
        table.append([name, kind, list(array.shape), offset, data.nbytes])
        if data.nbytes:
            parts.append(data.reshape(-1).view(np.uint8).data)
        padding = -data.nbytes % 8
        if padding:
            parts.append(bytes(padding))
        offset += data.nbytes + padding
    if offset > MAX_MESSAGE:
        raise InputError(
            f"the tensors of one message have {offset} bytes",
            remedy=f"stay under {MAX_MESSAGE} bytes, split the batch",
        )
    text = json.dumps({**header, "tensors": table, "strings": strings}, separators=(",", ":")).encode()
    head = struct.pack("<I", len(text)) + text
    return b"".join([head, bytes(-len(head) % 8), *parts])


def decode(message: bytes | bytearray | memoryview) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and tensors of one message. The arrays own their memory and are writable.

    Raises:
        ValueError: not a message of this format.
    """
    view = memoryview(message)
    if len(view) < 4:
        raise ValueError(f"a message of {len(view)} bytes has no header")
    (length,) = struct.unpack_from("<I", view)
    if 4 + length > len(view):
        raise ValueError(f"a header of {length} bytes in a message of {len(view)}")
    header = json.loads(bytes(view[4 : 4 + length]))
    start = 4 + length + (-(4 + length) % 8)
    strings = header.get("strings") or {}
    tensors: dict[str, Array] = {}
    for name, kind, dims, offset, nbytes in header.get("tensors", ()):
        if kind == "string":
            tensors[name] = np.array(strings.get(name, []), dtype=object).reshape(dims)
            continue
        begin = start + offset
        if begin + nbytes > len(view):
            raise ValueError(f"tensor {name!r} ends at {begin + nbytes} of {len(view)} bytes")
        flat = np.frombuffer(view[begin : begin + nbytes], dtype=DTYPES[kind])
        tensors[name] = flat.reshape(dims).copy()  # one copy: the caller may write, and the message can go
    return header, tensors


def element_count(dims: Sequence[int]) -> int:
    """Elements of a tensor of these dims; 1 for a scalar."""
    count = 1
    for d in dims:
        count *= d
    return count
