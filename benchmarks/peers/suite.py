"""What the runners in Python share: the cases in this round's order, the check of an answer, and the record."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIRECTORY = Path(os.environ["PEERS_SUITE"])
RECORD = os.environ["PEERS_RECORD"]
SEED = int(os.environ["PEERS_SEED"])

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One test of the suite."""

    id: str
    model: str
    type: str
    browser: str
    backend: str
    rtol: float
    atol: float
    inputs: Mapping[str, Any]
    expected: Mapping[str, Any]


def read() -> tuple[dict[str, Any], list[Case]]:
    """How to launch each browser, and the cases, shuffled with the round's seed."""
    suite = json.loads((DIRECTORY / "suite.json").read_text())
    cases = [Case(**test) for test in suite["tests"]]
    random.Random(SEED).shuffle(cases)
    return suite["browsers"], cases


def arrays(tensors: Mapping[str, Any]) -> Arrays:
    return {
        name: np.fromfile(DIRECTORY / t["file"], t["type"]).reshape(t["dims"]) for name, t in tensors.items()
    }


def check(case: Case, outputs: Arrays, placement: Mapping[str, int]) -> None:
    """The same for every runner: the backend really ran, and each output is what native onnxruntime answers."""
    assert placement.get(case.backend), f"asked for {case.backend}, placed on {placement}"
    for name, wanted in arrays(case.expected).items():
        found = outputs[name]
        assert found.dtype == wanted.dtype, f"{name} is {found.dtype}, not {wanted.dtype}"
        assert found.shape == wanted.shape, f"{name} is {found.shape}, not {wanted.shape}"
        np.testing.assert_allclose(found, wanted, rtol=case.rtol, atol=case.atol, err_msg=name)


def record(event: str, **fields: Any) -> None:
    """One line for the benchmark; lines of several processes do not mix."""
    line = json.dumps({"event": event, "at": time.time(), "pid": os.getpid(), **fields}) + "\n"
    descriptor = os.open(RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
