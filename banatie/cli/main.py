"""The command line: the root command, the short commands, and how errors are shown.

Each command imports and builds what it needs when it runs, so that `--help` stays quick.
Exit codes: 0 done, 1 failed, 2 usage or settings error, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

import click

import banatie
from banatie.cli.generate import generate
from banatie.cli.images import flows, images
from banatie.cli.keys import keys
from banatie.cli.mcp import mcp
from banatie.cli.models import models
from banatie.cli.open import address_with_token, open_studio
from banatie.cli.options import (
    GlobalOptions,
    address_options,
    config_of,
    data_dir_option,
    global_options,
    now,
    open_database,
    studio_option,
    worker_command,
)
from banatie.cli.projects import projects
from banatie.cli.terminal import accept_any_text, discard_unwritable_output
from banatie.errors import BanatieError, ConfigError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "path", type=click.Path(path_type=Path), help="Default: ./config.toml")
@click.option(
    "--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, path: Path | None, settings: tuple[str, ...], debug: bool) -> None:
    """Banatie generates images from prompts, with models on this machine."""
    options = global_options(context)
    options.debug = debug
    options.path = path or _default_path()
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or "." not in name:
            raise click.UsageError(f"--set takes SECTION.KEY=VALUE, not {setting!r}")
        options.overrides[name] = value


cli.add_command(generate)
cli.add_command(images)
cli.add_command(flows)
cli.add_command(keys)
cli.add_command(mcp)
cli.add_command(models)
cli.add_command(projects)
cli.add_command(open_studio)


@cli.command()
@address_options
@data_dir_option
@click.option(
    "--no-worker", is_flag=True, help="Start no workers; run `banatie worker` separately."
)
@studio_option
@click.pass_context
def serve(context: click.Context, no_worker: bool) -> None:
    """Run the HTTP server and its workers."""
    from banatie.serve import Announcement
    from banatie.serve import serve as run_server

    config = config_of(context)

    def announce(said: Announcement) -> None:
        lines = [f"Banatie answers at {said.url}"]
        if said.token is not None:
            address = address_with_token(said.url, said.token)
            lines.append(f"\nOpen it in a browser (this address works once):\n\n    {address}")
        if said.first_key is not None:
            lines.append(_welcome(said.url, said.first_key))
        # In one piece: a program that waits for the address finds the key beside it.
        click.echo("\n".join(lines))
        if said.warning is not None:
            click.secho(f"WARNING: {said.warning}", fg="red", bold=True, err=True)
        sys.stdout.flush()

    def report(line: str) -> None:
        click.echo(line)
        sys.stdout.flush()

    run_server(config, now, None if no_worker else worker_command(context), announce, report)


@cli.command()
@data_dir_option
@click.option(
    "--device",
    help="Run an additional worker on this device. Default: the only worker, on the first of "
    "painting.devices.",
)
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
@click.option("--heartbeat", is_flag=True, hidden=True)
@click.pass_context
def worker(
    context: click.Context, device: str | None, until_stdin_closes: bool, heartbeat: bool
) -> None:
    """Run one worker; `serve` starts one for each device."""
    from banatie.worker.process import run_worker

    config = config_of(context)
    run_worker(
        config, now, device=device, until_stdin_closes=until_stdin_closes, heartbeat=heartbeat
    )


@cli.command()
@data_dir_option
@click.pass_context
def migrate(context: click.Context) -> None:
    """Apply pending database migrations; `serve` does so at start."""
    applied = open_database(context).migrate()
    click.echo("\n".join(f"applied {name}" for name in applied) or "The database is up to date")


@cli.command()
@address_options
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check everything that generating a picture needs; changes nothing."""
    from banatie.doctor import Finding, examine

    path = global_options(context).path
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            remedy = f" → {finding.remedy}" if finding.remedy else ""
            click.echo(f"{finding.state:<4}  {finding.check:<14}  {finding.found}{remedy}")

    try:
        config = config_of(context)
    except ConfigError as error:
        report(Finding("settings", "FAIL", str(error), "config.toml explains every setting"))
    else:
        report(Finding("settings", "ok", f"{path or 'no file'}: every setting is known and valid"))
        for finding in examine(config, now()):
            report(finding)
    failed = any(finding.state == "FAIL" for finding in findings)
    if as_json:
        checks = [dataclasses.asdict(finding) for finding in findings]
        click.echo(json.dumps({"ok": not failed, "checks": checks}, indent=2))
    context.exit(int(failed))


@cli.command()
@data_dir_option
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_context
def backup(context: click.Context, file: Path) -> None:
    """Back up the database and the pictures into one file; a server may keep running."""
    from banatie.store.backup import write_backup

    contents = write_backup(config_of(context).storage.data, file, now())
    click.echo(f"{file}: {contents.generations} generations, {contents.pictures} pictures")
    if contents.left_out:
        click.echo(f"left out {contents.left_out} generations whose pictures are missing", err=True)


@cli.command()
@data_dir_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace what is in the data folder.")
@click.pass_context
def restore(context: click.Context, file: Path, force: bool) -> None:
    """Restore the data folder from a backup."""
    from banatie.store.backup import restore_backup

    data = config_of(context).storage.data
    contents = restore_backup(file, data, replace=force)
    made = datetime.fromtimestamp(contents.made_at / 1000, UTC)
    click.echo(
        f"{data}: {contents.generations} generations, {contents.pictures} pictures, as of "
        f"{made:%Y-%m-%d %H:%M} UTC"
    )


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(banatie.__version__)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; an error is one line on standard error.

    With `--debug` its traceback stands above that line.
    """
    accept_any_text()
    options = GlobalOptions()
    try:
        status = cli.main(arguments, prog_name="banatie", standalone_mode=False, obj=options)
        # A full disk or a closed pipe is noticed here, and not after the last line of this program.
        if sys.stdout is not None:
            sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # Such as `banatie keys list | head -1`: whoever reads has had enough.
        discard_unwritable_output()
        return 1
    except Exception as error:  # noqa: BLE001
        if options.debug:
            traceback.print_exc()
        status, message = _explain(error)
        click.echo(message, err=True)
        if isinstance(error, OSError):
            discard_unwritable_output()
        return status
    return status if isinstance(status, int) else 0


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and the text of an error: one line, except for the help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and error.ctx is not None:
        return 2, error.ctx.get_help()
    status = 2 if isinstance(error, click.UsageError | ConfigError) else 1
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "banatie"
        text = f"{error.format_message()} See: {command} --help"
    elif isinstance(error, BanatieError | click.ClickException):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = f"unexpected error: {type(error).__name__}: {error}; `banatie --debug …` shows where"
    return status, f"banatie: {' '.join(text.split())}"


def _default_path() -> Path | None:
    if named := os.environ.get("BANATIE_CONFIG"):
        return Path(named)
    return Path("config.toml") if Path("config.toml").exists() else None


def _welcome(url: str, key: str) -> str:
    body = '{"prompt": "a red sports car on a mountain road"}'
    return (
        f"\nThis is your API key. It is shown only once:\n\n    {key}\n\n"
        "Generate a picture with it:\n\n"
        f"    curl -X POST {url}/api/v1/generations \\\n"
        f"      -H 'X-API-Key: {key}' \\\n"
        "      -H 'Content-Type: application/json' \\\n"
        f"      -d '{body}'\n{_activation()}"
    )


def _activation() -> str:
    """How another terminal finds `banatie`, if this one would not."""
    activate = Path(sys.prefix, "bin", "activate")
    if shutil.which("banatie") or not activate.is_file():
        return ""
    with contextlib.suppress(ValueError):
        activate = activate.relative_to(Path.cwd())
    return (
        "\nIn another terminal, all other commands are found after:\n\n"
        f"    source {shlex.quote(str(activate))}\n"
    )
