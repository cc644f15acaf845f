"""Large messages in pieces: what is sent comes out whole and once, however it was cut; more than announced is refused."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_browserpool.browsers.pieces import ANNOUNCEMENT, PIECE, SMALL, Assembly, messages
from pytest_browserpool.browsers.protocol import decode, encode_parts

sizes = st.lists(st.sampled_from([0, 1, 8, SMALL - 1, SMALL, PIECE - 1, PIECE, 2 * PIECE + 3]), max_size=5)


@example([PIECE, 0], Random(0))
@given(sizes, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_what_is_sent_comes_out_whole(parts, random):
    given_parts = [random.randbytes(min(n, 64)) * (n // 64) + random.randbytes(n % 64) for n in parts]
    head = b"\x04\0\0\0null"  # as every message begins: a header that has a length
    assembly = Assembly()
    sent = [bytes(message) for message in messages([head, *given_parts])]
    got = [whole for message in sent if (whole := assembly.take(message)) is not None]
    assert got == [b"".join([head, *given_parts])]
    assert max(map(len, sent)) <= PIECE + SMALL * len(parts)


def test_tensors_of_many_sizes_and_a_small_message_after_them():
    tensors = {
        "large": np.arange(700_001, dtype=np.float32),
        "odd": np.arange(5, dtype=np.uint8),
        "none": np.zeros((0, 3), np.int64),
        "words": np.array(["a", "é"], dtype=object),
        **{f"past.{i}": np.full((1, 3, i), i, np.float32) for i in range(9)},
    }
    assembly = Assembly()
    sent = [*messages(encode_parts({"id": 1}, tensors)), *messages(encode_parts({"id": 2}, {}))]
    assert (
        len(sent) == 1 + 1 + 3 + 1 + 1
    )  # announced, the header, the large one, the small ones; the small message
    first, second = (whole for message in sent if (whole := assembly.take(bytes(message))) is not None)
    header, back = decode(first)
    assert header["id"] == 1
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array)
    assert decode(second)[0]["id"] == 2


def test_large_tensors_are_not_copied():
    array = np.zeros(PIECE, np.float32)
    views = [message for message in messages(encode_parts({}, {"x": array})) if len(message) == PIECE]
    array[:] = 1
    assert len(views) == 4
    assert all(np.frombuffer(view, np.float32).all() for view in views)


def test_more_than_was_announced_is_refused():
    assembly = Assembly()
    assert assembly.take(ANNOUNCEMENT.pack(0, 10)) is None
    assert assembly.take(b"123456") is None
    with pytest.raises(ValueError, match="11 of 10 announced"):
        assembly.take(b"78901")
