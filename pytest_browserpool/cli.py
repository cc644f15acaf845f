"""``browserpool …``: the command line. Each command's module is imported when it is asked for, not before."""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

import click

from pytest_browserpool import errors

COMMANDS: dict[str, str] = {
    "analyze": "pytest_browserpool.commands.analyze:analyze",
    "apply": "pytest_browserpool.commands.apply:apply",
    "doctor": "pytest_browserpool.commands.doctor:doctor",
    "explain": "pytest_browserpool.commands.explain:command",
    "export": "pytest_browserpool.commands.export:command",
    "fetch": "pytest_browserpool.commands.fetch:fetch",
    "history": "pytest_browserpool.commands.history:command",
    "install": "pytest_browserpool.commands.install:install",
    "report": "pytest_browserpool.commands.report:command",
    "simulate": "pytest_browserpool.commands.simulate:command",
    "verify": "pytest_browserpool.commands.verify:command",
}
"""Command → ``module:attribute`` of its ``click.Command``."""


class _Refused(click.ClickException):
    """One of our errors as click shows it: on standard error, without a traceback."""


class _Misused(_Refused):
    exit_code = 2


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command (or the list of all) is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.BrowserPoolError as error:
            shown = (
                _Misused if isinstance(error, (errors.ConfigurationError, errors.MarkerError)) else _Refused
            )
            raise shown(str(error)) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pytest-browserpool", prog_name="browserpool")
def cli() -> None:
    """Pools of real browsers for tests of in-browser AI models.

    Exit status: 0 it worked, 1 something that was asked for is missing or failed, 2 wrong usage.

    \b
    Examples:
      browserpool install         # browsers and onnxruntime-web
      browserpool doctor          # what this machine really has
      pytest --browserpool -n auto
    """


def main() -> None:
    """Entry point of the ``browserpool`` program. What a narrow encoding cannot show is a question mark, and no failure."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    cli(prog_name="browserpool")


if __name__ == "__main__":
    main()
