"""The view of a run as HTML: a section for pytest-html's page, or a page of its own. Everything is
escaped by the template.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING

from pytest_browserpool.report.view import FAILED, RunView, duration, milliseconds

if TYPE_CHECKING:
    from jinja2 import Environment


@functools.cache
def _environment() -> Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("pytest_browserpool.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
    )


def style(name: str) -> str:
    """A style sheet of the package."""
    return resources.files("pytest_browserpool.report").joinpath("static", name).read_text(encoding="utf-8")


def clock(seconds: float) -> str:
    """A time on the axis: ``2.5 s``, ``1:30``, ``1:02:00``."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _render(template: str, view: RunView, anchor: Callable[[str], str], css: str) -> str:
    return (
        _environment()
        .get_template(template)
        .render(
            view=view,
            failed=FAILED,
            anchor=anchor,
            duration=duration,
            ms=milliseconds,
            clock=clock,
            started_at=view.started_at,
            css=css,
        )
    )


def section(view: RunView) -> str:
    """The run section with its styles, for pytest-html. Bars point to the rows of pytest-html's table.

    pytest-html makes a row's id of the text between ``<td>`` and ``</td>``, which ``HtmlReport`` has escaped.
    """
    css = style("report.css") + style("pytest_html.css")
    return f"<style>\n{css}</style>\n" + _render("run.html.jinja", view, html.escape, "")


def page(view: RunView) -> str:
    """A whole page with a table of the tests: one file, no script, no network."""
    return _render("page.html.jinja", view, str, style("report.css"))
