"""The wire format between node and page: one binary WebSocket message carries one command or reply with its tensors.

Layout, little-endian: ``u32`` length of the header, the header (UTF-8 JSON), zero padding to a multiple of 8, then the
tensors' bytes, each padded to a multiple of 8, so that the page can lay typed arrays over the message without a copy.
The header's ``tensors`` is a list of ``[name, type, dims, offset, nbytes]`` with ``offset`` counted from the end of the
padded header; strings travel in the header (``strings``), because typed arrays have none.

A message of more than ``pieces.PIECE`` bytes goes as several WebSocket messages; see there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
_LENGTH = struct.Struct("<I")
_JSON = json.JSONEncoder(separators=(",", ":")).encode
"""Made once: ``json.dumps`` makes an encoder for each call that has separators of its own."""

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


class Packed(NamedTuple):
    """A tensor as it lies in a message: its bytes are not touched, so it goes from page to page without a copy here.

    ``data`` is a view of the message that brought it, which lives as long as the view.
    """

    kind: str
    dims: tuple[int, ...]
    data: memoryview
    strings: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def array(self) -> Array:
        """An array that owns its memory and is writable."""
        if self.kind == "string":
            return np.array(self.strings, dtype=object).reshape(self.dims)
        return np.frombuffer(self.data, dtype=DTYPES[self.kind]).reshape(self.dims).copy()


@dataclass(frozen=True, slots=True)
class StateUse:
    """Which of a run's tensors do not travel: they come from a state that the page keeps, and stay in it.

    A state is a set of named slots at one step, made by ``state_set``, read whole by ``state_get`` and freed by
    ``state_drop``. It belongs to a page, not to one of its sessions, so that several sessions may share it. A run is
    refused where the state stands at another step than ``step``; a run that fails leaves it as it was.
    """

    name: str
    step: int
    """Where the state must stand before the run."""
    feed: Mapping[str, str]
    """Input → slot."""
    keep: Mapping[str, str]
    """Output → slot."""
    next: int | None = None
    """Where it stands after the run: one on if not given. The same step where further runs belong to it."""

    def to_plain(self) -> dict[str, Any]:
        """As the command carries it."""
        after = self.step + 1 if self.next is None else self.next
        return {
            "name": self.name,
            "step": self.step,
            "next": after,
            "feed": dict(self.feed),
            "keep": dict(self.keep),
        }


def pack(array: Array) -> Packed:
    """``array`` as a message carries it; shares its memory where that is contiguous and of this machine's byte order.

    Raises:
        InputError: a dtype that onnxruntime-web has no tensor type for.
    """
    kind = type_name(array)
    if kind == "string":
        return Packed(kind, array.shape, memoryview(b""), tuple(str(s) for s in array.ravel().tolist()))
    data = np.ascontiguousarray(array, dtype=DTYPES[kind])  # also to the byte order that browsers share
    return Packed(kind, array.shape, data.reshape(-1).view(np.uint8).data if data.nbytes else memoryview(b""))


def encode(header: Mapping[str, Any], tensors: Mapping[str, Array | Packed]) -> bytes:
    """One message: ``header`` (JSON-able) with ``tensors`` by name."""
    return b"".join(encode_parts(header, tensors))


def encode_parts(
    header: Mapping[str, Any], tensors: Mapping[str, Array | Packed]
) -> list[bytes | memoryview]:
    """``encode``'s message in parts that follow each other: the tensors' bytes are not copied."""
    table: list[list[Any]] = []
    strings: dict[str, list[str]] = {}
    parts: list[bytes | memoryview] = []
    offset = 0
    for name, value in tensors.items():
        data = value if isinstance(value, Packed) else pack(value)
        if data.kind == "string":
            strings[name] = list(data.strings)
            table.append([name, data.kind, list(data.dims), 0, 0])
            continue
        table.append([name, data.kind, list(data.dims), offset, data.nbytes])
        if data.nbytes:
            parts.append(data.data)
        padding = -data.nbytes % 8
        if padding:
            parts.append(bytes(padding))
        offset += data.nbytes + padding
    if offset > MAX_MESSAGE:
        raise InputError(
            f"the tensors of one message have {offset} bytes",
            remedy=f"stay under {MAX_MESSAGE} bytes, split the batch",
        )
    text = _JSON({**header, "tensors": table, "strings": strings}).encode()
    head = _LENGTH.pack(len(text)) + text
    return [head + bytes(-len(head) % 8), *parts]


def decode(message: bytes | bytearray | memoryview) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and tensors of one message. The arrays own their memory and are writable.

    Raises:
        ValueError: not a message of this format.
    """
    header, tensors = decode_packed(message)
    return header, {name: tensor.array() for name, tensor in tensors.items()}


def decode_packed(message: bytes | bytearray | memoryview) -> tuple[dict[str, Any], dict[str, Packed]]:
    """Header and tensors of one message, the tensors as views of it.

    Raises:
        ValueError: not a message of this format.
    """
    view = memoryview(message)
    header, start = header_of(view)
    return header, tensors_of(header, view, start)


def header_of(message: bytes | bytearray | memoryview) -> tuple[dict[str, Any], int]:
    """Header of one message, and where its tensors' bytes begin.

    Raises:
        ValueError: not a message of this format.
    """
    if len(message) < 4:
        raise ValueError(f"a message of {len(message)} bytes has no header")
    (length,) = _LENGTH.unpack_from(message)
    if 4 + length > len(message):
        raise ValueError(f"a header of {length} bytes in a message of {len(message)}")
    return json.loads(bytes(message[4 : 4 + length])), 4 + length + (-(4 + length) % 8)


def tensors_of(header: Mapping[str, Any], view: memoryview, start: int) -> dict[str, Packed]:
    """The tensors of a message whose header that is, as views of it; their bytes begin at ``start``.

    Raises:
        ValueError: a tensor that does not have the bytes of its type and dims, or ends behind the message.
    """
    strings = header.get("strings") or {}
    tensors: dict[str, Packed] = {}
    for name, kind, dims, offset, nbytes in header.get("tensors", ()):
        if kind == "string":
            tensors[name] = Packed(kind, tuple(dims), memoryview(b""), tuple(strings.get(name, ())))
            continue
        begin = start + offset
        if begin + nbytes > len(view):
            raise ValueError(f"tensor {name!r} ends at {begin + nbytes} of {len(view)} bytes")
        if element_count(dims) * DTYPES[kind].itemsize != nbytes:
            raise ValueError(f"tensor {name!r} of {kind} {dims} does not have {nbytes} bytes")
        tensors[name] = Packed(kind, tuple(dims), view[begin : begin + nbytes])
    return tensors


def element_count(dims: Sequence[int]) -> int:
    """Elements of a tensor of these dims; 1 for a scalar."""
    count = 1
    for d in dims:
        count *= d
    return count
