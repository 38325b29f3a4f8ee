"""The documentation matches the code: modules, links, commands, settings, routes, metrics, recipes.

Each missing thing is one failing test.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

import banatie
from banatie.cli.main import cli
from banatie.config import Config, load_config
from banatie.records import TEMPLATE_NAMES

ROOT = Path(__file__).parents[1]
DECISIONS = ROOT / "docs" / "decisions"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in PAGES}
README, CONTRIBUTING = TEXTS["README.md"], TEXTS["CONTRIBUTING.md"]

SETTINGS = [
    f"{section}.{key}" for section, keys in msgspec.to_builtins(Config()).items() for key in keys
]
METRICS_SOURCE = (ROOT / "banatie" / "api" / "metrics.py").read_text("utf-8")
METRICS = sorted(set(re.findall(r'"(banatie_[a-z_]+)"', METRICS_SOURCE)))
CATALOG = tomllib.loads((ROOT / "banatie" / "models" / "catalog.toml").read_text("utf-8"))
MODELS = [
    model["name"] for kind in ("language_models", "painting_models") for model in CATALOG[kind]
]
RECORDS = sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))


# --- README's module table ------------------------------------------------------------------------


def modules() -> list[str]:
    """Every package and module below banatie/; a package stands for its `__init__.py`."""
    paths = [path.relative_to(ROOT) for path in (ROOT / "banatie").rglob("*.py")]
    packages = {f"{path.parent.as_posix()}/" for path in paths if path.name == "__init__.py"}
    files = {path.as_posix() for path in paths if path.name != "__init__.py"}
    return sorted(files | packages - {"banatie/"})


def described_modules() -> list[str]:
    """What the rows of README's module table name."""
    return re.findall(r"^\| `(banatie/[^`]*)` \| .+ \|$", README, re.MULTILINE)


@pytest.mark.parametrize("module", modules())
def test_readme_describes_the_module(module: str) -> None:
    assert described_modules().count(module) == 1


@pytest.mark.parametrize("module", described_modules())
def test_a_module_that_readme_describes_exists(module: str) -> None:
    path = ROOT / module
    assert path.is_dir() if module.endswith("/") else path.is_file()


# --- Links and paths ------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """The ids that GitHub gives to the page's headings."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


def pages_in_code() -> list[tuple[str, str]]:
    """The pages of docs/ that docstrings, comments and messages name."""
    files = [*(ROOT / "banatie").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    return [
        (file.relative_to(ROOT).as_posix(), page)
        for file in sorted(files)
        for page in re.findall(r"docs/[\w/-]+\.md", file.read_text("utf-8"))
    ]


@pytest.mark.parametrize(("file", "page"), pages_in_code())
def test_a_page_that_the_code_names_exists(file: str, page: str) -> None:
    assert (ROOT / page).is_file()


def links() -> list[tuple[str, str]]:
    return [
        (page, target)
        for page, text in TEXTS.items()
        for target in dict.fromkeys(re.findall(r"\]\((?!https?:)([^)]+)\)", without_code(text)))
    ]


def paths() -> list[tuple[str, str]]:
    named = r"`((?:banatie|docs|tests|scripts|deploy)/[\w./-]+)`"
    return [
        (page, path)
        for page, text in TEXTS.items()
        for path in dict.fromkeys(re.findall(named, without_code(text)))
        # README's module table has a test of its own, and the recipe for a route makes that file.
        if path not in described_modules() and path != "banatie/api/routes/examples.py"
    ]


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_leads_to_a_page_and_a_heading(page: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    assert file.exists()
    if anchor:
        assert anchor in anchors(file.read_text("utf-8"))


@pytest.mark.parametrize(("page", "path"), paths())
def test_a_path_that_a_page_names_exists(page: str, path: str) -> None:
    if not path.endswith("/NAME.toml"):
        assert (ROOT / path).exists()


def test_no_page_links_to_a_package_index() -> None:
    assert [page for page, text in TEXTS.items() if "pypi.org" in text] == []


# --- Commands, settings, routes, metrics, models, templates ---------------------------------------


def commands() -> Iterator[tuple[str, click.Command]]:
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", each) for sub, each in command.commands.items())
        else:
            yield name, command


def options() -> list[tuple[str, str]]:
    return [
        (name, max(option.opts, key=len))
        for name, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
    ]


def row_of(command: str) -> str:
    rows = TEXTS["docs/commands.md"].splitlines()
    return next((row for row in rows if row.startswith(f"| `banatie {command}")), "")


@pytest.mark.parametrize("command", [name for name, _ in commands()])
def test_a_command_is_documented(command: str) -> None:
    assert row_of(command)


@pytest.mark.parametrize(("command", "option"), options())
def test_an_option_is_documented(command: str, option: str) -> None:
    assert f"{option}`" in row_of(command) or f"{option} " in row_of(command)


def shell_commands() -> list[tuple[str, str]]:
    """The command lines of `banatie` in the pages' blocks of code."""
    return [
        (page, line.removeprefix("$ ").partition(" #")[0].strip())
        for page, text in TEXTS.items()
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if re.match(r"(\$ )?banatie ", line)
    ]


@pytest.mark.parametrize(("page", "line"), shell_commands())
def test_a_command_that_a_page_shows_is_understood(page: str, line: str) -> None:
    command: click.Command = cli
    context = click.Context(cli)
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        words = command.make_parser(context).parse_args(words)[1]
        command = command.commands[words.pop(0)]
        context = click.Context(command, context)
    # Raises for an option that does not exist.
    command.make_parser(context).parse_args(words)


def test_banatie_has_one_name_in_all_pages() -> None:
    named = {
        (page, line.strip())
        for page, text in TEXTS.items()
        for line in text.splitlines()
        if "bin/banatie" in line and not line.startswith("ln --symbolic ")
    }
    assert named == set()


@pytest.mark.skipif(not Path(sys.prefix, "bin/activate").exists(), reason="not in a .venv")
def test_what_readme_says_makes_banatie_known_to_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "a clone").mkdir()
    clone = tmp_path / "a clone"
    (clone / ".venv").symlink_to(sys.prefix)
    block = README.partition("\n## All other commands\n")[2].partition("```sh\n")[2]
    activate = block.partition("```")[0]
    done = subprocess.run(
        ["bash", "-c", f"set -e\n{activate}\ncommand -v banatie\nbanatie version"],
        cwd=clone,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{sys.prefix}/bin/banatie", banatie.__version__]


def pages_that_name(setting: str, texts: dict[str, str]) -> list[str]:
    """The pages of docs/ and the root that name the setting in backticks."""
    return [page for page, text in texts.items() if f"`{setting}`" in text]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_is_documented(setting: str) -> None:
    assert pages_that_name(setting, TEXTS)


def named_settings() -> list[tuple[str, str]]:
    sections = "|".join(msgspec.to_builtins(Config()))
    named = rf"`((?:{sections})\.[a-z_]+)`"
    return [
        (page, name)
        for page, text in TEXTS.items()
        for name in dict.fromkeys(re.findall(named, text))
    ]


@pytest.mark.parametrize(("page", "setting"), named_settings())
def test_a_setting_that_a_page_names_exists(page: str, setting: str) -> None:
    assert setting in SETTINGS


def routes() -> list[str]:
    import banatie.api.routes

    found = set()
    for each in pkgutil.iter_modules(banatie.api.routes.__path__, "banatie.api.routes."):
        module = importlib.import_module(each.name)
        for name in vars(module):
            if name.endswith("_router") and not name.startswith("_"):
                for route in getattr(module, name)().routes:
                    found.add(re.sub(r"\{\w+(:\w+)?\}", ":id", route.path_format))
    # The files of the page at /docs.
    return sorted(path for path in found if not path.startswith("/docs/"))


@pytest.mark.parametrize("route", routes())
def test_a_route_is_documented(route: str) -> None:
    text = re.sub(r":\w+", ":id", TEXTS["docs/api.md"])
    assert f"{route}`" in text or f"{route}?" in text


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_documented(metric: str) -> None:
    # prometheus_client adds the ending to a counter and to an info.
    operations = TEXTS["docs/operations.md"]
    assert any(f"`{metric}{ending}`" in operations for ending in ("", "_total"))


def test_metrics_have_no_names_but_these(tmp_path: Path) -> None:
    from banatie.api.metrics import Metrics
    from banatie.services import open_services

    services = open_services(load_config(None, {}, {"storage.data_dir": str(tmp_path)}), lambda: 0)
    shown = Metrics(services.database, services.workers, services.clock).render().decode()
    services.close()
    names = set(re.findall(r"^# TYPE (banatie_\w+)", shown, re.MULTILINE))
    assert len(names) > 8
    assert {name.removesuffix("_total").removesuffix("_info") for name in names} <= {
        *METRICS,
        "banatie",
    }
    assert "`banatie_info`" in TEXTS["docs/operations.md"]


def test_the_checks_of_the_doctor_are_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from banatie.doctor import examine

    # The doctor sets variables that keep the libraries offline.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    config = load_config(None, {}, {"storage.data_dir": str(tmp_path), "painting.devices": "cpu"})
    checks = {finding.check for finding in examine(config, 0)}
    text = TEXTS["docs/operations.md"]
    assert [check for check in sorted(checks) if f"| `{check}` |" not in text] == []


def log_messages() -> list[str]:
    table = TEXTS["docs/operations.md"].partition("| message | process |")[2].partition("\n\n")[0]
    cells = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| `")]
    return [message for cell in cells for message in re.findall(r"`([a-z][^`…]*?)(?: …)?`", cell)]


@pytest.mark.parametrize("message", [m for m in log_messages() if m not in ("error", "seconds")])
def test_a_documented_log_message_is_in_the_code(message: str) -> None:
    sources = (path.read_text("utf-8") for path in (ROOT / "banatie").rglob("*.py"))
    assert any(f'"{message}' in source for source in sources)


@pytest.mark.parametrize("model", MODELS)
def test_a_catalog_model_is_documented(model: str) -> None:
    assert f"| `{model}` |" in TEXTS["docs/models.md"]


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_a_template_is_documented(template: str) -> None:
    assert f"| `{template}` |" in TEXTS["docs/enhancement.md"]
    assert f"`{template}`" in TEXTS["docs/api.md"]


# --- Guarantees, decision records, changelog ------------------------------------------------------


def named_tests() -> list[tuple[str, str]]:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXTS["docs/reliability.md"])
    return list(dict.fromkeys(named))


@pytest.mark.parametrize(("file", "test"), named_tests())
def test_a_test_that_a_guarantee_names_exists(file: str, test: str) -> None:
    assert (ROOT / file).is_file()
    code = (ROOT / file).read_text("utf-8")
    assert re.search(rf"^(async )?def {test}\(", code, re.MULTILINE)


def test_every_guarantee_names_a_test() -> None:
    text = TEXTS["docs/reliability.md"]
    assert len(named_tests()) > 40
    assert text.count("::") == len(re.findall(r"`tests/[\w/]+\.py::\w+`", text))
    rows = [line for line in text.splitlines() if line.startswith("| ") and "tested by" not in line]
    assert len(rows) > 60
    assert [row for row in rows if "::" not in row and "scripts/bench" not in row] == []


@pytest.mark.parametrize("record", RECORDS)
def test_a_decision_record_has_the_common_format_and_is_in_the_index(record: str) -> None:
    text = (DECISIONS / record).read_text("utf-8")
    found = re.match(
        r"# (\d{3}): (.+)\n\nDate: (\d{4}-\d\d-\d\d) · Status: (.+)\n\n## Context\n", text
    )
    assert found
    number, title, date, status = found.groups()
    assert record.startswith(f"{number}-")
    headings = re.findall(r"^#+ .+$", text, re.MULTILINE)[1:]
    assert headings == ["## Context", "## Decision", "## Consequences"]
    assert len(text.split()) < 500, "half a page"
    assert (
        f"| [{number}]({record}) | {title} | {date} | {status} |"
        in (TEXTS["docs/decisions/README.md"])
    )


def test_no_two_decision_records_have_one_number() -> None:
    numbers = [name[:3] for name in RECORDS]
    assert len(set(numbers)) == len(numbers) > 8


def test_the_changelog_has_a_place_for_the_next_change() -> None:
    assert "## Unreleased" in TEXTS["CHANGELOG.md"]


@pytest.mark.parametrize(
    "name",
    [
        "start",
        "test",
        "bench",
        "set-up",
        "find-browser",
        "check-container",
        "check-gpu",
        "pack-for-gpu",
    ],
)
def test_a_script_can_be_run(name: str) -> None:
    assert os.access(ROOT / "scripts" / name, os.X_OK)


# --- CONTRIBUTING ---------------------------------------------------------------------------------


def table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading of CONTRIBUTING, without its head."""
    section = CONTRIBUTING.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    return rows[1:]


@pytest.mark.parametrize("check", [row[0].strip("`") for row in table("Checks")])
def test_a_check_that_contributing_names_is_run(check: str) -> None:
    assert check in (ROOT / "scripts" / "test").read_text("utf-8")


@pytest.mark.parametrize(
    ("question", "word", "file"), table("Where is …?"), ids=lambda cell: cell.strip("`")
)
def test_a_word_that_contributing_suggests_finds_the_file(
    question: str, word: str, file: str
) -> None:
    assert question.endswith("?")
    wanted = word.strip("`").lower()
    # A docstring may break the line between two words.
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "banatie").rglob("*.py"))
        if wanted in " ".join(path.read_text("utf-8").lower().split())
    ]
    assert file.strip("`") in found


def test_contributing_answers_twenty_questions() -> None:
    assert len(table("Where is …?")) >= 20


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, without weights, for a recipe to be applied to."""
    folder = tmp_path / "copy"
    # With the compiled modules, but none that another process is just writing.
    weights = shutil.ignore_patterns("*.pyc.*", "*.safetensors", "docs")
    shutil.copytree(ROOT / "banatie", folder / "banatie", ignore=weights)
    shutil.copy(ROOT / "config.toml", folder)
    return folder


def recipe(title: str) -> list[str]:
    """The code blocks of a recipe."""
    section = CONTRIBUTING.partition(f"\n### {title}\n")[2]
    section = re.split(r"\n##", section)[0]
    blocks = re.findall(r"^   ```\w+\n(.*?)^   ```$", section, re.DOTALL | re.MULTILINE)
    return [re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in blocks]


def edit(file: Path, pattern: str, replacement: str) -> None:
    """Replace what the pattern finds exactly once."""
    text, count = re.subn(pattern, lambda found: found.expand(replacement), file.read_text("utf-8"))
    assert count == 1, f"{file.name}: {pattern}"
    file.write_text(text, "utf-8")


def insert_after(file: Path, pattern: str, addition: str) -> None:
    text = file.read_text("utf-8")
    [found] = re.finditer(pattern, text)
    file.write_text(text[: found.end()] + addition + text[found.end() :], "utf-8")


def append(file: Path, addition: str) -> None:
    file.write_text(f"{file.read_text('utf-8')}\n\n{addition}", "utf-8")


def run(copy: Path, *arguments: str) -> str:
    """The output of Python in the copy."""
    environment = os.environ | {"PYTHONPATH": str(copy)}
    for name in [name for name in environment if name.startswith("BANATIE_")]:
        del environment[name]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CHECK_THE_SHIPPED_FILE = """
import runpy
tests = runpy.run_path("tests/test_config.py")
tests["test_the_shipped_file_lists_every_setting_with_its_default"]()
tests["test_the_shipped_file_explains_every_setting"]()
"""


def test_the_recipe_for_a_setting(copy: Path) -> None:
    field, key = recipe("A new setting")
    insert_after(copy / "banatie" / "config.py", r'class Storage\(.*\n    """.*"""\n\n', field)
    insert_after(copy / "config.toml", r"\[storage\]\n", key)
    (copy / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "test_config.py", copy / "tests")
    # config.toml and the defaults agree, and each setting has a comment.
    run(copy, "-c", CHECK_THE_SHIPPED_FILE)
    program = """
        from banatie.config import load_config
        print(load_config(None, {"BANATIE_STORAGE__EXAMPLE_DAYS": "9"}).storage.example_days)
    """
    assert run(copy, "-c", textwrap.dedent(program)) == "9\n"
    # Until a page names it, `test_a_setting_is_documented` fails.
    assert not pages_that_name("storage.example_days", TEXTS)


ASK_FOR_AN_EXAMPLE = """
import asyncio, httpx
from banatie.api.app import create_app
from banatie.config import load_config
from banatie.services import open_services

services = open_services(load_config(None, {}, {"storage.data_dir": "data"}), lambda: 1)
headers = {"X-API-Key": services.keys.create("test", 1)}

async def main():
    transport = httpx.ASGITransport(create_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        refused = await client.get("/api/v1/examples")
        response = await client.get("/api/v1/examples", headers=headers)
        document = (await client.get("/openapi.json")).json()
    print(refused.status_code, response.status_code, response.json()["message"])
    print(response.headers["X-RateLimit-Remaining"])
    print(document["paths"]["/api/v1/examples"]["get"]["operationId"])

asyncio.run(main())
"""


def test_the_recipe_for_a_route(copy: Path) -> None:
    [module] = recipe("A new route")
    (copy / "banatie" / "api" / "routes" / "examples.py").write_text(module, "utf-8")
    app = copy / "banatie" / "api" / "app.py"
    edit(app, r"route_handlers=\[", "route_handlers=[examples_router(), ")
    edit(
        app,
        r"(from banatie\.api\.routes\.generations import)",
        r"from banatie.api.routes.examples import examples_router\n\1",
    )
    assert run(copy, "-c", ASK_FOR_AN_EXAMPLE).split("\n") == [
        "401 200 An example",
        "99",
        "getExample",
        "",
    ]


def test_the_recipe_for_a_catalog_model(copy: Path) -> None:
    [entry] = recipe("A new catalog model")
    append(copy / "banatie" / "models" / "catalog.toml", entry)
    listed = run(copy, "-m", "banatie", "models", "list")
    assert re.search(r"^example-sdxl +painting +- .* MIT$", listed, re.MULTILINE)
    shown = run(copy, "-m", "banatie", "models", "show", "example-sdxl")
    assert "example/example-sdxl@0123456789abcdef" in shown


def test_the_recipe_for_a_template(copy: Path) -> None:
    edit(
        copy / "banatie" / "records.py",
        r'(TemplateName = Literal\[\s+"general",)',
        r'\1 "woodcut",',
    )
    for folder in ("templates", "examples"):
        source = copy / "banatie" / "enhancement" / folder / "sticker.toml"
        text = source.read_text("utf-8").replace('name = "sticker"', 'name = "woodcut"')
        source.with_name("woodcut.toml").write_text(text, "utf-8")
    program = """
        from banatie.enhancement.templates import load_few_shot_examples, load_templates
        print(load_templates()["woodcut"].name, len(load_few_shot_examples()["woodcut"]))
    """
    assert run(copy, "-c", textwrap.dedent(program)) == "woodcut 85\n"
    assert "woodcut" in run(copy, "-m", "banatie", "generate", "--help")


def test_the_recipe_for_a_migration(copy: Path) -> None:
    [migration] = recipe("A new migration")
    run(copy, "-m", "banatie", "--set", "storage.data_dir=data", "migrate")
    append(copy / "banatie" / "store" / "migrations.py", migration)
    migrate = ("-m", "banatie", "--set", "storage.data_dir=data", "migrate")
    assert run(copy, *migrate) == "applied add_example\n"
    assert "applied" not in run(copy, *migrate)
