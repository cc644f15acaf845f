"""A marker's ``source`` in words: taken apart, and labelled. Pure: no file is read, nothing fetched."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import string
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_browserpool.artefacts import archive, fetch
from pytest_browserpool.config import did_you_mean
from pytest_browserpool.errors import SourceError

MOST_SAID = 60
"""Letters of an argument in a function's name: enough to know it again, and a name stays one line."""

SCHEMES = ("pypi", "npm", "hf", "https", "http")

_HASH_MARK = "#sha256="
_HASH = re.compile(r"[0-9A-Fa-f]{64}")
_SCHEME = re.compile(r"([a-z][a-z0-9+]+):")
_KNOWN_SCHEME = re.compile(f"({'|'.join(SCHEMES)}):", re.IGNORECASE)
_HASH_LIKE = re.compile(r"(?i)#(sha-?\d+|md5|blake\w+)\W")
"""What an address has no other use for: a fragment is never sent, and a pin that nobody reads pins nothing."""
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_LOGIN = re.compile(r"(?i)^(https?://)[^/?#]*@")
_PYPI = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9.+!_]+)/(?P<path>.+)"
)
_NPM = re.compile(
    r"(?P<name>(?:@[a-z0-9_~][a-z0-9._~-]*/)?[a-z0-9_~][a-z0-9._~-]*)"
    r"@(?P<version>\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?)/(?P<path>.+)"
)
_HF = re.compile(
    r"(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<repository>[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[^/@\s]+))?/(?P<path>.+)"
)
_FORMS = {
    "pypi": (_PYPI, "pypi:NAME==VERSION/path/in/wheel"),
    "npm": (_NPM, "npm:NAME@1.2.3/path/in/package"),
    "hf": (_HF, "hf:OWNER/REPO[@REVISION]/path"),
}


@dataclass(frozen=True)
class Reference:
    """A source in words, parsed."""

    scheme: str
    """path, pypi, npm, hf or https."""
    key: str
    """The source without its hash."""
    path: str
    """Inside the wheel, package or repository; the whole path or address otherwise."""
    sha256: str | None = None
    name: str = ""
    """Package, or OWNER/REPO."""
    version: str | None = None
    """Of the package, or the revision."""

    @property
    def remote(self) -> bool:
        return self.scheme != "path"

    @property
    def pinned_key(self) -> str:
        """The source with its hash: what the lock file calls it."""
        return self.key if self.sha256 is None else f"{self.key}{_HASH_MARK}{self.sha256}"


def parse(source: str) -> Reference:
    """Take a source apart; no I/O.

    Raises:
        SourceError: an unknown scheme, a form that is not one of ours, or a malformed hash.
    """
    key, sha256 = _split_hash(_with_small_scheme(source.strip()))
    if not key:
        raise SourceError("the source is empty", remedy="give a path, pypi:, npm:, hf: or https: source")
    if _LOGIN.match(key):
        raise SourceError(
            f"{_without_login(key)!r} was given with a name or a password in it",
            remedy="sources are written into the lock file, the history and reports: fetch this one yourself, "
            "in a function or a fixture, and give its path or bytes",
        )
    scheme = _SCHEME.match(key)
    if scheme is None or len(scheme[1]) == 1:
        return Reference("path", key, key, sha256)
    word, rest = scheme[1], key[scheme.end() :]
    if found := _HASH_LIKE.search(key):
        raise SourceError(
            f"{found[0]!r} is no pin",
            where=source,
            remedy=f"write {_HASH_MARK}HEX, in small letters and once, with all 64 hexadecimal digits",
        )
    if word in ("https", "http"):
        if not fetch.is_address(key):
            raise SourceError(f"{key!r} is no address", remedy="write https://HOST[:PORT]/path")
        if not fetch.allowed(key):
            raise SourceError(f"{key!r} is not https", remedy="use https; plain http works on 127.0.0.1 only")
        return Reference("https", key, key, sha256)
    if word not in _FORMS:
        raise SourceError(
            f"unknown kind of source {word + ':'!r}{did_you_mean(word, SCHEMES)}",
            where=source,
            remedy="one of pypi:, npm:, hf:, https:, or a path (./ before it if it holds a colon)",
        )
    form, written = _FORMS[word]
    found = form.fullmatch(rest)
    if found is None:
        raise SourceError(
            f"{key!r} does not have the form {written}", remedy=f"write {written}, with an exact version"
        )
    parts = found.groupdict()
    name = parts.get("name") or f"{parts['owner']}/{parts['repository']}"
    version = parts.get("version") or parts.get("revision")
    return Reference(word, key, archive.safe_name(parts["path"]), sha256, name, version)


def _with_small_scheme(source: str) -> str:
    """As everywhere, ``HTTPS:`` is ``https:``; a path with a colon stays as it is."""
    found = _KNOWN_SCHEME.match(source)
    return found[0].lower() + source[found.end() :] if found else source


def _without_login(address: str) -> str:
    return _LOGIN.sub(r"\1***@", address)


def _split_hash(source: str) -> tuple[str, str | None]:
    key, mark, written = source.rpartition(_HASH_MARK)
    if not mark:
        return source, None
    if not _HASH.fullmatch(written):
        odd = next((c for c in written if c not in string.hexdigits), None)
        trouble = f"{odd!r} is none" if odd is not None else f"it has {len(written)} digits"
        raise SourceError(
            f"{written!r} is not a SHA-256, which is 64 hexadecimal digits: {trouble}",
            where=source,
            remedy=f"write all 64 after {_HASH_MARK}, as sha256sum prints them, or leave it out; "
            "give pathlib.Path(…) where the file is called so",
        )
    return key, written.lower()


def describe(source: Any) -> str:
    """A stable label of any source, without I/O: the same in every process of a run.

    A reference in words is itself; bytes and protos are called by their content, functions by their name.

    Raises:
        SourceError: something that is no source.
    """
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        return in_words(path if isinstance(path, str) else os.fsdecode(path))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"bytes:{hashlib.sha256(source).hexdigest()[:16]}"
    if is_proto(source):
        name = source.graph.name or "model"
        return f"onnx:{name}:{hashlib.sha256(serialised(source)).hexdigest()[:16]}"
    if callable(source):
        return f"function:{function_name(source)}"
    raise no_source(source)


def in_words(source: str) -> str:
    """A source in words as other processes, reports and the history may hold it: in UTF-8, which a file's name need not be,
    and without a password."""
    return _without_login(source.strip().encode("utf-8", "backslashreplace").decode())


def function_name(function: Callable[..., Any]) -> str:
    """Module and name, with what tells it from others that share them; never an address, which no other process has."""
    if isinstance(function, functools.partial):
        arguments = [_said(a) for a in function.args]
        arguments += [f"{k}={_said(v)}" for k, v in sorted(function.keywords.items())]
        return f"{function_name(function.func)}({', '.join(arguments)})"
    name = getattr(function, "__qualname__", type(function).__qualname__)
    told = f"{getattr(function, '__module__', '')}.{name}"
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        return f"{told} of {_said(owner)}"
    code = getattr(function, "__code__", None)
    if code is None or "<" not in name:
        return told
    told += f":{code.co_firstlineno}"
    if name.endswith("<lambda>"):  # several may stand in a line
        told += next((f":{column}" for _, _, column, _ in code.co_positions() if column), "")
    # inner functions share their place too: those made in a loop, not what they closed over or have as defaults
    given = [c.cell_contents for c in getattr(function, "__closure__", None) or () if _has_content(c)]
    given += getattr(function, "__defaults__", None) or ()
    given += (getattr(function, "__kwdefaults__", None) or {}).values()
    scalars = [_said(v) for v in given if isinstance(v, (str, int, float, bytes, os.PathLike))]
    return told + (f"[{', '.join(scalars)}]" if scalars else "")


def _said(value: Any) -> str:
    text = _ADDRESS.sub("", repr(value))
    if len(text) <= MOST_SAID:
        return text
    return f"{text[:MOST_SAID]}…{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _has_content(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is bound later
        return False


def no_source(source: Any) -> SourceError:
    """The error for something that is no source."""
    return SourceError(
        f"a source cannot be {type(source).__name__} ({source!r:.80})",
        remedy="give a path, a pypi:, npm:, hf: or https: source, bytes, an onnx.ModelProto, or a function",
    )


def is_proto(source: Any) -> bool:
    """Whether ``source`` is an ``onnx.ModelProto``."""
    # by name, so that onnx is not imported for sources that are none
    return type(source).__name__ == "ModelProto" and hasattr(source, "SerializeToString")


def serialised(proto: Any) -> bytes:
    """The proto as a file holds it, the same bytes each time."""
    return bytes(proto.SerializeToString(deterministic=True))
