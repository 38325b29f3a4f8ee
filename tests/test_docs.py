"""The documentation says what the code does: commands, settings, routes and files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from banatie.cli.main import cli
from banatie.config import Config, load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]


def test_readme_maps_every_module():
    for path in (ROOT / "banatie").iterdir():
        if path.name not in ("__pycache__", "__init__.py", "__main__.py"):
            assert f"banatie/{path.stem}" in README, f"README lacks {path.name}"


def test_readme_and_docs_link_to_what_is_there():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_command_is_documented():
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    for name, command in cli.commands.items():
        for full in [f"{name} {sub}" for sub in getattr(command, "commands", {})] or [name]:
            assert f"`banatie {full}" in text, f"docs/commands.md lacks banatie {full}"


def test_every_route_is_documented():
    from banatie.api.routes.generations import generations_router
    from banatie.api.routes.system import system_router

    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    for router in (generations_router(), system_router()):
        for route in router.routes:
            path = re.sub(r"\{(\w+):\w+\}", ":id", route.path_format.replace("{name}", "…"))
            path = re.sub(r"\{\w+\}", ":id", path)
            if not path.startswith("/docs/"):
                assert path in text, f"docs/api.md lacks {path}"


def test_every_figure_and_every_check_is_documented(tmp_path, monkeypatch):
    from banatie.api.metrics import Metrics
    from banatie.doctor import examine
    from banatie.services import open_services

    # The doctor tells the libraries by the environment to stay offline.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    config = load_config(None, {}, {"storage.data_dir": str(tmp_path), "painting.devices": "cpu"})
    services = open_services(config, lambda: 0)
    shown = Metrics(services.database, services.workers, services.clock).render().decode()
    names = set(re.findall(r"^# TYPE (banatie_\w+)", shown, re.MULTILINE))
    assert len(names) > 8
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
    services.close()
    checks = {finding.check for finding in examine(config, 0)}
    assert [check for check in sorted(checks) if f"`{check}`" not in text] == []


def test_every_test_that_a_promise_names_exists():
    text = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) == text.count("::") > 40
    for file, test in named:
        code = (ROOT / file).read_text("utf-8")
        assert re.search(rf"^(async )?def {test}\(", code, re.MULTILINE), f"{file} lacks {test}"
    rows = [line for line in text.splitlines() if line.startswith("| ") and "shown by" not in line]
    assert [row for row in rows if "::" not in row and "scripts/bench" not in row] == []


def test_the_changelog_has_a_place_for_what_comes():
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_scripts_can_be_run():
    for name in ("start", "test", "bench", "set-up"):
        assert os.access(ROOT / "scripts" / name, os.X_OK), name


def test_settings_named_in_the_docs_exist():
    known = {
        f"{section}.{key}"
        for section, keys in msgspec.to_builtins(Config()).items()
        for key in keys
    }
    sections = "|".join(msgspec.to_builtins(Config()))
    for page in PAGES:
        for name in re.findall(rf"`((?:{sections})\.[a-z_]+)`", page.read_text("utf-8")):
            assert name in known, f"{page.name} names {name}"
