"""The wire format: what is encoded comes back, aligned, for any dtype and shape; damaged messages are refused."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pytest_browserpool.browsers.protocol import DTYPES, decode, encode, type_name
from pytest_browserpool.errors import InputError

arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: npst.arrays(DTYPES[name], npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
strings = npst.arrays(object, npst.array_shapes(min_dims=0, max_side=4), elements=st.text(max_size=8))
tensors = st.dictionaries(st.text(max_size=10), st.one_of(arrays, strings), max_size=5)


@given(tensors)
def test_what_is_encoded_comes_back(given):
    header, back = decode(encode({"id": 7, "op": "run"}, given))
    assert (header["id"], header["op"]) == (7, "run")
    assert list(back) == list(given)
    for name, array in given.items():
        assert back[name].shape == array.shape
        if array.dtype == object:
            assert back[name].tolist() == array.tolist()
        else:
            assert back[name].dtype == array.dtype
            assert back[name].tobytes() == array.tobytes()
            assert back[name].flags.writeable


@given(tensors)
def test_every_tensor_begins_at_a_multiple_of_eight(given):
    message = encode({}, given)
    (length,) = struct.unpack_from("<I", message)
    start = 4 + length + (-(4 + length) % 8)
    for _, _, _, offset, nbytes in json.loads(message[4 : 4 + length])["tensors"]:
        assert (start + offset) % 8 == 0
        assert start + offset + nbytes <= len(message)


@given(tensors, st.integers(min_value=0, max_value=200))
def test_a_message_that_was_cut_is_refused_or_whole(given, cut):
    """Never an array of other bytes: an error, unless only padding was cut."""
    message = encode({}, given)
    try:
        _, back = decode(message[: max(0, len(message) - cut)])
    except (ValueError, UnicodeDecodeError):
        return
    for name, array in given.items():
        same = (
            back[name].tolist() == array.tolist()
            if array.dtype == object
            else back[name].tobytes() == array.tobytes()
        )
        assert same, name


def test_non_contiguous_and_big_endian_arrays():
    x = np.arange(12, dtype=">i4").reshape(3, 4).T[::2]
    _, back = decode(encode({}, {"x": x}))
    assert back["x"].tolist() == x.tolist()
    assert back["x"].dtype == np.int32


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "V4"])
def test_a_dtype_that_the_runtime_lacks_is_named(dtype):
    with pytest.raises(InputError, match="is none that onnxruntime-web has"):
        type_name(np.zeros(1, dtype))
