"""Fixtures of the example suite: native onnxruntime as the reference, and files that go with a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from pytest_browserpool import assert_close
from pytest_browserpool.models.lock import LockFile
from pytest_browserpool.models.sources import resolve_file

Arrays = dict[str, Any]


@pytest.fixture(scope="session")
def session_of() -> Callable[[Path], onnxruntime.InferenceSession]:
    """Native onnxruntime sessions, one per model file."""
    sessions: dict[Path, onnxruntime.InferenceSession] = {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the browsers need the cores
    options.log_severity_level = 3

    def session(path: Path) -> onnxruntime.InferenceSession:
        path = Path(path)
        if path not in sessions:
            sessions[path] = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        return sessions[path]

    return session


@pytest.fixture(scope="session")
def native(session_of) -> Callable[[Any, Arrays], Arrays]:
    """``native(model, inputs)``: what native onnxruntime answers for the same model file."""

    def run(model: Any, inputs: Arrays) -> Arrays:
        session = session_of(model.path)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


@pytest.fixture
def agree(native, record_property) -> Callable[[Any, Arrays, Arrays], None]:
    """``agree(model, inputs, outputs)``: fails unless the browser's outputs agree with native onnxruntime's.

    The share of the tolerance that was used goes into the report.
    """

    def check(model: Any, inputs: Arrays, outputs: Arrays) -> None:
        __tracebackhide__ = True
        used = assert_close(outputs, native(model, inputs), model, inputs=inputs)
        for name, share in used.items():
            record_property(f"tolerance used by {name} on {model.backend}", f"{share:.2%}")

    return check


@pytest.fixture(scope="session")
def asset(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """``asset(source)``: a file that goes with a model, from the same cache and under the same lock file."""
    lock = LockFile.of(pytestconfig.rootpath)
    return lambda source: resolve_file(source, lock=lock).path
