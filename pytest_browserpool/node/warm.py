"""The short way of a warm call: from the test's thread to the page and back with as few turns of the loop as there can be.

What it needs is all there already (session, page, shapes); whatever is not, and whatever goes wrong, is the long way's
business (``Resident.run``), which loads, moves and recovers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_browserpool.browsers.interpret import interpret
from pytest_browserpool.browsers.pool import Loaded
from pytest_browserpool.browsers.post import PageError, Post
from pytest_browserpool.errors import Fault, PageHung, hide_from_traceback
from pytest_browserpool.node.resident import Reply, Resident

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_browserpool.node.node import Node
    from pytest_browserpool.node.sharded import ShardedResident

__tracebackhide__ = hide_from_traceback

LIMIT = 1 << 16
"""Bytes of the inputs: above it, the copying is far more than what this way spares, and one message may not do."""

Inputs = Mapping[str, "NDArray[Any]"]


class _TakenError(Exception):
    """Between the look from the test's thread and the turn of the loop something else took the page."""


def run(node: Node, resident: Resident | ShardedResident, inputs: Inputs) -> Reply:
    """One call of a model, the short way where that can be.

    Raises:
        BrowserPoolError: as ``Resident.run``.
    """
    loaded = _ready(resident, inputs)
    if loaded is None or not isinstance(resident, Resident):
        return _long_way(node, resident, inputs)
    started = time.perf_counter()
    post = loaded.page.run_of(loaded.session, inputs)
    try:
        node.soon(_post, loaded, post)
        reply = post.result(resident.needs.timeout)
    except _TakenError:
        return _long_way(node, resident, inputs)
    except TimeoutError:
        return _recovered(
            node, resident, loaded, inputs, loaded.page.channel.silent("run", resident.needs.timeout)
        )
    except PageError as error:
        meaning = interpret(error.text, where=loaded.session.where)
        if not isinstance(meaning, Fault):
            raise meaning from None  # its text is in the message
        return _recovered(node, resident, loaded, inputs, meaning)
    except Fault as fault:
        return _recovered(node, resident, loaded, inputs, fault)
    except BaseException:  # Ctrl-C, or a time limit of the test's: the page may still be at it
        node.start(lambda: _clear(resident, loaded, _given_up(loaded)))
        raise
    latency = (time.perf_counter() - started) * 1000
    resident.use.timings.append(latency)
    if not resident.recovery.breakers.pristine(resident.use.browser):
        node.soon(resident.recovery.answered, resident.use.browser, time.monotonic() - latency / 1000)
    return Reply(reply.tensors, latency, float(reply.values["run_ms"]), warm=True)


def _ready(resident: Resident | ShardedResident, inputs: Inputs) -> Loaded | None:
    """The session, where it has run before with such inputs, and nothing but running is to be done for the call."""
    if not isinstance(resident, Resident) or resident.standby is not None or resident.loaded is None:
        return None
    loaded = resident.loaded
    fixed = loaded.session.key.shapes
    if not loaded.session.runs or (fixed and any(inputs[name].shape != dims for name, dims in fixed)):
        return None
    size = 0
    for array in inputs.values():  # a generator would take twice as long, at each call
        size += array.nbytes
    return loaded if size <= LIMIT else None


def _post(loaded: Loaded, post: Post) -> None:
    """In the loop. The page's own queue keeps the order; what waits in ours (a load, say) has no deadline of this call."""
    page = loaded.page
    if page.lost is not None or page.busy or loaded.session.key not in page.sessions:
        post.set_exception(_TakenError())
        return
    page.send_run(post)
    # while the page works, none of this costs the call anything
    session, instance = loaded.session, loaded.instance
    began = instance.begin()

    def landed(ok: bool) -> None:
        page.run_landed(session, ok)
        instance.end(began)
        if ok:
            instance.ran(session, began)

    post.when_landed(landed)


def _long_way(node: Node, resident: Resident | ShardedResident, inputs: Inputs) -> Reply:
    reply: Reply = node.call(lambda: resident.run(inputs), node.budget(resident))
    return reply


def _recovered(node: Node, resident: Resident, loaded: Loaded, inputs: Inputs, fault: Fault) -> Reply:
    """The call after a fault: the long way finds the page lost, and does what the test's recovery says."""

    async def again() -> Reply:
        if loaded.page.came_back(fault):
            loaded.instance.health.faulted(fault.kind)
            return await resident.run(inputs, first=fault)
        await _clear(resident, loaded, fault)
        return await resident.run(inputs)

    reply: Reply = node.call(again, node.budget(resident))
    return reply


def _given_up(loaded: Loaded) -> PageHung:
    return PageHung(f"page {loaded.page.channel.page_id}: its command was given up")


async def _clear(resident: Resident, loaded: Loaded, fault: Fault) -> None:
    """The page is lost, and closed; its browser too where it answers no more."""

    async def failed() -> None:
        await asyncio.sleep(0)
        raise fault

    loaded.page.lose(fault)
    with contextlib.suppress(Fault):
        await resident.pool.command(loaded, failed())
