"""The node's server: loopback only, nothing without the run's secret, no other host's or site's pages, no paths."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web

from pytest_browserpool.browsers.code_cache import HOST
from pytest_browserpool.browsers.serve import PAGE_DIR, Server


def serve(tmp_path: Path, client: Callable[[Server, aiohttp.ClientSession], Awaitable[Any]]) -> Any:
    (tmp_path / "ort.bundle.mjs").write_text("export default 1")
    (tmp_path / "secret.txt").write_text("not for pages")

    async def on_socket(page: str, connection: web.WebSocketResponse) -> None:
        async for message in connection:
            await connection.send_bytes(page.encode() + message.data)

    async def main() -> Any:
        server = Server(tmp_path, on_socket, "of-the-runtime")
        await server.start()
        try:
            async with asyncio.timeout(20), aiohttp.ClientSession() as session:
                return await client(server, session)
        finally:
            await server.close()

    return asyncio.run(main())


def get(tmp_path: Path, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    async def client(server: Server, session: aiohttp.ClientSession) -> Any:
        url = server.origin + path.replace("BASE/", server.base).replace("RUNTIME/", "/of-the-runtime/")
        filled = {k: v.replace("PORT", str(server.port)) for k, v in headers.items()}
        # encoded=True: the client must not tidy what an attacker would send as it is
        from yarl import URL

        async with session.get(URL(url, encoded=True), headers=filled) as response:
            return response.status, dict(response.headers), await response.read()

    return serve(tmp_path, client)


def test_a_page_and_the_runtime_are_served_isolated(tmp_path):
    status, headers, body = get(tmp_path, "BASE/page/index.html")
    assert (status, b"page.js" in body) == (200, True)
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert get(tmp_path, "RUNTIME/ort/ort.bundle.mjs")[0] == 200


def test_all_modules_of_the_page_are_fetched_at_once(tmp_path):
    """Not one after the other, as they import each other."""
    _, _, body = get(tmp_path, "BASE/page/index.html")
    asked = set(re.findall(r'rel="modulepreload" href="([^"]+)"', body.decode()))
    assert asked == {path.name for path in PAGE_DIR.glob("*.js")}


def test_the_runtime_s_secret_opens_nothing_else(tmp_path):
    """It outlives the run: who knows it from yesterday reads onnxruntime-web, and no page, no model, no socket."""
    for path in ("RUNTIME/page/index.html", "RUNTIME/file/anchor.onnx", "RUNTIME/ws"):
        assert get(tmp_path, path)[0] == 404, path
    assert get(tmp_path, "BASE/ort/ort.bundle.mjs")[0] == 404


def test_under_its_name_it_answers_the_browsers_that_map_it(tmp_path):
    """Chromium is told where that name leads; nothing else ever resolves it."""
    assert get(tmp_path, "BASE/page/index.html", Host=HOST)[0] == 200
    assert get(tmp_path, "BASE/page/index.html", Host=HOST, Origin=f"http://{HOST}")[0] == 200
    assert get(tmp_path, "BASE/page/index.html", Host=HOST, Origin=f"http://evil.{HOST}")[0] == 403
    assert get(tmp_path, "BASE/page/index.html", Host=f"evil.{HOST}")[0] == 421


@pytest.mark.parametrize("path", ["/", "/page/index.html", "/wrong/page/index.html", "/wrong/ws"])
def test_nothing_without_the_secret(tmp_path, path):
    assert get(tmp_path, path)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "RUNTIME/ort/secret.txt",
        "RUNTIME/ort/../secret.txt",
        "RUNTIME/ort/..%2fsecret.txt",
        "BASE/page/..%2f..%2f__init__.py",
        "BASE/page/%2fetc%2fpasswd",
        "BASE/file/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "BASE/file/never-offered",
    ],
)
def test_only_what_was_offered_by_name(tmp_path, path):
    assert get(tmp_path, path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1"])
def test_another_host_name_is_turned_away(tmp_path, host):
    """A name that an attacker points at 127.0.0.1 (DNS rebinding) arrives as another Host."""
    assert get(tmp_path, "BASE/page/index.html", Host=host)[0] == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1:PORT", "null", "http://127.0.0.1:1"]
)
def test_another_site_s_page_is_turned_away(tmp_path, origin):
    assert get(tmp_path, "BASE/page/index.html", Origin=origin)[0] == 403


def test_a_socket_wants_an_origin(tmp_path):
    async def client(server: Server, session: aiohttp.ClientSession) -> Any:
        url = f"{server.origin}{server.base}ws?page=7"
        refused = []
        for headers in ({}, {"Origin": "http://evil.example"}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(url, headers=headers)
            refused.append(caught.value.status)
        async with session.ws_connect(url, headers={"Origin": server.origin}) as connection:
            await connection.send_bytes(b"!")
            return refused, await connection.receive_bytes()

    assert serve(tmp_path, client) == ([403, 403], b"7!")


def test_it_listens_on_loopback_only(tmp_path):
    async def client(server: Server, session: aiohttp.ClientSession) -> Any:
        listening = [
            c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN
        ]
        return [address.ip for address in listening if address.port == server.port]

    assert serve(tmp_path, client) == ["127.0.0.1"]


def test_the_secret_differs_between_runs(tmp_path):
    async def base(server: Server, session: aiohttp.ClientSession) -> str:
        return server.base

    assert serve(tmp_path, base) != serve(tmp_path, base)


def test_a_compressed_neighbour_is_not_served_in_place_of_a_model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"the model whose hash was checked")
    (tmp_path / "model.onnx.gz").write_bytes(gzip.compress(b"the model of last year"))

    async def client(server: Server, session: aiohttp.ClientSession) -> Any:
        url = server.origin + server.offer("a" * 64, tmp_path / "model.onnx")
        found = []
        for range_ in ({}, {"Range": "bytes=4-8"}):
            async with session.get(url, headers={"Accept-Encoding": "gzip, br", **range_}) as response:
                found.append(
                    (response.status, response.headers.get("Content-Encoding"), await response.read())
                )
        return found

    whole, part = serve(tmp_path, client)
    assert whole == (200, None, b"the model whose hash was checked")
    assert part == (206, None, b"model")
