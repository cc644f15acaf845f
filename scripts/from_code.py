"""Docstrings, fields and signatures of the code, as the Markdown of a reference."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from typing import Any

import click


def field_docs(cls: type) -> dict[str, str]:
    """Field → the string that stands below it in the class body, on one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
    docs: dict[str, str] = {}
    for node, below in itertools.pairwise(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[node.target.id] = prose(str(below.value.value))
    return docs


def prose(text: str | None) -> str:
    """A docstring as Markdown on one line: reStructuredText's double backticks become single ones."""
    text = " ".join((text or "").split()).replace("``", "`")
    for role in (":class:", ":func:", ":meth:"):
        text = text.replace(role, "")
    return text


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(cell(text) for text in row) + " |"
    yield ""


def shown(value: Any) -> str:
    """A default as a reader would write it."""
    if value is True or value is False:
        return "on" if value else "off"
    if value is None or value in ((), ""):
        return "–"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def default_of(field: dataclasses.Field[Any]) -> Any:
    return None if field.default is dataclasses.MISSING else field.default


def members(cls: type) -> Iterator[tuple[str, str]]:
    """(how it is written, its first paragraph) of each public attribute and method, as in the source."""
    for name, value in vars(cls).items():
        if name.startswith("_") and name != "__call__":
            continue
        if isinstance(value, property):
            yield name, prose(inspect.getdoc(value))
        elif inspect.isfunction(value):
            written = signature(value)
            yield (written if name == "__call__" else f"{name}{written}"), prose(inspect.getdoc(value))


def signature(function: Any) -> str:
    """Parameters without annotations and ``self``: the docstring says what they are."""
    found = inspect.signature(function)
    plain = [p.replace(annotation=p.empty) for name, p in found.parameters.items() if name != "self"]
    return str(found.replace(parameters=plain, return_annotation=found.empty))


def docstring(value: Any) -> str:
    """A docstring of several paragraphs as Markdown, its sections (Raises, Args …) as lists."""
    out = []
    for block in (inspect.getdoc(value) or "").split("\n\n"):
        head, _, rest = block.partition("\n")
        if head in ("Raises:", "Args:", "Returns:"):
            items = [" ".join(item.split()) for item in entries(rest)]
            out.append(f"{head}\n\n" + "\n".join(f"- {prose(item)}" for item in items))
        else:
            out.append(prose(block))
    return "\n\n".join(out)


def entries(text: str) -> list[str]:
    """The entries of a docstring's section; a deeper line continues the one above."""
    found: list[str] = []
    for line in textwrap.dedent(text).splitlines():
        if line.startswith(" ") and found:
            found[-1] += " " + line
        else:
            found.append(line)
    return found


def prose_of_help(command: click.Command) -> str:
    r"""A command's help: paragraphs as prose, what follows ``\b`` (examples) as code."""
    out = []
    for block in inspect.cleandoc(command.help or "").split("\n\n"):
        if block.startswith("\b\n"):
            title, _, lines = block.removeprefix("\b\n").partition("\n")
            out.append(f"{title}\n\n```\n{textwrap.dedent(lines)}\n```")
        else:
            out.append(prose(block))
    return "\n\n".join(out) + "\n"
