"""The table of options: each ``--browserpool-NAME``, its ini twin, and what their values may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option ``--browserpool-NAME`` and its ini twin ``browserpool_NAME``."""

    name: str
    help: str
    setting: str = ""
    """The field of ``Settings``; empty: the name with underscores."""
    kind: str = "str"
    """str, int, float, words (comma separated), switch (on or off) or flag (a switch that is on where it is typed)."""
    metavar: str | None = None
    cli: bool = True
    """False: only an ini value, for what hardly anybody changes."""

    @property
    def flag(self) -> str:
        return f"--browserpool-{self.name}"

    @property
    def ini(self) -> str:
        return f"browserpool_{self.name.replace('-', '_')}"

    @property
    def dest(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def field(self) -> str:
        return self.setting or self.name.replace("-", "_")


OPTIONS = (
    Option(
        name="browsers",
        help="browser names or families to use, comma separated (all that a node has)",
        kind="words",
    ),
    Option(name="max-browsers", help="browsers alive at once per node (3)", kind="int", metavar="N"),
    Option(
        name="recovery",
        help="strategy after a fault: progressive, immediate, coordinated or none (progressive)",
    ),
    Option(
        name="db",
        help="the history, a DuckDB file (.browserpool/history.duckdb under rootdir)",
        metavar="PATH",
    ),
    Option(
        name="scheduler", help="on, or off for xdist's own scheduler over the same pools (on)", kind="switch"
    ),
    Option(
        name="learn",
        help="try the browsers and backends that qualify, as far as it pays, to find the fastest (off)",
        kind="flag",
    ),
    Option(
        name="shards-over",
        help="node: all shards of a model run on one node; nodes: on others too, where one cannot hold them (node)",
    ),
    Option(
        name="missing",
        help="what happens to a test that no node can run: fail or skip; one that would take a browser that "
        "--browserpool-browsers names fails all the same where that gives nothing (fail)",
    ),
    Option(
        name="redundancy",
        help="how many browsers hold a model; 2 is a hot standby (1)",
        kind="int",
        metavar="N",
    ),
    Option(name="history-copies", help="copies of the history that are kept (2)", kind="int", metavar="N"),
    Option(
        name="keep",
        help="how long runs stay in the history: 90d, 12w, 1y, or forever (forever)",
        metavar="TIME",
    ),
    Option(
        name="runtime",
        help="directory of a build of onnxruntime-web to use: another version's dist/, a patched one (the pinned one)",
        metavar="DIR",
    ),
    Option(
        name="code-cache",
        help="on: Chromium finds onnxruntime-web compiled by earlier runs; off: it starts as on a user's first visit (on)",
        kind="switch",
    ),
    Option(
        name="prometheus",
        help="write the run's figures to this file in Prometheus' text format (not written)",
        metavar="PATH",
    ),
    Option(name="otel", help="on: send the run as an OpenTelemetry trace (off)", kind="switch"),
    Option(
        name="heartbeat-timeout",
        help="seconds of silence after which a node is taken for lost and killed (30)",
        kind="float",
        cli=False,
    ),
    Option(
        name="connect-timeout",
        help="seconds until a remote node must be connected, else the run goes on without it (30)",
        kind="float",
        cli=False,
    ),
    Option(
        name="pool-cool-down",
        help="seconds before a node's pool shrinks after its size last changed (60)",
        kind="float",
        cli=False,
    ),
    Option(
        name="state-sync-interval",
        help="seconds between writes of what came to disk; into the history itself within six times that (5)",
        kind="float",
        cli=False,
    ),
)


DEFAULT_DB = ".browserpool/history.duckdb"
"""Under rootdir: the history belongs to the project, and the directory is easy to ignore."""


def converted(option: Option, value: Any) -> Any:
    """What was typed or stands in an ini file, as the option's kind.

    Raises:
        ConfigurationError: it is none.
    """
    from pytest_browserpool.errors import ConfigurationError

    text = str(value).strip()
    if option.kind == "words":
        return tuple(word.strip() for word in text.replace("\n", ",").split(",") if word.strip())
    if option.kind in ("switch", "flag"):
        if text.lower() not in ("on", "off"):
            raise ConfigurationError(
                f"{option.name} is {text!r}", where=f"{option.flag} or {option.ini}", remedy="on or off"
            )
        return text.lower() == "on"
    if option.kind in ("int", "float"):
        try:
            return int(text) if option.kind == "int" else float(text)
        except ValueError:
            where = f"{option.flag} or {option.ini}" if option.cli else option.ini
            raise ConfigurationError(
                f"{option.name} is {text!r}",
                where=where,
                remedy="give a number" if option.kind == "float" else "give a whole number",
            ) from None
    return text
