"""What comes over the wire is what was sent, and nothing that could do anything."""

from __future__ import annotations

import enum
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.link import SEVERAL, TOLD, packed, parts_of
from pytest_browserpool.wire import NotPlainError, pack, unpack

hashable = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)
plain = st.recursive(
    hashable,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.frozensets(hashable), st.dictionaries(hashable, inner)
    ),
)


def like(value: Any) -> Any:
    """With types: a list is no tuple, and 1 is not True."""
    if isinstance(value, dict):
        return [(like(key), like(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [like(item) for item in value]
    return type(value), value


@given(plain)
def test_builtins_arrive_as_they_were(value: Any) -> None:
    assert like(unpack(pack(value))) == like(value)


class Colour(enum.StrEnum):
    RED = "red"


def test_what_is_a_builtin_at_heart_arrives_as_one() -> None:
    assert like(unpack(pack([np.float64(0.1), Colour.RED, Colour.RED]))) == like([0.1, "red", "red"])


@pytest.mark.parametrize("value", [np.int64(1), np.bool_(True), np.ones(2), object(), len, pickle, 1j])
def test_what_is_none_is_refused_where_it_is_sent(value: Any) -> None:
    with pytest.raises(NotPlainError, match=type(value).__name__):
        pack({"a": [value]})


@pytest.mark.parametrize("value", [len, np.ones(2), np.float32(1), pickle.UnpicklingError("x")])
def test_what_a_stranger_pickled_is_refused_where_it_arrives(value: Any) -> None:
    with pytest.raises(NotPlainError, match="does not come over this wire"):
        unpack(pickle.dumps(value))


def test_nothing_is_called_that_a_message_names() -> None:
    with pytest.raises(NotPlainError, match="system does not come"):
        unpack(b"cposix\nsystem\n(S'true'\ntR.")


@pytest.mark.parametrize("kind", [SEVERAL, TOLD])
def test_what_the_wire_refuses_is_left_to_execnet(kind: str) -> None:
    message = {"kind": kind, "parts": [("testreport", {"data": np.int64(1)})]}
    assert packed(message) is message
    assert parts_of(message) == message["parts"]
