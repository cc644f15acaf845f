"""The node's own web server: model pages, onnxruntime-web, model files and one WebSocket per page.

It listens on loopback only. Every path begins with a secret (that of onnxruntime-web stays from run to run), Host and Origin
are checked (a page of another site that the browser shows cannot talk to it), and it serves nothing but the files it was
told to, by name.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import WSCloseCode, web

from pytest_browserpool.browsers.code_cache import HOST
from pytest_browserpool.browsers.protocol import MAX_MESSAGE

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

PAGE_DIR = Path(__file__).parent / "page"
ISOLATION = {
    # Cross-origin isolation gives SharedArrayBuffer, so wasm threads and precise timers.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
}

SocketHandler = Callable[[str, web.WebSocketResponse], Awaitable[None]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _AsItIs(web.FileResponse):
    """The file that was offered, and no other: aiohttp would send a ``.gz`` or ``.br`` that lies beside it in its place,
    whatever that was made of."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        headers = request.headers.copy()
        headers.popall("Accept-Encoding", None)
        return await super().prepare(request.clone(headers=headers))


class Server:
    """One per node. ``on_socket(page_id, socket)`` is awaited for each page that dials in, until it returns.

    ``runtime_path``: a secret that onnxruntime-web is under, and that may stay the same for longer than one run.
    """

    def __init__(self, runtime_dir: Path, on_socket: SocketHandler, runtime_path: str) -> None:
        self._runtime = {p.name: p for p in runtime_dir.iterdir() if p.suffix in (".mjs", ".wasm")}
        self._page = {p.name: p for p in PAGE_DIR.iterdir() if p.suffix in (".html", ".js")}
        self._files: dict[str, Path] = {}
        self._on_socket = on_socket
        self._secret = secrets.token_urlsafe(24)
        self._runtime_path = runtime_path
        self._runner: web.AppRunner | None = None
        self._sockets: set[web.WebSocketResponse] = set()
        self.port = 0

    async def start(self) -> None:
        """Binds a free port of 127.0.0.1."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/{secret}/page/{name}", self._serve_page)
        app.router.add_get("/{secret}/ort/{name}", self._serve_runtime)
        app.router.add_get("/{secret}/file/{name}", self._serve_file)
        app.router.add_get("/{secret}/ws", self._serve_socket)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Closes the sockets and the port."""
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY)
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def origin(self) -> str:
        """By address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base(self) -> str:
        """The path that everything is under."""
        return f"/{self._secret}/"

    @property
    def runtime(self) -> str:
        """The path that onnxruntime-web is under."""
        return f"/{self._runtime_path}/ort/"

    def page_url(self, page_id: str, host: str | None, start: Mapping[str, Any] | None = None) -> str:
        """``host``: the name that the browser maps to this server; None: its address. ``start``: what the page begins with
        at once; None: nothing until it is asked."""
        origin = f"http://{host}" if host else self.origin
        query = urlencode(
            {"page": page_id, "base": self.base, "ort": self.runtime, **(start or {})}, safe="/"
        )
        return f"{origin}{self.base}page/index.html?{query}"

    def offer(self, name: str, path: Path) -> str:
        """Serves ``path`` as ``name`` (a content hash) from now on; returns its path on this server."""
        self._files[name] = path
        return f"{self.base}file/{name}"

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = (f"127.0.0.1:{self.port}", f"localhost:{self.port}", HOST)
        if request.headers.get("Host") not in hosts:
            raise web.HTTPMisdirectedRequest(text="unknown Host")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in {f"http://{h}" for h in hosts}:
            raise web.HTTPForbidden(text="unknown Origin")
        given = request.match_info.get("secret", "")
        expected = self._runtime_path if request.match_info.handler == self._serve_runtime else self._secret
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise web.HTTPNotFound
        response = await handler(request)
        if not response.prepared:
            response.headers.update(ISOLATION)
        return response

    async def _serve_page(self, request: web.Request) -> web.StreamResponse:
        return self._one_of(self._page, request, cache="no-store")

    async def _serve_runtime(self, request: web.Request) -> web.StreamResponse:
        # the path stands for exactly these files, so a browser may keep them and what it compiled of them
        return self._one_of(self._runtime, request, cache="public, max-age=86400, immutable")

    async def _serve_file(self, request: web.Request) -> web.StreamResponse:
        # models can be large: the page holds one in wasm memory, a second copy in the HTTP cache helps nobody
        return self._one_of(self._files, request, cache="no-store")

    def _one_of(self, files: dict[str, Path], request: web.Request, *, cache: str) -> web.FileResponse:
        path = files.get(request.match_info["name"])  # a name, never a path: nothing can be traversed
        if path is None:
            raise web.HTTPNotFound
        content_type = TYPES.get(path.suffix, "application/octet-stream")
        return _AsItIs(
            path, chunk_size=1 << 20, headers={"Content-Type": content_type, "Cache-Control": cache}
        )

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        if (
            request.headers.get("Origin") is None
        ):  # browsers always send it on a WebSocket; others are not our pages
            raise web.HTTPForbidden(text="no Origin")
        # No compression: tensors do not compress and it costs 10 x. No heartbeat here: the watchdog is the caller's deadline.
        socket = web.WebSocketResponse(compress=False, max_msg_size=MAX_MESSAGE, autoping=True)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            await self._on_socket(request.query.get("page", ""), socket)
        finally:
            self._sockets.discard(socket)
            if not socket.closed:
                await asyncio.wait_for(socket.close(), timeout=2)
        return socket
