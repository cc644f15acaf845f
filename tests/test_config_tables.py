"""``[tool.browserpool]`` of pyproject.toml: what nobody would read, or what is of another type, is refused and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_browserpool.config import custom_browsers
from pytest_browserpool.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('flags = "--headless=new"', "flags is '--headless=new'"),
        ('prefs = "x"', "prefs is 'x'"),
        ("environment = 3", "environment is 3"),
        ("executable = 5", "executable is 5"),
        ('familly = "chrome"', "did you mean 'family'?"),
        ('endpoint = "ftp://x"', "endpoint is 'ftp://x'"),
        ('prefs = {"a" = [1]}', "prefs has a = [1]"),
        ('prefs = {"a" = 0.5}', "prefs has a = 0.5"),
        ('environment = {"A=B" = "1"}', "environment has 'A=B' = '1'"),
        ('environment = {"A" = "x\\u0000y"}', "environment has 'A' = 'x\\x00y'"),
    ],
)
def test_a_wrong_value_of_a_browser_is_named(tmp_path: Path, text: str, words: str) -> None:
    table = f'[tool.browserpool.browsers.mine]\nfamily = "chrome"\nchannel = "chrome"\n{text}\n'
    (tmp_path / "pyproject.toml").write_text(table)
    with pytest.raises(ConfigurationError) as caught:
        custom_browsers(tmp_path)
    assert words in str(caught.value)
    assert "[tool.browserpool.browsers.mine]" in str(caught.value)


@pytest.mark.parametrize("name", ["a,b", " a", ""])
def test_a_name_that_no_list_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    table = f'[tool.browserpool.browsers."{name}"]\nfamily = "chrome"\nchannel = "chrome"\n'
    (tmp_path / "pyproject.toml").write_text(table)
    with pytest.raises(ConfigurationError, match=f"{name!r} is no name"):
        custom_browsers(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[tool.browserpool.browser.mine]\nfamily = "chrome"', "did you mean 'browsers'?"),
        ("[tool.browserpool]\nmax_browsers = 2", "has 'max_browsers'"),
        ("[tool]\nbrowserpool = 3", "has '3'"),
        ('[tool.browserpool]\nbrowsers = "chrome"', "has browsers = 'chrome'"),
        ("[tool.browserpool\n", "no TOML"),
    ],
)
def test_what_nobody_would_read_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        custom_browsers(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path / "pyproject.toml") in str(caught.value)
