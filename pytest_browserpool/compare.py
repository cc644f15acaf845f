"""Does a browser's answer agree with a reference? The tolerance comes from the model's own computation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool.conditioning import MARGIN, amplification
from pytest_browserpool.errors import InputError
from pytest_browserpool.tolerances import MOST, Tolerance, tolerance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Tolerance", "assert_close", "tolerance"]

SLICE = 16
"""Elements that a slice needs before its own largest magnitude says something about its scale."""

SLICE_FLOOR = 2.0**-10
"""A slice counts at least as this share of the whole output: less may be left of a cancellation."""


def assert_close(
    outputs: Mapping[str, Any],
    reference: Mapping[str, Any] | Sequence[Any],
    model: Any,
    *,
    inputs: Mapping[str, Any] | None = None,
    precision: str | None = None,
) -> dict[str, float]:
    """Fail unless each output is as near to the reference as the model's own computation allows.

    An element may be off by ``Tolerance.relative`` times its scale. The scale is the largest magnitude among
    the elements that share an index with it (of the smallest such slice, so that a channel of scores is not
    judged by a channel of pixels), and at least the magnitude that the last computation worked with.
    Integers, booleans and strings must be equal, except that the integers of a quantised output may be some
    steps off. NaN and infinities must be at the same places.

    Args:
        outputs: what the model gave, by name.
        reference: what it should have given, by name, or a sequence in the order of the model's outputs; only
            these outputs are compared.
        model: what ran: the handle, or what else ``tolerance`` takes.
        inputs: of the call; a handle remembers those of its latest. They settle reductions over sizes that
            only they tell, and give an answer beyond the tolerance a second hearing: where onnxruntime is
            installed, the model's own sensitivity to a change of one ULP is measured and allowed for.
        precision: see ``tolerance``.

    Returns:
        By output, the largest share of the allowed error that was used: 0 for equal, at most 1.

    Raises:
        AssertionError: they disagree; the message has the worst element, what was allowed and seen, where.
        InputError: the reference names outputs that are not there, or none, or has another number of them than the model.
        SourceError: see ``tolerance``.
    """
    __tracebackhide__ = True
    expected = _by_name(reference, outputs, model)
    if inputs is None:
        inputs = getattr(model, "last_inputs", None) or {}
    shapes = {name: tuple(getattr(v, "shape", ())) for name, v in (*inputs.items(), *expected.items())}
    allowed = tolerance(model, shapes=shapes, precision=precision)
    unknown = [name for name in expected if name not in allowed]
    if unknown:
        raise InputError(
            f"the model has no output {unknown[0]!r}",
            where="assert_close()",
            remedy=f"it has {', '.join(allowed)}",
        )
    found = _compare_all(outputs, expected, allowed)
    note = ""
    if any(result.sensitive for result in found.values()):
        allowed, note = _measured(model, inputs, allowed)
        found = _compare_all(outputs, expected, allowed)
    complaints = [result.complaint for result in found.values() if result.complaint]
    if complaints:
        raise AssertionError(
            f"{_place(model)} disagrees with the reference on {len(complaints)} of {len(expected)} outputs\n"
            + "\n".join(complaints)
            + note
        )
    return {name: result.share for name, result in found.items()}


@dataclass(frozen=True)
class _Result:
    """One output compared."""

    share: float
    """The largest share of the allowed error that was used."""
    complaint: str = ""
    sensitive: bool = False
    """Whether it is wrong by more than the graph explains, so that the model's sensitivity matters."""


def _compare_all(
    outputs: Mapping[str, Any], expected: Mapping[str, Any], allowed: Mapping[str, Tolerance]
) -> dict[str, _Result]:
    return {name: _compare(outputs[name], wanted, allowed[name]) for name, wanted in expected.items()}


def _measured(
    model: Any, inputs: Mapping[str, Any], allowed: Mapping[str, Tolerance]
) -> tuple[dict[str, Tolerance], str]:
    """The tolerances with the model's own sensitivity measured, and what to say where that failed."""
    source = getattr(model, "path", model)
    if not inputs:
        return dict(allowed), "\n  the model's sensitivity was not measured: pass inputs= for that"
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    elif hasattr(source, "SerializeToString"):
        source = source.SerializeToString()
    try:
        seen = amplification(source, inputs, lambda name, values: scale(values, allowed[name].natural))
    except Exception as error:  # noqa: BLE001 - whatever onnxruntime says, the disagreement is what matters
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return dict(allowed), f"\n  the model's sensitivity was not measured: {reason}"
    return {
        name: replace(one, measured=min(MOST, MARGIN * seen[name]) if name in seen and one.relative else 0.0)
        for name, one in allowed.items()
    }, ""


def _by_name(reference: Any, outputs: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The reference as a mapping, each name of which ``outputs`` has."""
    if not isinstance(outputs, Mapping):
        raise InputError(
            f"the outputs are a {type(outputs).__name__}",
            where="assert_close()",
            remedy='give what the model returned: {"output name": array}',
        )
    if not isinstance(reference, Mapping):
        reference = _in_order(reference, list(tolerance(model)))
    missing = [name for name in reference if name not in outputs]
    if missing or not reference:
        raise InputError(
            f"the reference has {', '.join(map(repr, missing)) or 'no outputs'}",
            where="assert_close()",
            remedy=f"name outputs that the model gave: {', '.join(outputs)}",
        )
    return dict(reference)


def _in_order(reference: Any, names: list[str]) -> dict[str, Any]:
    several = isinstance(reference, Sequence) and not isinstance(reference, (str, bytes))
    if several and len(reference) == len(names):
        return dict(zip(names, reference, strict=True))
    what = f"a {type(reference).__name__}" + (f" of {len(reference)}" if several else "")
    shape = getattr(reference, "shape", None)
    raise InputError(
        f"the reference is {what}{'' if shape is None else f' of shape {list(shape)}'}, the outputs are {', '.join(names)}",
        where="assert_close()",
        remedy=f'give {{"{names[0]}": array}}, or a list with an array for each output of the model',
    )


def _array(value: Any, what: str) -> NDArray[Any]:
    import numpy as np

    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} is no array: {error}", where="assert_close()", remedy="give a numpy array"
        ) from error


def _compare(seen: Any, wanted: Any, allowed: Tolerance) -> _Result:
    """Whether one output agrees."""
    import numpy as np

    seen = _array(seen, f"output {allowed.output!r}")
    wanted = _array(wanted, f"the reference of {allowed.output!r}")
    title = f"  {allowed.output} ({wanted.dtype}{list(wanted.shape)})"
    if seen.shape != wanted.shape:
        return _Result(np.inf, f"{title}: the shape is {list(seen.shape)} instead of {list(wanted.shape)}")
    if _is_float(seen) != _is_float(wanted):
        return _Result(np.inf, f"{title}: the type is {seen.dtype} instead of {wanted.dtype}")
    if wanted.size == 0:
        return _Result(0.0)
    if not _is_float(wanted):
        return _compare_exact(seen, wanted, allowed, title)
    return _compare_floats(seen.astype(np.float64), wanted.astype(np.float64), allowed, title)


def _is_float(array: NDArray[Any]) -> bool:
    # bfloat16 and float8 of ml_dtypes are of numpy's kind V
    return array.dtype.kind in "fV"


def _compare_exact(seen: NDArray[Any], wanted: NDArray[Any], allowed: Tolerance, title: str) -> _Result:
    import numpy as np

    if allowed.steps and wanted.dtype.kind in "iu":
        off = np.abs(seen.astype(np.float64) - wanted.astype(np.float64))
        limit = np.full(wanted.shape, float(allowed.steps))
        return _verdict(seen, wanted, off, limit, allowed, title)
    wrong = np.asarray(seen != wanted)
    if not wrong.any():
        return _Result(0.0)
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return _Result(
        np.inf,
        f"{title}: {int(wrong.sum())} of {wanted.size} elements differ, and these must be equal\n"
        f"    first at {list(at)}: {seen[at]!r} instead of {wanted[at]!r}",
    )


def _compare_floats(
    seen: NDArray[np.float64], wanted: NDArray[np.float64], allowed: Tolerance, title: str
) -> _Result:
    import numpy as np

    for what, test in (("NaN", np.isnan), ("+infinity", np.isposinf), ("-infinity", np.isneginf)):
        there, should = test(seen), test(wanted)
        wrong = there != should
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            return _Result(
                np.inf,
                f"{title}: {what} at {int(there.sum())} places instead of {int(should.sum())}\n"
                f"    first at {list(at)}: {seen[at]:.9g} instead of {wanted[at]:.9g}",
            )
    finite = np.isfinite(wanted)
    off = np.abs(np.where(finite, seen, 0) - np.where(finite, wanted, 0))
    limit = max(allowed.relative, allowed.measured) * scale(wanted, allowed.natural)
    return _verdict(seen, wanted, off, limit, allowed, title)


def scale(values: NDArray[np.float64], natural: float = 0.0) -> NDArray[np.float64]:
    """For each element, the magnitude that its rounding error is a share of; see ``assert_close``."""
    import numpy as np

    size = np.where(np.isfinite(values), np.abs(values), 0.0)
    top = float(size.max(initial=0.0))
    found = np.full(values.shape, top)
    for axis in range(values.ndim):
        if values.size // values.shape[axis] >= SLICE:
            others = tuple(a for a in range(values.ndim) if a != axis)
            found = np.minimum(found, size.max(axis=others, keepdims=True))
    lowest = np.full(values.shape, max(SLICE_FLOOR * top, natural))
    np.maximum(found, lowest, out=lowest)
    return lowest


def _verdict(
    seen: NDArray[Any],
    wanted: NDArray[Any],
    off: NDArray[np.float64],
    limit: NDArray[np.float64],
    allowed: Tolerance,
    title: str,
) -> _Result:
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(off == 0, 0.0, off / limit)
    worst = float(share.max())
    if worst <= 1:
        return _Result(worst)
    wrong = share > 1
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(wrong, off, -1.0))), off.shape))
    zeros = int((wrong & (seen == 0)).sum())
    complaint = "\n".join(
        (
            f"{title}: {int(wrong.sum())} of {wanted.size} elements differ by more than rounding explains"
            + (f", {zeros} of them are 0" if zeros else ""),
            f"    worst at {list(at)}: {seen[at]:.9g} instead of {wanted[at]:.9g}",
            f"    seen {off[at]:.3g}, allowed {limit[at]:.3g} ({_times(off[at], limit[at])})",
            *_reason(allowed),
        )
    )
    return _Result(worst, complaint, sensitive=allowed.relative > 0)


def _times(off: float, limit: float) -> str:
    return f"{off / limit:,.3g} times as much" if limit else "nothing on the way rounds"


def _reason(allowed: Tolerance) -> list[str]:
    """Where the tolerance comes from; nothing where nothing is allowed."""
    if allowed.steps:
        return [f"    allowed: {allowed.steps} steps of a quantised output"]
    if allowed.measured > allowed.relative:
        made = f"{MARGIN:g} times what one ULP in the inputs makes"
        if allowed.measured == MOST:
            made = (
                "the most that is; one ULP in the inputs makes more: if it jumps with these, at a threshold or in a "
                "cast to integers, compare what it is computed from"
            )
        return [f"    allowed: {allowed.measured:.2g} of the scale, {made}"]
    if not allowed.relative:
        return []
    most = ", ".join(f"{c.op} {c.name} {c.relative:.1e}".replace("  ", " ") for c in allowed.largest)
    assumed = f"; {allowed.assumed} reduction lengths were assumed" if allowed.assumed else ""
    return [
        f"    allowed: {allowed.relative:.2g} of the scale, from {allowed.nodes} nodes that round; "
        f"most: {most}{assumed}"
    ]


def _place(model: Any) -> str:
    """Backend, browser and model in words, as far as known."""
    source = getattr(model, "path", model)
    file = Path(source).name if isinstance(source, (str, os.PathLike)) else "the model"
    name = getattr(model, "label", file)
    backend, browser = getattr(model, "backend", None), getattr(model, "browser", None)
    if backend is None or browser is None:
        return name
    return f"{name} on {backend} in {browser.name} {getattr(browser, 'version', '')}".rstrip()
