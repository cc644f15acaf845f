"""Errors of a leased page are shown where the test made the call, not somewhere inside Playwright."""

from __future__ import annotations

import asyncio
import traceback

import pytest
from playwright.async_api import Error

from pytest_browserpool.errors import DeadlineExceeded
from pytest_browserpool.node.facade import Bridge


@pytest.mark.parametrize(
    ("error", "inside"), [(Error("no such node"), False), (DeadlineExceeded("60 s are over"), True)]
)
def test_playwrights_errors_come_without_the_way_through_its_inside(error: Exception, inside: bool) -> None:
    """Errors of other kinds keep their frames: there the way matters."""

    async def deep() -> None:
        raise error

    bridge = Bridge(lambda what, function: asyncio.run(function()), loop_thread=0)  # type: ignore[arg-type]
    with pytest.raises(type(error)) as caught:
        bridge.run("Page.click()", deep)
    bridge.close()
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert ("deep" in names) == inside
    assert names[0] == "test_playwrights_errors_come_without_the_way_through_its_inside"
