"""States that stay in the page: what the command does, below the sessions that use it."""

from __future__ import annotations

import asyncio

import numpy as np
import onnx_models as make
import pytest

from pytest_browserpool.browsers.protocol import StateUse
from pytest_browserpool.errors import BrowserPoolError

RNG = np.random.default_rng(3)


def use(step, **more):
    return StateUse("cache", step, feed={"past": "kv"}, keep={"present": "kv"}, **more)


def test_only_what_is_no_state_travels_and_a_checkpoint_goes_into_another_page(bench, kind):
    loaded = bench.load(make.growing(), kind)._resident.loaded
    page, session = loaded.page, loaded.session
    rows = RNG.standard_normal((4, 1, 8)).astype(np.float32)

    async def steps():
        await page.set_state("cache", 0, {"kv": np.zeros((0, 8), np.float32)}, timeout=10)
        replies = [
            await page.run(session, {"x": x}, timeout=10, state=use(i)) for i, x in enumerate(rows[:3])
        ]
        step, kept = await page.get_state("cache", timeout=10)
        await page.set_state("copy", step, kept, timeout=10)
        last = await page.run(session, {"x": rows[3]}, timeout=10, state=use(3))
        other = StateUse("copy", 3, feed={"past": "kv"}, keep={"present": "kv"})
        again = await page.run(session, {"x": rows[3]}, timeout=10, state=other)
        for name in ("cache", "copy"):
            await page.drop_state(name, timeout=10)
        return replies, step, kept["kv"].array(), last, again

    replies, step, kept, last, again = bench.node.call(steps, 60)
    assert [set(reply.tensors) for reply in replies] == [{"y"}] * 3
    assert step == 3
    assert kept.tobytes() == rows[:3].tobytes()
    np.testing.assert_allclose(last.tensors["y"], np.tanh(rows).sum(), rtol=1e-5)
    assert last.tensors["y"].tobytes() == again.tensors["y"].tobytes()


def test_a_run_for_another_step_is_refused_and_a_failed_one_changes_nothing(bench):
    loaded = bench.load(make.growing(), "chromium")._resident.loaded
    page, session = loaded.page, loaded.session
    x = np.ones((1, 8), np.float32)

    async def refused(text, inputs, state):
        with pytest.raises(BrowserPoolError, match=text):
            await page.run(session, inputs, timeout=10, state=state)

    async def steps():
        await refused("no state cache in this page", {"x": x}, use(0))
        await page.set_state("cache", 4, {"kv": np.ones((2, 8), np.float32)}, timeout=10)
        await refused("stands at step 4, and the run is for step 3", {"x": x}, use(3))
        await refused("shape|dimension", {"x": np.ones((1, 9), np.float32)}, use(4))
        await page.run(session, {"x": x}, timeout=10, state=use(4, next=4))
        found = await page.get_state("cache", timeout=10)
        await page.drop_state("cache", timeout=10)
        return found

    step, slots = bench.node.call(steps, 60)
    assert step == 4
    assert slots["kv"].dims == (3, 8)


def test_large_and_small_messages_at_once_come_back_as_they_were(bench, kind):
    """Large messages go in pieces; commands sent meanwhile must not end up between them."""
    page = bench.load(make.growing(), kind)._resident.loaded.page
    sent = [
        {
            "x": RNG.standard_normal(n).astype(np.float32),
            "odd": RNG.integers(0, 9, n % 7).astype(np.uint8),
            "none": np.zeros((0, 3), np.float32),  # last: nothing of it may follow the message
        }
        for n in (1_000_003, 1, 3_000_000, 5, 262_144)
    ]

    async def at_once():
        asked = (page.channel.call("echo", {}, tensors, timeout=60) for tensors in sent)
        return await asyncio.gather(*asked)

    for tensors, reply in zip(sent, bench.node.call(at_once, 60), strict=True):
        assert set(reply.tensors) == set(tensors)
        for name, array in tensors.items():
            np.testing.assert_array_equal(reply.tensors[name], array)
