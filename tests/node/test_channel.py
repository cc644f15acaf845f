"""A page's channel over a real server and real sockets; the page's end is played by a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSCloseCode, web
from waiting import until

from pytest_browserpool.browsers import channel as channel_module
from pytest_browserpool.browsers.channel import EXPLANATION_SECONDS, GOING_AWAY_SECONDS, PageChannel
from pytest_browserpool.browsers.kinds import WHOLE
from pytest_browserpool.browsers.page import RuntimePage
from pytest_browserpool.browsers.post import Post, begun
from pytest_browserpool.browsers.protocol import decode, encode
from pytest_browserpool.browsers.serve import Server
from pytest_browserpool.errors import BrowserCrashed, ConnectionLost, PageCrashed, PageHung

Dial = Callable[[], Awaitable[aiohttp.ClientWebSocketResponse]]


def with_page(tmp_path: Path, play: Callable[[PageChannel, Dial], Awaitable[Any]]) -> Any:
    """Runs ``play`` with a channel and a way to dial it as a page does; a dialled page answers ``echo`` at once."""

    async def main() -> Any:
        channel = PageChannel("1", lambda event: None)

        async def on_socket(page: str, connection: web.WebSocketResponse) -> None:
            await channel.attach(connection)

        server = Server(tmp_path, on_socket, "of-the-runtime")
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
        if header["op"] in ("echo", "ping"):
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


def test_a_page_that_goes_away_is_no_cut_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "GOING_AWAY_SECONDS", 1.2)

    async def play(channel: PageChannel, dial: Dial) -> None:
        first = await dial()
        await channel.ready(10)
        under_way = asyncio.create_task(channel.call("never answered", {}, timeout=20))
        await asyncio.sleep(0.1)
        await first.close(code=WSCloseCode.GOING_AWAY)
        with pytest.raises(PageCrashed, match=r"closed \(code 1001\)"):
            await under_way
        with pytest.raises(PageCrashed):
            await echo(channel, 1)

    with_page(tmp_path, play)


def test_the_death_of_a_browser_that_goes_away_slowly_explains_what_was_under_way(tmp_path: Path) -> None:
    async def play(channel: PageChannel, dial: Dial) -> None:
        first = await dial()
        await channel.ready(10)
        under_way = asyncio.create_task(channel.call("never answered", {}, timeout=20))
        await asyncio.sleep(0.1)
        await first.close(code=WSCloseCode.GOING_AWAY)
        later = EXPLANATION_SECONDS + 0.5
        asyncio.get_running_loop().call_later(later, channel.fail, BrowserCrashed("its process is gone"))
        with pytest.raises(BrowserCrashed):
            await echo(channel, 1)
        with pytest.raises(BrowserCrashed):
            await under_way

    with_page(tmp_path, play)


def test_a_page_that_we_close_is_not_waited_for(tmp_path: Path) -> None:
    async def play(channel: PageChannel, dial: Dial) -> None:
        first = await dial()
        await channel.ready(10)
        page = RuntimePage(channel, WHOLE, lambda name, path: name)
        began = time.monotonic()
        await page.close()
        await first.close(code=WSCloseCode.GOING_AWAY)
        with pytest.raises(PageCrashed):
            await channel.call("ping", timeout=20)
        assert time.monotonic() - began < GOING_AWAY_SECONDS

    with_page(tmp_path, play)


def test_a_post_is_answered_for_the_thread_that_waits_for_it(tmp_path: Path) -> None:
    async def play(channel: PageChannel, dial: Dial) -> None:
        loop = asyncio.get_running_loop()
        await dial()
        await channel.ready(10)

        def ask(value: int) -> Any:
            post = Post(channel.number(), "echo", {"value": value}, {})
            loop.call_soon_threadsafe(channel.post, post)
            return post.result(10).values["value"]

        assert [await asyncio.to_thread(ask, n) for n in range(3)] == [0, 1, 2]
        answers = await asyncio.gather(*(asyncio.to_thread(ask, n) for n in range(20)))
        assert answers == list(range(20))

    with_page(tmp_path, play)


def test_posts_to_a_page_that_does_not_read_all_arrive_once_it_does(tmp_path: Path) -> None:
    """More than the sockets' buffers hold: sending stops on the way, and goes on in a task."""

    async def play(channel: PageChannel, dial: Dial) -> None:
        socket = await dial()
        await channel.ready(10)
        connection = socket._conn
        assert connection is not None
        transport = connection.transport
        assert transport is not None
        transport.pause_reading()
        load = "x" * (1 << 20)
        posts = [Post(channel.number(), "echo", {"n": n, "load": load}, {}) for n in range(24)]
        landed: list[bool] = []
        for post in posts:
            channel.post(post)
            post.when_landed(landed.append)
        assert channel._posts, "nothing had to wait, so nothing was tried"
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(posts[-1].result, 0.05)
        transport.resume_reading()
        for number, post in enumerate(posts):
            assert (await asyncio.to_thread(post.result, 20)).values["n"] == number
        assert landed == [True] * 24

    with_page(tmp_path, play)


def test_a_post_ends_with_the_reason_that_its_page_is_gone(tmp_path: Path) -> None:
    async def play(channel: PageChannel, dial: Dial) -> None:
        first = await dial()
        await channel.ready(10)
        under_way = Post(channel.number(), "never answered", {}, {})
        channel.post(under_way)
        channel.fail(BrowserCrashed("its process is gone"))
        later = Post(channel.number(), "echo", {}, {})
        channel.post(later)
        landed: list[bool] = []
        later.when_landed(landed.append)
        assert landed == [False], "what could not be sent has ended before anybody could ask to be told"
        for post in (under_way, later):
            with pytest.raises(BrowserCrashed):
                await asyncio.to_thread(post.result, 10)
        await first.close()

    with_page(tmp_path, play)


def test_a_post_into_a_closed_connection_gets_the_better_reason_too(tmp_path: Path) -> None:
    async def play(channel: PageChannel, dial: Dial) -> None:
        first = await dial()
        await channel.ready(10)
        await first.close()
        asyncio.get_running_loop().call_later(0.2, channel.fail, BrowserCrashed("its process is gone"))
        post = Post(channel.number(), "echo", {}, {})
        channel.post(post)
        with pytest.raises(BrowserCrashed):
            await asyncio.to_thread(post.result, 10)

    with_page(tmp_path, play)


def test_a_page_that_has_just_answered_is_not_asked_and_later_it_is(tmp_path: Path) -> None:
    async def play(channel: PageChannel, dial: Dial) -> None:
        socket = await dial()
        await channel.ready(10)
        page = RuntimePage(channel, WHOLE, lambda name, path: name)
        assert await page.ping(10)
        asked = channel.calls
        page._answered = time.monotonic()  # however long this machine has taken since
        assert await page.ping(10)
        assert channel.calls == asked
        await asyncio.to_thread(until, lambda: not page.fresh, "it counts as just asked for ever")
        assert await page.ping(10)
        assert channel.calls == asked + 1
        await asyncio.to_thread(until, lambda: not page.fresh, "it counts as just asked for ever")
        connection = socket._conn
        assert connection is not None
        transport = connection.transport
        assert transport is not None
        transport.pause_reading()  # as a page that hangs: its socket stays
        assert not await page.ping(0.3)
        assert isinstance(page.lost, PageHung)

    with_page(tmp_path, play)


def test_two_posts_that_wait_for_the_same_room_both_arrive() -> None:
    """What waits for room in the connection is one future, and the second message finds it taken by the first."""

    async def main() -> list[int]:
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        arrived: list[int] = []

        async def send(number: int) -> None:
            await room
            arrived.append(number)

        left = [begun(send(number)) for number in (1, 2)]
        waiting = [asyncio.create_task(work) for work in left if work is not None]
        await asyncio.sleep(0)
        room.set_result(None)
        await asyncio.gather(*waiting)
        return arrived

    assert asyncio.run(main()) == [1, 2]
