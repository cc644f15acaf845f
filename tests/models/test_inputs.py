"""A call's inputs: what is taken as it is, what is converted, and what is refused rather than changed."""

from __future__ import annotations

import array as buffers
from typing import Any

import numpy as np
import pytest

from pytest_browserpool.errors import InputError
from pytest_browserpool.models.inputs import checked
from pytest_browserpool.models.inspect import ModelInfo, Tensor


def given(value: Any, dtype: str) -> np.ndarray[Any, Any]:
    info = ModelInfo((Tensor("x", dtype, None),), (), {}, frozenset(), ())
    return checked({"x": value}, info, where="a model")["x"]


@pytest.mark.parametrize(
    ("value", "dtype", "become"),
    [
        ([1, 2], "float", [1.0, 2.0]),
        ([0.1], "float", [float(np.float32(0.1))]),
        ([float("inf")], "float16", [float("inf")]),
        ([2**70], "float", [float(2**70)]),
        ([2**63, -1], "double", [2.0**63, -1.0]),
        ([True], "float", [1.0]),
        (3, "int64", 3),
        ([2**64 - 1, 0], "uint64", [2**64 - 1, 0]),
        ([True, False], "bool", [True, False]),
        ([], "int32", []),
        ([], "string", []),
        ("abc", "string", "abc"),
        ([["a", ""], ["ö", "b"]], "string", [["a", ""], ["ö", "b"]]),
    ],
)
def test_plain_values_become_the_models_type(value: Any, dtype: str, become: Any) -> None:
    assert given(value, dtype).tolist() == become


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1.5], "int32"),
        ([np.array([1.5])], "int32"),
        (["3"], "int32"),
        (["3"], "float"),
        ([None], "float"),
        ([1e300], "float"),
        ([70000], "float16"),
        ([2**63, 0.5], "uint64"),
        ([1], "bool"),
        (["False"], "bool"),
        ([None], "bool"),
        ({"a": 1}, "bool"),
        (b"1", "uint8"),
        (buffers.array("d", [1.0]), "int32"),
        ([[1], [1, 2]], "float"),
        ([["a"], ["a", "b"]], "string"),
        ([b"a"], "string"),
        (["a\0b"], "string"),
        (["end\0"], "string"),
        (np.array(["a\0b"]), "string"),
    ],
)
def test_values_that_would_be_changed_are_refused(value: Any, dtype: str) -> None:
    with pytest.raises(InputError, match="input 'x'"):
        given(value, dtype)


class _OfALibrary:
    """What torch and jax hand out, as far as numpy cares."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return self._array if dtype is None else self._array.astype(dtype)


def test_another_librarys_array_must_have_the_models_dtype_too() -> None:
    assert given(_OfALibrary(np.ones(1, np.float32)), "float").tolist() == [1]
    with pytest.raises(InputError, match="has dtype float64, the model wants float32"):
        given(_OfALibrary(np.ones(1, np.float64)), "float")


@pytest.mark.parametrize(("dtype", "numpy"), [("float", np.float32), ("string", object)])
def test_a_mask_is_not_dropped_silently(dtype: str, numpy: Any) -> None:
    masked = np.ma.masked_array(np.array(["1", "2", "3"]).astype(numpy), [True, False, False])
    with pytest.raises(InputError, match=r"input 'x' has 1 masked elements.*\n.*\n.*x\.filled\(0\)"):
        given(masked, dtype)
    assert given(masked[1:], dtype).tolist() == masked.data[1:].tolist()
