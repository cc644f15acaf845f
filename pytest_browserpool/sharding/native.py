"""Run shards with native onnxruntime: are they together equal to the whole, what shapes and times do nodes
really have.

onnxruntime is imported when the first model runs; without it there is a ``ConfigurationError`` that says what
to install.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_browserpool.errors import ConfigurationError, RunFailed, ShardingError
from pytest_browserpool.sharding.read import Source, read
from pytest_browserpool.sharding.shapes import UNKNOWN_TYPE
from pytest_browserpool.sharding.split import SegmentFile

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[np.generic]]

Result = TypeVar("Result")

RELATIVE = 1e-4
ABSOLUTE = 1e-5
"""How far shards may be from the whole when onnxruntime optimises both: fusions that a cut prevents round
differently. Without optimisation there is no tolerance at all."""

REPORT = "report this with the model"
"""The remedy where a segment fails and the whole does not."""

MADE_UP = "made-up values: 0 and 1 where they are whole numbers; ones and zeros were tried too"

_PROFILED, _KERNEL = "sharding_node_", "_kernel_time"

PROFILE_RUNS = 5
"""Runs of a profile after one that warms up; the median of five ignores one that the machine disturbed."""


def onnxruntime() -> Any:
    """The onnxruntime package."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigurationError(
            "native onnxruntime is not installed, so shards cannot be checked against the whole model",
            remedy="pip install onnxruntime",
        ) from error
    return onnxruntime


def open_session(
    model: Path | bytes,
    *,
    optimise: bool = False,
    folder: Path | None = None,
    profile: Path | None = None,
    remedy: str = "check the model natively first",
) -> Any:
    """A CPU session; without ``optimise`` every node runs as it stands. ``folder`` has a model's data that is
    bytes.

    Raises ``RunFailed`` where onnxruntime refuses the model.
    """
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    level = runtime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.log_severity_level = 4  # warnings are the exporter's business, and errors are raised
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        return runtime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        place = "" if isinstance(model, bytes) else f" {Path(model).name}"
        raise RunFailed(f"onnxruntime refuses{place}: {error}", remedy=remedy) from error


class NativeShards:
    """The segments of a model as native sessions, run one after the other as the browsers will."""

    def __init__(
        self, files: Sequence[SegmentFile], outputs: Sequence[str], *, optimise: bool = False
    ) -> None:
        self.files, self.wanted = tuple(sorted(files, key=lambda f: f.index)), tuple(outputs)
        self._sessions = [open_session(Path(f.path), optimise=optimise, remedy=REPORT) for f in self.files]

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        """The whole model's outputs for ``feeds``."""
        known: dict[str, NDArray[np.generic]] = dict(feeds)
        for file, session in zip(self.files, self._sessions, strict=True):
            given = {name: known[name] for name in file.inputs}
            place = f"segment {file.index} of the model"
            results = _run(session, list(file.outputs), given, place, REPORT)
            known.update(zip(file.outputs, results, strict=True))
        return {name: known[name] for name in self.wanted}


class NativeWhole:
    """An unsharded model as one native session, run as ``NativeShards`` is."""

    def __init__(self, model: Path | bytes, *, optimise: bool = False) -> None:
        self._session = open_session(model, optimise=optimise)
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    @classmethod
    def of(cls, source: Source, *, optimise: bool = False) -> NativeWhole:
        """The model that ``source`` was read from; from its file where it has one, for its external data."""
        return cls(source.path or source.model.SerializeToString(), optimise=optimise)

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        """All outputs for ``feeds``."""
        results = _run(
            self._session, list(self.outputs), feeds, "the whole model", "check the inputs, or the model"
        )
        return dict(zip(self.outputs, results, strict=True))


def _run(session: Any, wanted: Sequence[str], feeds: Tensors, what: str, remedy: str) -> list[Any]:
    """Raises ``RunFailed`` for what onnxruntime does, whose errors have no common base."""
    try:
        return list(session.run(list(wanted), dict(feeds)))
    except Exception as error:  # noqa: BLE001 - as the docstring says
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
        raise RunFailed(
            f"{what} does not run natively with {shapes}: {error}", remedy=remedy
        ) from None  # all that onnxruntime says is in the message


def _with_values(source: Source, feeds: Tensors | None, run: Callable[[Tensors], Result]) -> Result:
    """What ``run`` gives with ``feeds``; where None with the first made-up values that the model runs with."""
    if feeds is not None:
        return run(feeds)
    first: RunFailed | None = None
    for values in _guesses(source):
        try:
            return run(values)
        except RunFailed as failure:
            first = first or failure
    assert first is not None
    raise RunFailed(
        f"{first.what} ({MADE_UP})",
        remedy="check the sizes in input_shapes=, or the model itself; where it needs certain values of an input,"
        " give feeds= from Python",
    ) from None


def _guesses(source: Source) -> Iterator[Tensors]:
    """Made-up inputs: as ``feeds_for`` has them, then whole numbers, then all, as ones and as zeros. An input may be a size,
    which must not be zero, or an index, which may have to be."""
    import numpy as np

    yield (first := feeds_for(source))
    numbers = [name for name, given in first.items() if given.dtype != object]
    whole = [name for name in numbers if not np.issubdtype(first[name].dtype, np.floating)]
    for names in (whole, numbers) if whole and whole != numbers else (numbers,):
        for value in (1, 0):
            yield {**first, **{name: np.full_like(first[name], value) for name in names}}


@dataclass(frozen=True, kw_only=True)
class NativeCheck:
    """How the shards' outputs compare with the whole model's."""

    optimised: bool
    identical: bool
    """Every bit of every output is the same."""
    worst: Mapping[str, float]
    """Largest absolute difference of each output; infinite where shape, type or not-a-number places
    differ.
    """
    beyond: tuple[str, ...]
    """Outputs that differ by more than is allowed."""

    def require(self) -> None:
        """Raise ``ShardingError`` unless the shards are equal: bit for bit, or within tolerance where
        optimised.
        """
        if self.beyond:
            name = max(self.beyond, key=self.worst.__getitem__)
            raise ShardingError(
                "the shards do not give what the whole model gives:"
                f" output {name!r} is off by {self.worst[name]:.3g}",
                remedy="the model may use random numbers; otherwise report this with the model",
            )


def check(
    source: Source, files: Sequence[SegmentFile], feeds: Tensors | None = None, *, optimise: bool = False
) -> NativeCheck:
    """Run the whole model and its shards on ``feeds``, made up where None, and compare all outputs.

    Bit for bit without ``optimise``; with it within ``RELATIVE`` and ``ABSOLUTE``.
    """
    outputs = source.graph.outputs
    model = NativeWhole.of(source, optimise=optimise)
    given, whole = _with_values(source, feeds, lambda values: (values, model.run(values)))
    parts = NativeShards(files, outputs, optimise=optimise).run(given)
    return compare(whole, parts, optimised=optimise)


def compare(whole: Tensors, parts: Tensors, *, optimised: bool) -> NativeCheck:
    """``parts`` against ``whole``, output by output."""
    import numpy as np

    worst: dict[str, float] = {}
    beyond, identical = [], True
    for name, expected in whole.items():
        actual = parts[name]
        same = expected.dtype == actual.dtype and expected.shape == actual.shape
        exact = same and (
            np.array_equal(expected, actual)
            if expected.dtype == object
            else expected.tobytes() == actual.tobytes()
        )
        identical &= exact
        if exact:
            worst[name] = 0.0
            continue
        close = False
        worst[name] = float("inf")
        if (
            same
            and expected.dtype != object
            and not (np.isnan(expected.astype(float)) ^ np.isnan(actual.astype(float))).any()
        ):
            left, right = expected.astype(np.float64), actual.astype(np.float64)
            with np.errstate(invalid="ignore"):
                worst[name] = float(np.nanmax(np.abs(left - right), initial=0.0))
            close = optimised and bool(np.allclose(left, right, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True))
        if not close:
            beyond.append(name)
    return NativeCheck(optimised=optimised, identical=identical, worst=worst, beyond=tuple(beyond))


def observe(source: Source, feeds: Tensors | None = None) -> dict[str, onnx.TypeProto]:
    """Type and shape of each tensor between nodes as one run has them; better than inference, which loses
    some.

    The run keeps all of them in memory at once.
    """
    import numpy as np
    import onnx

    made = [name for node in source.graph.nodes for name in node.outputs if name not in source.graph.outputs]
    # numpy has no arrays of the element types that browsers do not exchange either
    names = [name for name in made if source.types.barrier(name) in ("", UNKNOWN_TYPE)]
    probe = onnx.ModelProto()
    probe.CopyFrom(source.model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(probe.SerializeToString(), folder=source.folder)
    found: dict[str, onnx.TypeProto] = {}
    wanted, remedy = [*names, *source.graph.outputs], "check the sizes in input_shapes=, or the model itself"
    values = _with_values(source, feeds, lambda given: _run(session, wanted, given, "the model", remedy))
    for name, value in zip(wanted, values, strict=True):
        if isinstance(value, np.ndarray):
            kind = (
                onnx.TensorProto.STRING
                if value.dtype == object
                else onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            )
            found[name] = onnx.helper.make_tensor_type_proto(kind, value.shape)
    return found


def read_observed(
    source: onnx.ModelProto | bytes | str | Path,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dimensions: Mapping[str, int] | None = None,
    resident: Sequence[str] = (),
    feeds: Tensors | None = None,
) -> Source:
    """``read.read`` with the sizes that a native run has instead of inferred ones."""
    first = read(source, input_shapes, dimensions)
    return read(source, input_shapes, dimensions, resident, observed=observe(first, feeds))


def measure(source: Source, folder: Path, feeds: Tensors | None = None) -> dict[int, float]:
    """Median seconds of each node in native onnxruntime on this machine, by index, for
    ``graph.with_seconds``.

    ``folder`` takes the profile, which is removed again.
    """
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(source.model)
    for index, node in enumerate(probe.graph.node):
        node.name = f"{_PROFILED}{index}"
    session = open_session(probe.SerializeToString(), folder=source.folder, profile=folder / "profile")
    outputs = source.graph.outputs

    def profiled(values: Tensors) -> None:
        for _ in range(PROFILE_RUNS + 1):
            _run(session, outputs, values, "the model", "check the model natively first")

    _with_values(source, feeds, profiled)
    report = Path(session.end_profiling())
    times: dict[int, list[float]] = {}
    for event in json.loads(report.read_text(encoding="utf-8")):
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.startswith(_PROFILED) and name.endswith(_KERNEL):
            index = int(name[len(_PROFILED) : -len(_KERNEL)])
            times.setdefault(index, []).append(event["dur"] * 1e-6)
    report.unlink()
    return {index: statistics.median(own[1:] or own) for index, own in times.items()}


def feeds_for(source: Source, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Inputs of the shapes that the model was read with: normal numbers for floats, 0 and 1 for the rest."""
    import numpy as np
    import onnx

    generator = np.random.default_rng(seed)
    feeds: dict[str, NDArray[np.generic]] = {}
    for name in source.graph.inputs:
        kind = source.types.fixed[name].tensor_type.elem_type
        dtype, shape = onnx.helper.tensor_dtype_to_np_dtype(kind), source.types.shape(name) or ()
        if kind == onnx.TensorProto.STRING:
            feeds[name] = np.full(shape, "word", dtype=object)
        elif np.issubdtype(dtype, np.floating):
            feeds[name] = generator.standard_normal(shape).astype(dtype)
        else:
            feeds[name] = generator.integers(0, 2, shape).astype(dtype)
    return feeds
