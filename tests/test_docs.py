"""The documentation is complete, up to date, without dead links, and what it shows runs."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from pytest_browserpool import cli, config, errors, fixtures, hookspecs, keywords, options, plugin, values
from pytest_browserpool.config import custom_browsers

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
WRITTEN = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "example_suite/README.md"))]
REFERENCE = (DOCS / "reference.md").read_text(encoding="utf-8")
"""Read once: the tests look at what is committed, not at what would be generated."""


def blocks(path: Path, language: str) -> Iterator[str]:
    """The fenced code of ``path`` in ``language``."""
    yield from re.findall(
        rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module("generate_reference")


class TestReference:
    def test_it_is_what_the_code_says(self, generator: ModuleType) -> None:
        assert generator.reference() == REFERENCE, "run  make reference"

    def test_the_layers_shown_are_those_that_are_held(self, generator: ModuleType) -> None:
        assert generator.architecture() == (DOCS / "architecture.md").read_text("utf-8"), (
            "run  make reference"
        )

    @pytest.mark.parametrize("option", options.OPTIONS, ids=lambda option: option.name)
    def test_every_option_has_its_ini_twin_and_a_reason(self, option: options.Option) -> None:
        row = next(line for line in REFERENCE.splitlines() if f"`{option.ini}` |" in line)
        assert row.startswith(f"| `{option.flag}") == option.cli
        _, _, default, meaning, _ = row.split("|")
        assert default.strip()
        assert re.search(r"\w\. \*.*\w.*\*$", meaning.strip()), (
            f"{option.name}: no reason below its field in config.Settings"
        )

    def test_every_option_that_pytest_lists_is_in_the_table(self) -> None:
        """As ``pytest --help`` lists them, so that one that is registered elsewhere is seen too."""
        command = [sys.executable, "-m", "pytest", "--help", "-p", "no:cacheprovider"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        listed = set(re.findall(r"--browserpool[\w-]*", done.stdout))
        listed |= set(re.findall(r"^ +(browserpool\w*) \(", done.stdout, re.MULTILINE))
        assert len(listed) > 2
        assert [name for name in listed if f"`{name}" not in REFERENCE] == []

    @pytest.mark.parametrize("setting", [f.name for f in dataclasses.fields(config.Settings)])
    def test_every_setting_is_an_option_or_a_value_with_its_reason(self, setting: str) -> None:
        by_option = {option.field for option in options.OPTIONS}
        assert setting in by_option | {"rootdir", "custom", "own_runtime"} or f"| `{setting}` |" in REFERENCE

    @pytest.mark.parametrize("keyword", keywords.KEYWORDS)
    def test_every_marker_keyword_says_what_it_takes_and_means(self, keyword: str) -> None:
        row = next(line for line in REFERENCE.splitlines() if line.startswith(f"| `{keyword}` |"))
        _, name, takes, default, meaning, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", row))
        assert name
        assert takes
        assert default
        assert len(meaning) > 20, f"{keyword}: {meaning!r}; say it below the field in values.ModelNeeds"

    def test_the_validated_keywords_are_those_of_the_needs_and_of_the_marker_line(self) -> None:
        fields = {field.name for field in dataclasses.fields(values.ModelNeeds)}
        assert set(keywords.KEYWORDS) == fields - {"source"}
        for keyword in keywords.KEYWORDS:
            assert keyword in plugin.MARKER_LINE

    @pytest.mark.parametrize("cls", [fixtures.Model, fixtures.ShardedModel, fixtures.BrowserPool])
    def test_every_attribute_and_method_of_the_fixtures_is_described(self, cls: type) -> None:
        own = [name for name in vars(cls) if not name.startswith("_")]
        for name in own:
            value = vars(cls)[name]
            assert getattr(value, "__doc__", None) or isinstance(value, str), (
                f"{cls.__name__}.{name} has no docstring"
            )
            assert f"`{name}" in REFERENCE

    def test_both_fixtures_are_described(self, generator: ModuleType) -> None:
        tree = ast.parse(Path(fixtures.__file__).read_text(encoding="utf-8"))
        defined = [
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
            and any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list)
        ]
        assert defined == ["model", "browser_pool"]
        for name in defined:
            assert f"\n### {name}\n" in REFERENCE
            assert generator.fixture_doc(name)

    @pytest.mark.parametrize("hook", [name for name in vars(hookspecs) if name.startswith("pytest_")])
    def test_every_hook_is_described_and_called(self, hook: str) -> None:
        assert f"\n### {hook}\n" in REFERENCE
        assert getattr(hookspecs, hook).__doc__
        callers = [
            p for p in Path(plugin.__file__).parent.rglob("*.py") if f"hook.{hook}(" in p.read_text("utf-8")
        ]
        assert callers, f"nothing calls {hook}"

    def test_every_command_and_its_options_are_described_with_an_example(self) -> None:
        context = click.Context(cli.cli)
        for name in cli.cli.list_commands(context):
            command = cli.cli.get_command(context, name)
            assert command is not None
            assert "Example" in (command.help or ""), f"browserpool {name} --help has no example"
            for path, each in walk(f"browserpool {name}", command):
                assert re.search(rf"^#+ {path}$", REFERENCE, re.MULTILINE), path
                for parameter in each.params:
                    if isinstance(parameter, click.Option):
                        assert parameter.help, f"{path} {parameter.opts[0]} has no help"

    def test_every_error_is_in_the_tree_and_in_the_table(self) -> None:
        tree = errors.__doc__ or ""
        defined = [
            (name, cls)
            for name, cls in vars(errors).items()
            if isinstance(cls, type) and issubclass(cls, errors.BrowserPoolError)
        ]
        for name, cls in defined:
            assert re.search(rf"\b{name}\b", tree), f"{name} is not in the tree of errors.py"
            assert f"| `{name}` |" in REFERENCE
            assert cls.__doc__
        drawn = {word for line in tree.splitlines() for word in re.findall(r"[├└]── (\w+)", line)}
        assert drawn == {name for name, _ in defined} - {"BrowserPoolError"}

    def test_every_environment_variable_that_is_looked_up_is_described(self, generator: ModuleType) -> None:
        variables = importlib.import_module("environment_variables")
        assert variables.variables_in_code() == set(variables.ENVIRONMENT)


def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(f"{path} {name}", below)


# -- links -------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as both GitHub and MkDocs make them for plain words."""
    heads = re.findall(r"^#+ (.+)$", without_code(path), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


def without_code(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("doc", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(doc: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_code(doc))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (doc.parent / name).resolve() if name else doc
        assert path.exists(), f"{target} in {doc.name} leads nowhere"
        if DOCS in doc.parents:
            assert DOCS in path.parents, f"{target} in {doc.name} leads out of the site"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{target} in {doc.name}: no such heading"


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"\b([\w-]+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES]


@pytest.mark.parametrize("doc", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_name_no_option_or_command_that_does_not_exist(doc: Path) -> None:
    text = doc.read_text(encoding="utf-8")
    known = {"--browserpool", *(option.flag for option in options.OPTIONS if option.cli)}
    assert set(re.findall(r"--browserpool[\w-]*", text)) - known == set()
    inis = {"browserpool", *(option.ini for option in options.OPTIONS)}
    assert set(re.findall(r"\bbrowserpool_(?!pool)[a-z_]+\b", text)) - inis == set()
    commands = set(re.findall(r"^(?:\$ )?(?:\S*/)?browserpool ([a-z]+)\b", text, re.MULTILINE))
    assert commands - set(cli.COMMANDS) == set()


def test_make_targets_that_are_named_exist() -> None:
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in WRITTEN:
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
        named |= set(re.findall(r"^make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert named - rules == set(), page.name


# -- what is shown runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("doc", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_that_is_shown_is_python(doc: Path) -> None:
    for block in blocks(doc, "python"):
        # a list of markers is shown without the functions below them
        ast.parse(block + "def below(): ...\n" if block.rsplit("\n", 2)[-2].startswith("@") else block)


@pytest.mark.parametrize("doc", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_browser_tables_that_are_shown_are_accepted(doc: Path, tmp_path: Path) -> None:
    for block in blocks(doc, "toml"):
        (tmp_path / "pyproject.toml").write_text(block, encoding="utf-8")
        shown = tomllib.loads(block).get("tool", {}).get("browserpool", {}).get("browsers", {})
        assert {browser.name for browser in custom_browsers(tmp_path)} == set(shown)


def files(path: Path) -> dict[str, str]:
    """The files that a page tells its reader to write: blocks that open with a comment with their path."""
    found: dict[str, str] = {}
    for block in (*blocks(path, "python"), *blocks(path, "html")):
        match = re.match(r"(?:# |<!-- )([\w/]+\.(?:py|html))(?: -->)?\n", block)
        if match:
            found[match[1]] = block
    return found


@pytest.mark.browser
@pytest.mark.parametrize("doc", ["README.md", "docs/tutorial.md", "docs/how-to-app.md"])
def test_what_a_reader_ends_up_with_passes_in_real_browsers(doc: str, pytester: pytest.Pytester) -> None:
    """Every file that the page tells its reader to write, each in its last form, run as the page runs it."""
    written = files(ROOT / doc)
    assert any(name.startswith("tests/") for name in written)
    for name, text in written.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "browserpool.lock", pytester.path)  # the models are in the cache: no network is needed
    if "make_model.py" in written:
        (pytester.path / "models").mkdir()
        assert pytester.run(sys.executable, "make_model.py").ret == 0
    result = pytester.runpytest_subprocess("--browserpool", "-p", "no:cacheprovider", "tests", timeout=300)
    outcomes = result.parseoutcomes()
    outcomes.pop("warnings", None)
    assert set(outcomes) == {"passed"}, outcomes
