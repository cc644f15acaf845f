"""Writes what the documentation takes from the code: docs/reference.md, and the layers in docs/architecture.md.

``python scripts/generate_reference.py``; with ``--check`` it only compares.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from environment_variables import ENVIRONMENT
from from_code import (
    default_of,
    docstring,
    field_docs,
    members,
    prose,
    prose_of_help,
    shown,
    signature,
    table,
)

import pytest_browserpool
from pytest_browserpool import cli, config, errors, fixtures, hookspecs, keywords, values
from pytest_browserpool import options as option_table
from pytest_browserpool.browsers import catalogue
from pytest_browserpool.models import inspect as model_inspect
from pytest_browserpool.node.session import ModelSession

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"

HEAD = """# Reference

Made from the code by `scripts/generate_reference.py`; a test compares them.
"""


def options() -> Iterator[str]:
    yield "## Options\n"
    yield (
        "Each option has an ini twin, for `pytest.ini`, `tox.ini` or `[tool.pytest.ini_options]` of `pyproject.toml`. "
        "What is given on the command line wins. One without `--` is for the ini file only.\n"
    )
    docs = field_docs(config.Settings)
    fields = {field.name: field for field in dataclasses.fields(config.Settings)}
    rows = [["`--browserpool`<br>`browserpool`", "off", f"Run tests of models on browser pools. {OFF}"]]
    for option in option_table.OPTIONS:
        flag = f"`{option.flag}{'=' + option.metavar if option.metavar else ''}`<br>" if option.cli else ""
        default = option_table.DEFAULT_DB if option.name == "db" else default_of(fields[option.field])
        what, why = option.help.rsplit(" (", 1)[0], DB if option.name == "db" else docs[option.field]
        rows.append([f"{flag}`{option.ini}`", shown(default), f"{what[0].upper()}{what[1:]}. *{why}*"])
    yield from table(["option, ini value", "default", "what it does, *and why that default*"], rows)
    yield "Values that no option changes:\n"
    told = {option.field for option in option_table.OPTIONS} | {"rootdir", "db", "custom", "own_runtime"}
    fixed = [name for name in fields if name not in told]
    rows = [[f"`{name}`", shown(default_of(fields[name])), docs[name]] for name in fixed]
    yield from table(["setting", "value", "why"], rows)


OFF = "Without it nothing happens: tests that ask for the fixtures are skipped."
DB = "Under rootdir: the history belongs to the project, and the directory is easy to ignore."


def accepted(keyword: str) -> str:
    """What the keyword's own validator tells somebody who gets it wrong."""
    try:
        keywords.normalise(keyword, object(), where="", words=keywords.Words())
    except errors.MarkerError as error:
        text = error.remedy or ""
    if keyword == "browsers":
        return "a name or family, or a list of them: " + ", ".join(f"`{n}`" for n in keywords.Words().allowed)
    if keyword == "backends":
        names = (*values.BACKENDS, *values.BACKEND_ALIASES)
        return "a backend, or a list of them: " + ", ".join(f"`{name}`" for name in names)
    return text.removeprefix("give ")


def marker() -> Iterator[str]:
    yield "## Marker\n"
    yield "`@pytest.mark.model(source=None, *, …)`: the model that a test runs in a browser, and what it needs.\n"
    yield (
        "`source` is a path, `pypi:…`, `npm:…`, `hf:…`, `https://…`, bytes, an `onnx.ModelProto` or a function that "
        "returns one of those; see [where models come from](sources.md). Markers on function, class and module merge, "
        "the nearest wins; see [under pytest](xdist.md#markers).\n"
    )
    docs = field_docs(values.ModelNeeds)
    fields = {field.name: field for field in dataclasses.fields(values.ModelNeeds)}
    rows = [
        [f"`{name}`", accepted(name), shown(default_of(fields[name])), docs.get(name, "")]
        for name in keywords.KEYWORDS
    ]
    yield from table(["keyword", "takes", "default", "meaning"], rows)
    aliases = ", ".join(f"`{alias}` means `{name}`" for alias, name in values.BACKEND_ALIASES.items())
    yield f"Backends: {', '.join(f'`{name}`' for name in values.BACKENDS)}; {aliases}.\n"


def custom_browsers() -> Iterator[str]:
    yield "## Browsers of your own\n"
    yield "Keys of `[tool.browserpool.browsers.NAME]` in `pyproject.toml`; see [browsers](browsers.md#your-own).\n"
    docs = field_docs(config.CustomBrowser)
    rows = [
        [f"`{f.name}`", docs.get(f.name, "")]
        for f in dataclasses.fields(config.CustomBrowser)
        if f.name != "name"
    ]
    yield from table(["key", "meaning"], rows)
    names = ", ".join(f"`{name}`" for name in catalogue.NAMES)
    yield f"Built-in names: {names}.\n"


def fixture_chapter() -> Iterator[str]:
    yield "## Fixtures\n"
    for name, cls in (("model", fixtures.Model), ("browser_pool", fixtures.BrowserPool)):
        yield f"### {name}\n"
        yield f"{fixture_doc(name)}\n"
        yield f"{prose(inspect.getdoc(cls))}\n"
        yield from handle(name, cls)
        if cls is fixtures.Model:
            yield "With `shards=` above 1 it is more ([sharded models](sharding.md)):\n"
            yield f"{prose(inspect.getdoc(fixtures.ShardedModel))}\n"
            yield from handle(name, fixtures.ShardedModel)
            yield from fields_of("A shard", fixtures.Shard)
            state = "[state in the browser](recovery.md#state-that-stays-in-the-browser)"
            yield f"`model.session(…)` gives a session ({state}):\n"
            yield f"{prose(inspect.getdoc(ModelSession))}\n"
            yield from handle("session", ModelSession)
    yield (
        "A leased page has the methods of Playwright's Page, Locator, Frame, Keyboard and Mouse, synchronous: they "
        "return when they are done. `with page.expect_…() as info:` works as in Playwright's synchronous API.\n"
    )
    yield from fields_of("A browser", fixtures.Browser)
    yield from fields_of("An input or output", model_inspect.Tensor)


def handle(name: str, cls: type) -> Iterator[str]:
    """The table of a handle's attributes and methods."""
    rows = [[f"`{name if written.startswith('(') else ''}{written}`", text] for written, text in members(cls)]
    yield from table(["", ""], rows)


def fields_of(title: str, cls: type[Any]) -> Iterator[str]:
    docs = field_docs(cls)
    yield f"{title} has\n"
    for field in dataclasses.fields(cls):
        yield f"- `{field.name}`{': ' + docs[field.name] if field.name in docs else ''}"
    yield ""


def fixture_doc(name: str) -> str:
    """The fixture's own docstring, from the source: pytest wraps fixture functions."""
    tree = ast.parse(inspect.getsource(fixtures))
    found = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    return prose(ast.get_docstring(found))


def functions() -> Iterator[str]:
    yield "## Functions\n"
    yield "`from pytest_browserpool import assert_close, tolerance`\n"
    for name in pytest_browserpool.__all__:
        value = getattr(pytest_browserpool, name)
        if inspect.isfunction(value):
            yield f"### {name}\n"
            yield f"```python\ndef {name}{signature(value)}: ...\n```\n"
            yield docstring(value) + "\n"
    yield "How tolerances come about: [comparing with a reference](comparing.md).\n"


def hooks() -> Iterator[str]:
    yield "## Hooks\n"
    yield "In a `conftest.py` of the root directory or in a plugin.\n"
    for name, value in vars(hookspecs).items():
        if name.startswith("pytest_browserpool_"):
            yield f"### {name}\n"
            yield f"```python\ndef {name}{inspect.signature(value)}: ...\n```\n".replace("'", "")
            yield docstring(value) + "\n"


def commands() -> Iterator[str]:
    yield "## Commands\n"
    yield prose_of_help(cli.cli)
    yield (
        'For completion in bash add `eval "$(_BROWSERPOOL_COMPLETE=bash_source browserpool)"` to `~/.bashrc`; '
        "`zsh_source` and `fish_source` are there too.\n"
    )
    for name in cli.cli.list_commands(click.Context(cli.cli)):
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        yield from command_chapter(f"browserpool {name}", command, 3)


def command_chapter(path: str, command: click.Command, level: int) -> Iterator[str]:
    parameters = [p for p in command.params if isinstance(p, click.Argument)]
    subcommands = command.commands if isinstance(command, click.Group) else {}
    usage = " ".join([path, "[OPTIONS]", *(a.make_metavar(click.Context(command)) for a in parameters)])
    yield f"{'#' * level} {path}\n"
    yield f"```\n{usage}{' [COMMAND]' if subcommands else ''}\n```\n"
    yield prose_of_help(command)
    rows = []
    for option in (p for p in command.params if isinstance(p, click.Option)):
        takes = "" if option.is_flag else f" {option.make_metavar(click.Context(command))}"
        default = (
            f" Default: `{option.default}`." if option.show_default and option.default is not None else ""
        )
        rows.append([f"`{', '.join(option.opts)}{takes}`", f"{option.help or ''}{default}"])
    if rows:
        yield from table(["option", ""], rows)
    for name, subcommand in subcommands.items():
        yield from command_chapter(f"{path} {name}", subcommand, level + 1)


def error_tree() -> Iterator[str]:
    yield "## Errors\n"
    yield (
        "All are in `pytest_browserpool.errors`. Each has `what` (with the value that broke), `where` and `remedy`; "
        "its text is the three of them.\n"
    )
    tree = (errors.__doc__ or "").split("::\n", 1)[1].rsplit("\n\n", 1)[0]
    yield f"```text\n{textwrap.dedent(tree).strip()}\n```\n"
    rows = [
        [
            f"`{name}`",
            f"`{cls.kind}`" if issubclass(cls, errors.Fault) and cls is not errors.Fault else "",
            prose(cls.__doc__),
        ]
        for name, cls in error_classes(errors)
    ]
    yield from table(["error", "kind in the history", ""], rows)


def error_classes(module: ModuleType) -> list[tuple[str, type[errors.BrowserPoolError]]]:
    return [
        (n, c)
        for n, c in vars(module).items()
        if isinstance(c, type) and issubclass(c, errors.BrowserPoolError)
    ]


def environment() -> Iterator[str]:
    yield "## Environment variables\n"
    yield from table(["variable", "meaning"], [[f"`{name}`", text] for name, text in ENVIRONMENT.items()])
    yield (
        "`pip`, `npm` and Playwright are called as they are: what their own variables and files say about indexes, "
        "registries and proxies holds.\n"
    )


CHAPTERS = (
    options,
    marker,
    fixture_chapter,
    functions,
    commands,
    custom_browsers,
    hooks,
    error_tree,
    environment,
)


def reference() -> str:
    """The whole page."""
    parts = [HEAD, *(line for chapter in CHAPTERS for line in chapter())]
    return "\n".join(parts).rstrip() + "\n"


def architecture() -> str:
    """docs/architecture.md with the layers of ``.importlinter`` between its two comments."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter", encoding="utf-8")
    layers = contracts["importlinter:contract:layers"]["layers"].strip()
    begin, end = "<!-- layers -->\n", "<!-- end of layers -->"
    before, rest = ARCHITECTURE.read_text(encoding="utf-8").split(begin, 1)
    return f"{before}{begin}\n```text\n{layers}\n```\n\n{end}{rest.split(end, 1)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write what the documentation takes from the code.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    only_check = parser.parse_args().check
    stale = 0
    for page, text in ((PAGE, reference()), (ARCHITECTURE, architecture())):
        if page.exists() and page.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if only_check:
            print(f"{page.relative_to(ROOT)} is out of date: run  make reference", file=sys.stderr)
        else:
            page.write_text(text, encoding="utf-8")
    return 1 if only_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
