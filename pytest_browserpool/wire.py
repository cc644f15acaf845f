"""Builtins as one piece of bytes for a channel, as pickle writes them: in C, both ways, and each value keeps its type.

execnet writes and reads each value of a dict in Python, which for what one short test has to tell takes either end a third of
a millisecond. Neither end can make the other import or call anything: what would need that is neither written nor read.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

PROTOCOL = 5
"""What Python 3.8 and later read."""

PLAIN_SUBCLASSES = (str, int, float)
"""A value whose class is derived from one of these (``numpy.float64``, an ``IntEnum``) arrives as a value of its base."""


class NotPlainError(TypeError):
    """The value is not made of builtins alone."""


class _Writer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Called for whatever is no builtin (for classes and functions too)."""
        if isinstance(value, type) and value in PLAIN_SUBCLASSES:
            return NotImplemented  # as below; pickle knows what to do with it
        for base in PLAIN_SUBCLASSES:
            if isinstance(value, base):
                return base, (base(value),)
        raise NotPlainError(
            f"{type(value).__module__}.{type(value).__qualname__} cannot be sent: {value!r:.200}"
        )


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        for base in PLAIN_SUBCLASSES:
            if (module, name) == ("builtins", base.__name__):
                return base
        raise NotPlainError(f"{module}.{name} does not come over this wire")


def pack(value: Any) -> bytes:
    """``value`` as bytes.

    Raises:
        NotPlainError: it has something in it that is no builtin.
    """
    out = io.BytesIO()
    _Writer(out, PROTOCOL).dump(value)
    return out.getvalue()


def unpack(data: bytes) -> Any:
    """What ``pack`` made ``data`` from.

    Raises:
        NotPlainError: the other end wants more than builtins.
        pickle.UnpicklingError: it was not made by ``pack``.
    """
    return _Reader(io.BytesIO(data)).load()
