"""A page's channel over a real server and real sockets; the page's end is played by a client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pytest_browserpool.browsers.channel import PageChannel
from pytest_browserpool.browsers.page import WHOLE, RuntimePage
from pytest_browserpool.browsers.protocol import decode, encode
from pytest_browserpool.browsers.serve import Server
from pytest_browserpool.errors import BrowserCrashed, ConnectionLost

Dial = Callable[[], Awaitable[aiohttp.ClientWebSocketResponse]]


def with_page(tmp_path: Path, play: Callable[[PageChannel, Dial], Awaitable[Any]]) -> Any:
    """Runs ``play`` with a channel and a way to dial it as a page does; a dialled page answers ``echo`` at once."""

    async def main() -> Any:
        channel = PageChannel("1", lambda event: None)

        async def on_socket(page: str, connection: web.WebSocketResponse) -> None:
            await channel.attach(connection)

        server = Server(tmp_path, on_socket)
        await server.start()
        answering: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(30), aiohttp.ClientSession() as session:

                async def dial() -> aiohttp.ClientWebSocketResponse:
                    url = f"{server.origin}{server.base}ws?page=1"
                    socket = await session.ws_connect(url, origin=server.origin)
                    await socket.send_bytes(encode({"event": {"kind": "hello"}}, {}))
                    answering.append(asyncio.create_task(answer(socket)))
                    return socket

                return await play(channel, dial)
        finally:
            for task in answering:
                task.cancel()
            await server.close()

    return asyncio.run(main())


async def answer(socket: aiohttp.ClientWebSocketResponse) -> None:
    async for message in socket:
        header, _ = decode(message.data)
        if header["op"] == "echo":
            await socket.send_bytes(encode({"id": header["id"], "ok": True, "values": header["args"]}, {}))


def cut(socket: aiohttp.ClientWebSocketResponse) -> None:
    connection = socket._conn  # type: ignore[attr-defined]
    assert connection is not None
    connection.transport.abort()


async def echo(channel: PageChannel, value: int) -> Any:
    return (await channel.call("echo", {"value": value}, timeout=10)).values["value"]


def test_what_was_under_way_is_lost_with_its_connection_and_the_next_one_goes_on(tmp_path: Path) -> None:
    async def play(channel: PageChannel, dial: Dial) -> None:
        first = await dial()
        await channel.ready(10)
        assert await echo(channel, 1) == 1
        page = RuntimePage(channel, WHOLE, lambda name, path: name)
        under_way = asyncio.create_task(page.call("never answered", {}, timeout=20, where="here"))
        await asyncio.sleep(0.1)
        cut(first)
        await dial()
        with pytest.raises(ConnectionLost, match="the page has dialled again") as raised:
            await under_way
        assert channel.connected
        assert page.came_back(raised.value)
        assert page.lost is None
        assert await echo(channel, 2) == 2

    with_page(tmp_path, play)


def test_a_page_that_does_not_dial_again_is_lost(tmp_path: Path) -> None:
    async def play(channel: PageChannel, dial: Dial) -> None:
        first = await dial()
        await channel.ready(10)
        page = RuntimePage(channel, WHOLE, lambda name, path: name)
        under_way = asyncio.create_task(page.call("never answered", {}, timeout=20, where="here"))
        await asyncio.sleep(0.1)
        cut(first)
        with pytest.raises(ConnectionLost, match="closed"):
            await under_way
        assert not channel.connected
        assert isinstance(page.lost, ConnectionLost)

    with_page(tmp_path, play)


def test_a_death_that_is_told_a_moment_later_explains_a_call_into_a_closed_connection(tmp_path: Path) -> None:
    async def play(channel: PageChannel, dial: Dial) -> None:
        first = await dial()
        await channel.ready(10)
        await first.close()
        asyncio.get_running_loop().call_later(0.2, channel.fail, BrowserCrashed("its process is gone"))
        with pytest.raises(BrowserCrashed):
            await echo(channel, 1)

    with_page(tmp_path, play)
