"""Large messages in pieces: browsers take and give many WebSocket messages of a megabyte quicker than one of many.

A message of up to ``PIECE`` bytes is one WebSocket message. A larger one is announced by eight bytes, ``u32`` zero (no
header has that length) and ``u32`` its size; the binary messages that follow are its bytes until it is whole. Each end
sends the pieces of one message without others between them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

PIECE = 1 << 20
"""Bytes. 16 MiB to a page and back took Firefox 234 ms in one message, 152 in four and 93 in sixteen, since one of its
processes hands on while the other still receives; Chromium 117 – 219 and 87. Smaller pieces gained nothing more."""

SMALL = PIECE // 16
"""Bytes: tensors below this are joined into one piece with their neighbours; the copy costs less than a message."""

ANNOUNCEMENT = struct.Struct("<II")


def messages(parts: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The WebSocket messages for the message that ``parts`` make together; large parts are not copied."""
    size = sum(len(part) for part in parts)
    if size <= PIECE:
        yield b"".join(parts)
        return
    yield ANNOUNCEMENT.pack(0, size)
    small: list[bytes | memoryview] = []
    for part in filter(len, parts):  # nothing follows the last byte: an empty message would be one of its own
        if len(part) < SMALL:
            small.append(part)
            continue
        if small:
            yield b"".join(small)
            small = []
        view = memoryview(part)
        yield from (view[at : at + PIECE] for at in range(0, len(view), PIECE))
    if small:
        yield b"".join(small)


class Assembly:
    """The receiving end of one socket."""

    def __init__(self) -> None:
        self._whole: bytearray | None = None
        self._filled = 0

    def take(self, message: bytes) -> bytes | bytearray | None:
        """The whole message that this WebSocket message is or ends; None where there is more to come.

        Raises:
            ValueError: a piece goes beyond the end that was announced.
        """
        if self._whole is None:
            if len(message) != ANNOUNCEMENT.size or message[:4] != bytes(4):
                return message
            self._whole, self._filled = bytearray(ANNOUNCEMENT.unpack(message)[1]), 0
            return None
        end = self._filled + len(message)
        if end > len(self._whole):
            raise ValueError(f"a piece ends at {end} of {len(self._whole)} announced bytes")
        self._whole[self._filled : end] = message
        self._filled = end
        if end < len(self._whole):
            return None
        whole, self._whole = self._whole, None
        return whole
