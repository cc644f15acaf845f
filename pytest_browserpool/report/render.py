"""The view of a run as HTML: a section for pytest-html's page, or a page of its own. Everything is
escaped by the templates.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from pytest_browserpool.artefacts import charts as library
from pytest_browserpool.report.charts import chart_data
from pytest_browserpool.report.compare import Comparison, compared_data
from pytest_browserpool.report.view import FAILED, RunView
from pytest_browserpool.report.words import clock, duration, milliseconds

if TYPE_CHECKING:
    from jinja2 import Environment

SCRIPTS = (
    "base.js",
    "tables.js",
    "interact.js",
    "timeline.js",
    "series.js",
    "latency.js",
    "forecast.js",
    "compare.js",
    "start.js",
)
"""In the order in which they lean on each other."""


@functools.cache
def _environment() -> Environment:
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.PackageLoader("pytest_browserpool.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
    )
    found.globals.update(
        duration=duration, ms=milliseconds, clock=clock, failed=FAILED, anchor=anchor, picture=picture
    )
    return found


def static(name: str) -> str:
    """A style sheet or a script of the package."""
    return resources.files("pytest_browserpool.report").joinpath("static", name).read_text(encoding="utf-8")


@functools.cache
def script() -> str:
    """What draws the charts and filters and sorts the tables; leans on ``library.source``."""
    return "\n".join(static(name) for name in SCRIPTS)


def anchor(nodeid: str) -> str:
    """The id of a test's row in a page of its own."""
    return "test-" + re.sub(r"[^\w.:/-]", "_", nodeid)


def picture(content: str) -> str:
    """A PNG's base64 as the address of an image; empty where it is something else."""
    return f"data:image/png;base64,{content}" if re.fullmatch(r"iVBOR[A-Za-z0-9+/]+=*", content) else ""


def _render(template: str, css: str, **values: Any) -> str:
    drawing = library.source()
    return _environment().get_template(template).render(css=css, library=drawing, script=script(), **values)


def section(view: RunView) -> str:
    """The run section with its styles and scripts, for pytest-html's page, whose table the charts filter."""
    css = static("report.css") + static("charts.css") + static("pytest_html.css")
    return _render("section.html.jinja", css, view=view, data=chart_data(view))


def comparison(found: Comparison) -> str:
    """A whole page of two runs side by side: one file, no network."""
    css = static("report.css") + static("charts.css")
    return _render("compare.html.jinja", css, found=found, data=compared_data(found))


def page(view: RunView) -> str:
    """A whole page with a table of the tests: one file, no network."""
    css = static("report.css") + static("charts.css")
    return _render("page.html.jinja", css, view=view, data=chart_data(view))
