"""The static server of the peers by hand: in the worker's own process, or started by Playwright Test."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(SimpleHTTPRequestHandler):
    """The suite's directory, with the headers that a page with WebAssembly threads would want."""

    protocol_version = "HTTP/1.1"
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def server(port: int = 0) -> ThreadingHTTPServer:
    made = ThreadingHTTPServer(
        ("127.0.0.1", port), functools.partial(Handler, directory=os.environ["PEERS_SUITE"])
    )
    made.daemon_threads = True
    return made


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server of this process."""
    made = server()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()


if __name__ == "__main__":
    server(int(sys.argv[1])).serve_forever()
