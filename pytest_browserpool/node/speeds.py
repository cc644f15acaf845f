"""How fast a browser of this machine is with a backend: measured once on a yardstick, and learned from what shards took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_browserpool.artefacts import pins
from pytest_browserpool.browsers.kinds import page_for
from pytest_browserpool.browsers.page import SessionKey
from pytest_browserpool.browsers.pool import ModelContent
from pytest_browserpool.errors import BackendRefused, RunFailed, UnsupportedOperator
from pytest_browserpool.node.cutting import MEASURED_RUNS, Seat, speed_of, yardstick

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node

MEASURE_SECONDS = 60.0
"""For loading and running the yardstick, which takes milliseconds but compiles for seconds on a software adapter."""

_speeds: dict[str, float | None] = {}
"""As this process read them: a run keeps to the cuts it began with, so that its shards stay warm."""

MOVED = 1.4
"""A speed seen is kept in place of a known one where they differ by this factor: less is the machine's noise."""


def speed(node: Node, seat: Seat, model: str, threads: int) -> float:
    """How fast the browser is with the backend that it would use and so many threads, relative to ``costs.REFERENCE``.

    On ``model`` (its hash) where earlier requests told; else on the yardstick, measured once for each version of the
    browser on this machine.

    Raises:
        Fault: the browser failed while it was measured.
    """
    general, own = _names(node, seat, seat.backends[0], model, threads)
    known = _recalled(own) or _recalled(general)
    if known is not None:
        return known
    found = _measured(node, seat, threads)
    if found is None:  # the yardstick does not run there; the model may
        return 1.0
    pins.default_cache().write_json("speeds", general, {"speed": found})
    _speeds[general] = found
    return found


def learn(node: Node, seat: Seat, backend: str, model: str, threads: int, seen: float) -> None:
    """Keeps a browser's speed on a model for later runs."""
    _, own = _names(node, seat, backend, model, threads)
    known = pins.default_cache().read_json("speeds", own).get("speed")
    if not isinstance(known, float) or not 1 / MOVED < seen / known < MOVED:
        pins.default_cache().write_json("speeds", own, {"speed": seen})


def _names(node: Node, seat: Seat, backend: str, model: str, threads: int) -> tuple[str, str]:
    browser = node.capabilities().browser(seat.browser)
    assert browser is not None
    general = f"{seat.browser}-{browser.version}-{backend}-{threads}t".replace("/", "_").replace(" ", "_")
    return general, f"{general}-{model[:16]}"


def _recalled(name: str) -> float | None:
    if name not in _speeds:
        known = pins.default_cache().read_json("speeds", name).get("speed")
        _speeds[name] = known if isinstance(known, float) and known > 0 else None
    return _speeds[name]


def _measured(node: Node, seat: Seat, threads: int) -> float | None:
    import numpy as np

    content, _ = node.resolve(yardstick()[0], None)
    key = SessionKey(content.sha256, seat.backends[0], page_for(seat.backends[0], threads))
    timeout = MEASURE_SECONDS

    pool = node.pool

    async def measure() -> list[float]:
        loaded = await pool.load(seat.browser, key, _labelled(content), timeout, seat.slot)
        try:
            inputs: Mapping[str, Any] = {"x": np.ones((1, 32, 48, 48), np.float32)}
            return await pool.benchmark(loaded, inputs, MEASURED_RUNS, timeout)
        finally:
            await pool.release(loaded)

    try:
        return speed_of(node.call(measure, timeout * 2))
    except (BackendRefused, UnsupportedOperator, RunFailed):
        return None  # what the yardstick lacks there the model may do without


def _labelled(content: ModelContent) -> ModelContent:
    return ModelContent(content.sha256, content.path, "the yardstick of browsers' speed", content.size)
