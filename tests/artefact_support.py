"""Helpers of several directories: a cache of the test's own, a server that keeps its requests, archives."""

from __future__ import annotations

import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_browserpool.artefacts import pins
from pytest_browserpool.artefacts.cache import ENVIRONMENT_VARIABLE, Cache

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]

OTHER_RUNTIME = pins.Pin(
    name="onnxruntime-web",
    version="1.29.0",
    sha256="7a934b7811c3b050ecfb7619722e2b4de771ce6da20520e17a2018a440316ef3",
    sha512="2ee425a57e8c14b259bbbe7a7abc1479bd6635fa0919bb359330f02463657f94"
    "6f7d831daa1718def3690cf2b8d02515d87a164e4223fae4b4a37e861478de63",
)
"""The release before the pinned one."""


def other_runtime() -> Path:
    """Another onnxruntime-web, as npm has it, in this machine's cache."""
    return pins.unpacked(pins.default_cache(), OTHER_RUNTIME, pins._unpack_runtime)


@dataclass
class LocalServer:
    """Answers by path; ``requests`` has (path, headers) of each request in order."""

    url: str
    answers: dict[str, Answer | bytes] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def tarball(path: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Path:
    """A gzipped tar of ``files`` (name → content) and symbolic ``links`` (name → target)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    return Cache(tmp_path / "cache")


@pytest.fixture
def server() -> Iterator[LocalServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            local.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            answer = local.answers.get(self.path)
            if answer is None:
                self.send_error(404)
            elif isinstance(answer, bytes):
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            else:
                answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    local = LocalServer(f"http://127.0.0.1:{httpd.server_port}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield local
    httpd.shutdown()
    httpd.server_close()
    thread.join(timeout=5)
