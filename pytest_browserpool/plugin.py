"""The pytest11 entry point: options, hookspecs and registration. Wiring only, and light while the plugin is off."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.fixtures import getfixturemarker  # no public name tells a fixture from a function

from pytest_browserpool.options import DEFAULT_DB, OPTIONS, converted

if TYPE_CHECKING:
    from pytest_browserpool.config import Settings
    from pytest_browserpool.controller import Controller
    from pytest_browserpool.keywords import Words

MARKER_LINE = (
    "model(source=None, *, type, id, browsers, backends, on, min_memory, priority, timeout, recovery, "
    "fallback, shards, sharding, shard_backends, fault_tolerance, expected_duration, concurrency_key, input_shapes, "
    "session_options): the AI model that this test runs in a browser, and what it needs (pytest-browserpool)"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("browserpool", "test AI models in pools of real browsers")
    group.addoption(
        "--browserpool", action="store_true", default=None, help="run tests of models on browser pools"
    )
    parser.addini("browserpool", "true: as if --browserpool were always given", type="bool", default=False)
    for option in OPTIONS:
        if option.cli and option.kind == "flag":
            group.addoption(
                option.flag,
                default=None,
                action="store_const",
                const="on",
                dest=option.dest,
                help=option.help,
            )
        elif option.cli:
            group.addoption(option.flag, default=None, metavar=option.metavar, help=option.help)
        parser.addini(option.ini, option.help)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_browserpool import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def is_active(config: pytest.Config) -> bool:
    """Whether ``--browserpool`` or its ini twin turned the plugin on; a worker does what its controller
    does."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        return "browserpool" in workerinput
    return bool(config.getoption("browserpool") or config.getini("browserpool"))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before pytest-html decides on the form of its report: one file, with pictures and styles in it."""
    if is_active(config):
        from pytest_browserpool.report.install import prefer_one_file

        prefer_one_file(config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER_LINE)
    if not is_active(config):
        from pytest_browserpool import fixtures_inert

        register_fixtures(config, fixtures_inert)
        return
    _activate(config)


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """While off: one line where tests were skipped for it, because pytest shows reasons only with ``-rs``."""
    if is_active(config):
        return
    from pytest_browserpool.fixtures_inert import HINT

    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(isinstance(r.longrepr, tuple) and r.longrepr[2].endswith(HINT) for r in skipped)
    if count and not config.option.verbose < 0:
        terminalreporter.write_line(f"{count} skipped: {HINT}", yellow=True)


def _activate(config: pytest.Config) -> None:
    from pytest_browserpool.errors import ConfigurationError

    try:
        if hasattr(config, "workerinput"):
            _activate_worker(config)
        else:
            _activate_controller(config)
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from error


def _activate_worker(config: pytest.Config) -> None:
    from pytest_browserpool import hooked, markers, worker
    from pytest_browserpool.link import WorkerLink

    link = WorkerLink.from_input(config.workerinput["browserpool"], rootdir=config.rootpath)  # type: ignore[attr-defined]
    link.settings = hooked.with_browsers(config, link.settings)
    config.stash[markers.WORDS_KEY] = link.words
    side = worker.NodeSide(config, link.settings, link.node, link.send)
    config.pluginmanager.register(side, worker.PLUGIN)
    link.listen(side.on_directive, side.on_end)
    if config.workerinput["browserpool"]["elsewhere"]:  # type: ignore[attr-defined]
        side.ask_the_controller()
    side.find_runtime()
    side.start_beating()
    _register_tests_side(config)


def _activate_controller(config: pytest.Config) -> None:
    from pytest_browserpool import controller, markers, worker

    settings = read_settings(config)
    words = read_words(settings)
    config.stash[markers.WORDS_KEY] = words
    distributed = is_distributed(config)
    hub = controller.Controller(config, settings, words, distributed=distributed)
    config.pluginmanager.register(hub, controller.PLUGIN)
    _register_reports(config, hub)
    if not distributed:
        node = worker.NodeSide(config, settings, "main", hub.hearing.from_here)
        config.pluginmanager.register(node, worker.PLUGIN)
        node.start_beating()
        _register_tests_side(config)


def _register_reports(config: pytest.Config, hub: Controller) -> None:
    """The HTML report's columns and run section, the terminal's section, crashed tests shown once."""
    from pytest_browserpool.report.install import install

    writer = hub.ledger.writer
    history = Path(hub.settings.db)
    settings = hub.settings

    def advice() -> str | None:
        from pytest_browserpool import findings

        return findings.advice(history)

    install(
        config,
        rows=writer.seen.rows,
        warnings=lambda: writer.warnings,
        history=history,
        advice=advice,
        prometheus=Path(settings.prometheus) if settings.prometheus else None,
        otel=settings.otel,
    )


def _register_tests_side(config: pytest.Config) -> None:
    """What collects and runs tests: the marker's hooks and the real fixtures."""
    from pytest_browserpool import fixtures, markers

    config.pluginmanager.register(markers, "browserpool-markers")
    register_fixtures(config, fixtures)


def register_fixtures(config: pytest.Config, module: ModuleType) -> None:
    """Register the fixtures of ``module``, but for those that another plugin defines under the same name.

    Between plugins pytest takes the fixture of the one that was registered last, and that would be ours. A
    user's
    ``model`` from ``pytest_plugins`` or ``-p`` is to win; those of conftest files and test modules do anyway.
    """
    ours = set(_fixture_names(module))
    taken = {
        name
        for plugin in config.pluginmanager.get_plugins()
        if isinstance(plugin, ModuleType)
        and not (getattr(plugin, "__file__", None) or "").endswith("conftest.py")
        for name in _fixture_names(plugin)
        if name in ours
    }
    if taken:
        shared, module = module, ModuleType(module.__name__, module.__doc__)
        module.__dict__.update({key: value for key, value in vars(shared).items() if key not in taken})
    config.pluginmanager.register(module, "browserpool-fixtures")


def _fixture_names(module: ModuleType) -> list[str]:
    markers = ((key, getfixturemarker(value)) for key, value in list(vars(module).items()))
    return [marker.name or key for key, marker in markers if marker is not None]


def is_distributed(config: pytest.Config) -> bool:
    """Whether xdist will run the tests on nodes. ``--tx`` alone is enough with us: xdist ignores it
    without ``--dist``."""
    option = config.option
    if not config.pluginmanager.hasplugin("xdist") or option.collectonly:
        return False
    if getattr(option, "tx", None) and option.dist == "no":
        option.dist = "load"
    return bool(getattr(option, "tx", None)) and option.dist != "no"


def _refuse_apart(config: pytest.Config, option: str, place: Path) -> None:
    """pytest reads its ini file before it knows our options, and takes a path that stands apart from its option, once there
    is such a file, for one of tests: it then looks for rootdir and ini file there, in nodes that start later too.

    Raises:
        ConfigurationError: such a path leads out of the directory of the call.
    """
    from pytest_browserpool.errors import ConfigurationError

    cwd = config.invocation_params.dir
    if option in config.invocation_params.args and not (cwd / place).resolve().is_relative_to(cwd.resolve()):
        raise ConfigurationError(
            f"{option} {place} leads out of the directory of the call, and pytest would look for its ini file there",
            where=option,
            remedy=f"write {option}={place}, which pytest leaves to us",
        )


# -- settings ------------------------------------------------------------------------------------------------


def read_settings(config: pytest.Config) -> Settings:
    """The options and ini values as validated settings, with the browsers that the user defines.

    Raises:
        ConfigurationError: names the option, its value and what would be right.
    """
    from pytest_browserpool import hooked
    from pytest_browserpool.config import Settings, custom_browsers
    from pytest_browserpool.errors import ConfigurationError
    from pytest_browserpool.recovery import strategies

    root = config.rootpath
    given: dict[str, Any] = {"db": DEFAULT_DB}
    for option in OPTIONS:
        told = config.getoption(option.dest, None) if option.cli else None
        value = told if told is not None else config.getini(option.ini)
        if value not in (None, ""):
            given[option.field] = converted(option, value)
    # what is typed is meant from where it is typed, what is in a file from where the project is
    for path in ("db", "runtime", "prometheus"):
        typed = config.getoption(f"browserpool_{path}", None) is not None
        if path in given:
            place = Path(given[path]).expanduser()
            if typed:
                _refuse_apart(config, f"--browserpool-{path}", place)
            given[path] = str((config.invocation_params.dir if typed else root) / place)
    if Path(given["db"]).is_dir():
        raise ConfigurationError(
            f"the history {given['db']} is a directory",
            where="--browserpool-db or browserpool_db",
            remedy="name a file in it, such as history.duckdb",
        )
    known = tuple(strategies.known(config.hook.pytest_browserpool_recovery_strategies()))
    given |= _applied(Path(given["db"]), given)
    settings = Settings(rootdir=str(root), custom=custom_browsers(root), strategies=known, **given)
    return hooked.with_runtime(config, hooked.with_browsers(config, settings))


def _applied(db: Path, given: dict[str, Any]) -> dict[str, Any]:
    """What ``browserpool apply`` set, but for what was given otherwise."""
    from pytest_browserpool import applied

    changes = applied.read(applied.path_of(db))
    if "max_browsers" in given:
        changes = tuple(change for change in changes if change.max_browsers is None)
    sizes = [change.max_browsers for change in changes if change.max_browsers is not None]
    return {"applied": changes} | ({"max_browsers": sizes[-1]} if sizes else {})


@pytest.hookimpl
def pytest_report_header(config: pytest.Config) -> list[str] | None:
    """A line for each thing about this run that its command does not say."""
    hub = config.pluginmanager.getplugin("browserpool-controller")
    if hub is None:
        return None
    from pytest_browserpool.applied import header

    own = hub.settings.own_runtime
    lines = [header(hub.settings)] if hub.settings.applied else []
    return lines + ([f"browserpool: onnxruntime-web {own.label} from {own.directory}"] if own else [])


def read_words(settings: Settings) -> Words:
    """The browser words of this run: what this machine has, what the user defined, what the user chose.

    Raises:
        ConfigurationError: ``--browserpool-browsers`` names a browser that is in no catalogue.
    """
    from pytest_browserpool.browsers import catalogue
    from pytest_browserpool.config import did_you_mean
    from pytest_browserpool.errors import ConfigurationError
    from pytest_browserpool.keywords import Words

    installed = {browser.name: browser.family for browser in catalogue.discover(settings).installed}
    words = Words(
        installed=installed,
        custom=tuple(browser.name for browser in settings.custom),
        chosen=settings.browsers,
        strategies=settings.strategies,
    )
    for name in settings.browsers:
        if name not in words.allowed:
            raise ConfigurationError(
                f"browser {name!r} is unknown{did_you_mean(name, words.allowed)}",
                where="--browserpool-browsers or browserpool_browsers",
                remedy=f"one of {', '.join(words.allowed)}, or define it in [tool.browserpool.browsers]",
            )
    return words
