"""How much a model amplifies rounding: measured with native onnxruntime, as the graph alone cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scale = Callable[[str, NDArray[np.float64]], NDArray[np.float64]]

SAMPLES = 3
"""Perturbations tried: each shifts every input element by one ULP, up or down by a fixed dice."""

MARGIN = 4.0
"""Allowed multiple of the largest change seen in these few samples. With Basic Pitch over 26 sounds, the
right answers of wasm and webnn were off by at most 1.2 times the largest change."""


def amplification(source: Any, inputs: Mapping[str, Any], scale: Scale) -> dict[str, float]:
    """By output, the largest change, as a share of the scale, that changes of rounding's size make natively.

    These are one ULP in each floating-point input, and the same model without graph optimisations, which sums
    in another order.

    Args:
        source: a path or the bytes of the model.
        inputs: of the call.
        scale: what an element's error is a share of, from the output's name and its values.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import numpy as np
    import onnxruntime

    def session(level: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])

    levels = onnxruntime.GraphOptimizationLevel
    optimised = session(levels.ORT_ENABLE_ALL)
    names = [output.name for output in optimised.get_outputs()]
    base = optimised.run(names, dict(inputs))
    others = [session(levels.ORT_DISABLE_ALL).run(names, dict(inputs))]
    dice = np.random.default_rng(0)
    others += [optimised.run(names, _shifted(inputs, dice)) for _ in range(SAMPLES)]
    return {
        name: max(_share(name, run[i], base[i], scale) for run in others)
        for i, name in enumerate(names)
        if base[i].dtype.kind in "fV"
    }


def _shifted(inputs: Mapping[str, Any], dice: np.random.Generator) -> dict[str, Any]:
    """Each floating-point element one ULP up or down; zeros stay zero."""
    import numpy as np

    shifted = {}
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.dtype.kind == "f":
            towards = np.where(dice.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
            array = np.where(array == 0, array, np.nextafter(array, towards))
        shifted[name] = array
    return shifted


def _share(name: str, one: NDArray[Any], other: NDArray[Any], scale: Scale) -> float:
    import numpy as np

    if one.shape != other.shape or one.size == 0:
        return 0.0
    one, other = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(finite & (one != other), np.abs(one - other) / scale(name, other), 0.0)
    return float(share.max(where=np.isfinite(share), initial=0.0))
