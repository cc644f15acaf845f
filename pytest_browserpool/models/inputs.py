"""A call's inputs against what the model declares: checked before anything is sent to a browser. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_browserpool.config import did_you_mean
from pytest_browserpool.errors import InputError, UnsupportedOperator, hide_from_traceback
from pytest_browserpool.models.inspect import ModelInfo, Tensor

__tracebackhide__ = hide_from_traceback

NUMPY: Mapping[str, str] = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "bool": "bool",
}
"""ONNX's words for element types → numpy's, for those that onnxruntime-web has tensors of."""


def checked(inputs: Mapping[str, Any], info: ModelInfo, *, where: str) -> dict[str, NDArray[Any]]:
    """The inputs as arrays, in the model's order.

    Arrays, and what else has a dtype, must have the declared one. Plain Python numbers, lists and strings are converted to
    it where that keeps their values: floats are rounded to the model's precision, and nothing else is changed.

    Raises:
        InputError: an unknown or missing input, a wrong dtype or shape, or sizes of one symbol that differ.
        UnsupportedOperator: the model has an input that is not a tensor.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"the call got {type(inputs).__name__}", where=where, remedy='give a dict {"input name": array}'
        )
    declared = {tensor.name: tensor for tensor in info.inputs}
    if inputs.keys() != declared.keys():
        raise _other_names(inputs, declared, where)
    symbols: dict[str, tuple[int, str]] = {}
    return {name: _checked(inputs[name], tensor, symbols, where) for name, tensor in declared.items()}


def _other_names(inputs: Mapping[str, Any], declared: Mapping[str, Tensor], where: str) -> InputError:
    listed = "; ".join(str(t) for t in declared.values())
    for name in inputs:
        if name not in declared:
            return InputError(
                f"no input {name!r}{did_you_mean(str(name), declared)}",
                where=where,
                remedy=f"the inputs are {listed}",
            )
    missing = [name for name in declared if name not in inputs]
    return InputError(
        f"input {', '.join(map(repr, missing))} is missing",
        where=where,
        remedy=f"the inputs are {listed}",
    )


def _checked(value: Any, tensor: Tensor, symbols: dict[str, tuple[int, str]], where: str) -> NDArray[Any]:
    array = _typed(value, tensor, where)
    _check_shape(array, tensor, symbols, where)
    return array


def _typed(value: Any, tensor: Tensor, where: str) -> NDArray[Any]:
    if hasattr(value, "mask") and np.ma.is_masked(value):  # numpy imports numpy.ma when it is first named
        raise InputError(
            f"input {tensor.name!r} has {np.ma.getmaskarray(value).sum()} masked elements, which the model would see",
            where=where,
            remedy=f"say what stands there: {tensor.name}.filled(0), or give the mask as an input of its own",
        )
    if tensor.dtype == "string":
        return _strings(value, tensor, where)
    wanted = NUMPY.get(tensor.dtype)
    if wanted is None:
        raise UnsupportedOperator(
            f"input {tensor.name!r} is of type {tensor.dtype}, which onnxruntime-web cannot be given",
            where=where,
        )
    if isinstance(value, (np.ndarray, np.generic)):
        return _of_dtype(np.asarray(value), tensor, wanted, where)
    try:
        natural = np.asarray(value)
        if hasattr(value, "__array__") or isinstance(value, (bytes, bytearray, memoryview)):
            return _of_dtype(natural, tensor, wanted, where)
        with np.errstate(over="ignore"):  # said below, with the input's name
            array = np.asarray(value, dtype=wanted)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"input {tensor.name!r} cannot become a {wanted} array: {error}",
            where=where,
            remedy="give a numpy array",
        ) from error
    if not _keeps(value, natural, array):
        raise InputError(
            f"input {tensor.name!r} would become other values as {wanted}: {value!r:.80}",
            where=where,
            remedy=f"give {wanted} values, or an array that you have converted yourself",
        )
    return array


def _of_dtype(array: NDArray[Any], tensor: Tensor, wanted: str, where: str) -> NDArray[Any]:
    if array.dtype != wanted and array.dtype.newbyteorder("=") != np.dtype(wanted):
        raise InputError(
            f"input {tensor.name!r} has dtype {array.dtype}, the model wants {wanted}",
            where=where,
            remedy=f'convert it: {tensor.name}.astype("{wanted}")',
        )
    return array


def _keeps(value: Any, natural: NDArray[Any], array: NDArray[Any]) -> bool:
    """Whether numpy's own reading of plain values says the same as ``array``; it would turn 1.5 into 1 and None into NaN."""
    if not natural.size:
        return True
    kind = natural.dtype.kind
    if array.dtype.kind == "b":
        return kind == "b"
    if kind == "O" or (kind == "f" and array.dtype.kind != "f"):
        # numpy has no common type for whole numbers beyond 63 bits and others: they are looked at one by one
        return all(isinstance(v, (int, np.integer)) for v in np.asarray(value, dtype=object).flat)
    if kind == "f":
        return not (np.isinf(array) & np.isfinite(natural)).any()
    return kind in "biu" and not (array.dtype.kind == "f" and np.isinf(array).any())


def _strings(value: Any, tensor: Tensor, where: str) -> NDArray[Any]:
    # as objects: numpy's own strings end where trailing NULs begin
    array = value if isinstance(value, np.ndarray) else np.asarray(value, dtype=object)
    if array.dtype.kind not in "UT" and not (
        array.dtype.kind == "O" and all(isinstance(s, str) for s in array.flat)
    ):
        raise InputError(
            f"input {tensor.name!r} has dtype {array.dtype}", where=where, remedy="give an array of str"
        )
    array = array.astype(object)
    if any("\0" in s for s in array.flat):
        raise InputError(
            f"input {tensor.name!r} has a string with a NUL in it, where onnxruntime-web would end it",
            where=where,
            remedy="replace the NUL characters",
        )
    return array


def _check_shape(
    array: NDArray[Any], tensor: Tensor, symbols: dict[str, tuple[int, str]], where: str
) -> None:
    if tensor.dims is None:
        return
    if array.ndim != len(tensor.dims):
        raise InputError(
            f"input {tensor.name!r} has shape {list(array.shape)} of rank {array.ndim}",
            where=where,
            remedy=f"the model wants {tensor}",
        )
    for axis, (size, dim) in enumerate(zip(array.shape, tensor.dims, strict=True)):
        if isinstance(dim, int) and size != dim:
            raise InputError(
                f"input {tensor.name!r} has shape {list(array.shape)}: axis {axis} is {size}",
                where=where,
                remedy=f"the model wants {tensor}",
            )
        if isinstance(dim, str):
            first, source = symbols.setdefault(dim, (size, tensor.name))
            if first != size:
                raise InputError(
                    f"{dim} is {first} in input {source!r} but {size} in {tensor.name!r}",
                    where=where,
                    remedy=f"give all inputs with {dim!r} the same size on that axis",
                )
