"""Each test a model of its own, 1 MB, in either of two browsers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from weights import WIDTH, weights

from pytest_browserpool.fixtures import Model

DIRECTORY = Path(os.environ["LOAD_DIRECTORY"])
BROWSERS = ("chromium", "firefox")


def case(number: int) -> object:
    path = str(DIRECTORY / f"{number}.onnx")
    return pytest.param(
        number, marks=pytest.mark.model(path, browsers=[BROWSERS[number % 2]], backends=["wasm"])
    )


@pytest.mark.parametrize("number", [case(number) for number in range(int(os.environ["LOAD_TESTS"]))])
def test_it_multiplies(model: Model, number: int) -> None:
    x = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]
    np.testing.assert_allclose(model({"x": x})["y"], x @ weights(number), rtol=1e-3, atol=1e-3)
