"""Peers 5 and 6: this project. What a test needs is in its marker; the rest is the pool's and the scheduler's."""

from __future__ import annotations

import time

import pytest
from suite import DIRECTORY, Case, arrays, check, read, record

from pytest_browserpool.fixtures import Model

_, CASES = read()


def needs(case: Case) -> pytest.MarkDecorator:
    return pytest.mark.model(
        str(DIRECTORY / "models" / case.model),
        type=case.type,
        browsers=[case.browser],
        backends=[case.backend],
        timeout=120,
    )


@pytest.mark.parametrize("case", [pytest.param(c, marks=needs(c)) for c in CASES], ids=lambda case: case.id)
def test_it_agrees(case: Case, model: Model) -> None:
    inputs = arrays(case.inputs)
    started = time.perf_counter()
    outputs = model(inputs)
    record("call", ms=(time.perf_counter() - started) * 1000, page_ms=model._node.last_page_ms)
    assert model.browser is not None
    assert model.browser.name == case.browser
    check(case, outputs, model.placement)
