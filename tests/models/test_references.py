"""Sources in words: what is understood, what is refused and with which help."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_support import scaling

from pytest_browserpool.errors import SourceError
from pytest_browserpool.models.references import Reference, describe, parse

HASH = "ab" * 32


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("models/vad.onnx", Reference("path", "models/vad.onnx", "models/vad.onnx")),
        ("/abs/m.onnx", Reference("path", "/abs/m.onnx", "/abs/m.onnx")),
        ("C:/m.onnx", Reference("path", "C:/m.onnx", "C:/m.onnx")),
        ("./pypi:odd/m.onnx", Reference("path", "./pypi:odd/m.onnx", "./pypi:odd/m.onnx")),
        (
            "pypi:silero-vad==6.2.3/silero_vad/m.onnx",
            Reference(
                "pypi",
                "pypi:silero-vad==6.2.3/silero_vad/m.onnx",
                "silero_vad/m.onnx",
                None,
                "silero-vad",
                "6.2.3",
            ),
        ),
        (
            "npm:@ricky0123/vad-web@0.0.22/dist/m.onnx",
            Reference(
                "npm",
                "npm:@ricky0123/vad-web@0.0.22/dist/m.onnx",
                "dist/m.onnx",
                None,
                "@ricky0123/vad-web",
                "0.0.22",
            ),
        ),
        (
            "hf:onnx-community/x@refs%2Fpr%2F1/onnx/m.onnx",
            Reference(
                "hf",
                "hf:onnx-community/x@refs%2Fpr%2F1/onnx/m.onnx",
                "onnx/m.onnx",
                None,
                "onnx-community/x",
                "refs%2Fpr%2F1",
            ),
        ),
        ("hf:o/r/m.onnx", Reference("hf", "hf:o/r/m.onnx", "m.onnx", None, "o/r", None)),
        (
            "https://example.com/m.onnx?x=1",
            Reference("https", "https://example.com/m.onnx?x=1", "https://example.com/m.onnx?x=1"),
        ),
    ],
)
def test_each_form(source: str, expected: Reference) -> None:
    assert parse(source) == expected
    assert parse(f"{source}#sha256={HASH.upper()}").sha256 == HASH
    assert parse(f"{source}#sha256={HASH}").key == expected.key


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "empty"),
        ("pypy:x==1/m.onnx", "did you mean 'pypi'"),
        ("s3://bucket/m.onnx", "unknown kind of source 's3:'"),
        ("http://example.com/m.onnx", "is not https"),
        ("https://a..example/m.onnx", "is no address"),
        (f"https://{'a' * 64}.example/m.onnx", "is no address"),
        ("pypi:x/m.onnx", "pypi:NAME==VERSION/path/in/wheel"),
        ("pypi:x>=1/m.onnx", "pypi:NAME==VERSION/path/in/wheel"),
        ("pypi:-r==1/m.onnx", "pypi:NAME==VERSION/path/in/wheel"),
        ("pypi:x==1", "pypi:NAME==VERSION/path/in/wheel"),
        ("npm:x@latest/m.onnx", "npm:NAME@1.2.3/path/in/package"),
        ("npm:x@^1.2.3/m.onnx", "npm:NAME@1.2.3/path/in/package"),
        ("npm:../evil@1.0.0/m.onnx", "npm:NAME@1.2.3/path/in/package"),
        ("hf:owner/m.onnx", "hf:OWNER/REPO[@REVISION]/path"),
        ("hf:o/r/../../x", "'../../x'"),
        ("pypi:x==1/../m.onnx", "'../m.onnx'"),
        ("m.onnx#sha256=abc", "has 3 digits"),
        ("m.onnx#sha256=", "has 0 digits"),
        ("m.onnx#sha256=xyz", "'xyz' is not a SHA-256, which is 64 hexadecimal digits: 'x' is none"),
        (f"m.onnx#sha256={HASH}?x=1", "64 hexadecimal digits: '?' is none"),
        (f"m.onnx#sha256={HASH}0", "has 65 digits"),
        (f"m.onnx#sha256={HASH[:-1]}g", "'g' is none"),
        ("pypi:x==1/m.onnx#sha256=YWJj/w==", "'YWJj/w==' is not a SHA-256"),
        (f"https://example.com/m.onnx#SHA256={HASH}", "'#SHA256=' is no pin"),
        ("https://example.com/m.onnx#sha256-YWJj", "'#sha256-' is no pin"),
        (f"hf:o/r/m.onnx#sha512={HASH}{HASH}", "'#sha512=' is no pin"),
        (f"https://example.com/m.onnx#sha256={HASH}#sha256={HASH}", "'#sha256=' is no pin"),
        ("https://example.com/m.onnx#sha256=sha256:ab", "where: https://example.com/m.onnx#sha256=sha256:ab"),
    ],
)
def test_what_is_refused_names_the_value_and_a_remedy(source: str, said: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse(source)
    assert said in str(caught.value)
    assert "remedy" in str(caught.value)


def test_a_scheme_may_be_written_large_and_a_path_may_have_a_colon() -> None:
    assert parse("HTTPS://example.com/M.onnx") == parse("https://example.com/M.onnx")
    assert parse("PyPI:x==1/m.onnx") == parse("pypi:x==1/m.onnx")
    assert parse("Model:v2.onnx").scheme == "path"


@pytest.mark.parametrize("login", ["user:s3cret@", "s3cret@", ":s3cret@", "a:s3cret@b@"])
def test_an_address_with_a_password_is_refused_without_saying_it(login: str) -> None:
    source = f"https://{login}example.com/m.onnx"
    with pytest.raises(SourceError, match=r"'https://\*\*\*@example.com/m.onnx' was given with") as caught:
        parse(source)
    assert "s3cret" not in str(caught.value)
    assert describe(source) == "https://***@example.com/m.onnx"
    assert describe("https://example.com/a@b.onnx") == "https://example.com/a@b.onnx"
    assert parse("https://example.com/a@b.onnx").path == "https://example.com/a@b.onnx"


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_as_a_source_error(text: str) -> None:
    try:
        reference = parse(text)
    except SourceError:
        return
    assert reference.scheme in ("path", "pypi", "npm", "hf", "https")
    if reference.scheme in ("pypi", "npm", "hf"):
        assert ".." not in reference.path.split("/")


def test_labels_are_stable_and_tell_sources_apart() -> None:
    def make(count: int = 0) -> Callable[[], bytes]:
        def inner() -> bytes:
            return b"x" * count

        return inner

    first = lambda: b"1"  # noqa: E731
    second = lambda: b"2"  # noqa: E731
    proto, other = scaling(2.0), scaling(3.0)
    labels = [describe(s) for s in (b"a", b"b", proto, other, make, first, second)]
    labels += [describe(make(1)), describe(make(2)), describe(Path("m.onnx"))]
    assert len(set(labels)) == len(labels)
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    assert describe(copy) == describe(proto)
    assert "scaling" in describe(proto)
    assert describe(make(1)) == describe(make(1))
    assert describe("  m.onnx ") == "m.onnx" == describe(Path("m.onnx"))


def test_partial_functions_are_told_apart_by_their_arguments() -> None:
    small, large = functools.partial(scaling, 2.0), functools.partial(scaling, factor=3.0)
    assert describe(small) == "function:model_support.scaling(2.0)"
    assert describe(large) == "function:model_support.scaling(factor=3.0)"


@pytest.mark.parametrize("source", [None, 3, ["m.onnx"], {"path": "m.onnx"}])
def test_what_is_no_source_is_refused(source: object) -> None:
    with pytest.raises(SourceError, match="cannot be"):
        describe(source)
