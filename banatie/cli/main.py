"""The commands: each builds what it needs by hand, and turns an error into one line.

Exit codes: 0 done, 1 it failed, 2 the command was not understood.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

import banatie
from banatie.cli.models import models
from banatie.cli.options import config_of
from banatie.errors import BanatieError, ConfigError
from banatie.records import ASPECT_RATIOS, TEMPLATE_NAMES, LoraUse, Submission

DAY_MILLISECONDS = 86_400_000


def now() -> int:
    """The time: milliseconds since 1970 in UTC."""
    return time.time_ns() // 1_000_000


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "path", type=click.Path(path_type=Path), help="Default: ./config.toml")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting.")
@click.pass_context
def cli(context: click.Context, path: Path | None, settings: tuple[str, ...]) -> None:
    """Banatie makes pictures from prompts, with models on this machine."""
    if path is None:
        named = os.environ.get("BANATIE_CONFIG")
        path = (
            Path(named) if named else Path("config.toml") if Path("config.toml").exists() else None
        )
    overrides: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or "." not in name:
            raise click.UsageError(f"--set takes SECTION.KEY=VALUE, not {setting!r}")
        overrides[name] = value
    context.obj = (path, overrides)


@cli.command()
@click.option("--host", help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port to listen on.")
@click.option("--data-dir", help="The folder of the database and the pictures.")
@click.option("--no-worker", is_flag=True, help="Somebody else starts `banatie worker`.")
@click.pass_context
def serve(
    context: click.Context,
    host: str | None,
    port: int | None,
    data_dir: str | None,
    no_worker: bool,
) -> None:
    """Answer HTTP requests, with a worker beside."""
    from banatie.serve import serve as run

    config = config_of(context, server__host=host, server__port=port, storage__data_dir=data_dir)

    def announce(url: str, first_key: str | None, warning: str | None) -> None:
        click.echo(f"Banatie answers at {url}")
        if first_key is not None:
            click.echo(_welcome(url, first_key))
        if warning is not None:
            click.secho(f"WARNING: {warning}", fg="red", bold=True, err=True)
        sys.stdout.flush()

    run(config, now, None if no_worker else _worker_command(context, data_dir), announce)


@cli.command()
@click.option("--data-dir", help="The folder of the database and the pictures.")
@click.option("--device", help="Add a worker on it. Default: the first of painting.devices, alone.")
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
@click.pass_context
def worker(
    context: click.Context, data_dir: str | None, device: str | None, until_stdin_closes: bool
) -> None:
    """Make the pictures: what `serve` starts by itself, one for each device."""
    from banatie.worker.process import run_worker

    config = config_of(context, storage__data_dir=data_dir)
    run_worker(config, now, device=device, until_stdin_closes=until_stdin_closes)


@cli.command()
@click.argument("prompt")
@click.option("--aspect-ratio", type=click.Choice(ASPECT_RATIOS), default="1:1", show_default=True)
@click.option("--template", type=click.Choice(TEMPLATE_NAMES), default="general", show_default=True)
@click.option("--no-enhance", is_flag=True, help="Take the prompt as it is.")
@click.option("--negative-prompt", default="", help="What the picture is not to show.")
@click.option("--seed", type=click.IntRange(0, 2**53 - 1), help="The same seed, the same picture.")
@click.option("--steps", type=click.IntRange(1, 100), help="Denoising steps.")
@click.option("--guidance-scale", type=click.FloatRange(0, 20), help="How closely to follow it.")
@click.option("--lora", "loras", multiple=True, metavar="NAME[:WEIGHT]", help="Paint with a LoRA.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="PNG file.")
@click.pass_context
def generate(context: click.Context, prompt: str, output: Path | None, **options: Any) -> None:
    """Make one picture and print its path.

    A worker that is running on the data folder makes it; if there is none, one is started for it.
    """
    from banatie.cli.generate import generate as run

    config = config_of(context)
    if output is not None and not output.parent.is_dir():
        raise click.BadParameter(f"there is no folder {output.parent}", param_hint="-o")
    submission = Submission(
        prompt=prompt,
        aspect_ratio=options["aspect_ratio"],
        auto_enhance=not options["no_enhance"],
        template=options["template"],
        negative_prompt=options["negative_prompt"],
        seed=options["seed"],
        steps=options["steps"],
        guidance_scale=options["guidance_scale"],
        loras=tuple(_lora(text) for text in options["loras"]),
    )
    path = run(config, now, submission, _worker_command(context, None))
    if output is not None:
        shutil.copyfile(path, output)
    click.echo(output or path)


@cli.group()
def keys() -> None:
    """The API keys."""


@keys.command("create")
@click.option("--name", required=True, help="What the key is for.")
@click.option("--organization", default="default", show_default=True)
@click.option("--project", default="default", show_default=True)
@click.option("--requests-per-hour", type=click.IntRange(0), help="0: no limit.")
@click.option("--expires-in-days", type=click.IntRange(1))
@click.pass_context
def create_key(
    context: click.Context,
    name: str,
    organization: str,
    project: str,
    requests_per_hour: int | None,
    expires_in_days: int | None,
) -> None:
    """Make a key and print it: nothing can show it again."""
    made = now()
    expires_at = made + expires_in_days * DAY_MILLISECONDS if expires_in_days else None
    text = _keys(context).create(
        name,
        made,
        organization_slug=organization,
        project_slug=project,
        requests_per_hour=requests_per_hour,
        expires_at=expires_at,
    )
    click.echo(text)


@keys.command("list")
@click.pass_context
def list_keys(context: click.Context) -> None:
    """Show the keys, without their texts."""
    for key in _keys(context).all():
        state = "revoked" if key.revoked_at else "active"
        if key.expires_at and not key.revoked_at:
            state = f"until {_date(key.expires_at)}" if now() < key.expires_at else "expired"
        place = f"{key.project.organization_slug}/{key.project.slug}"
        made = _date(key.created_at)
        click.echo(f"{key.id}  {key.hint}…  {made}  {state:<16}  {place}  {key.name}")


@keys.command("revoke")
@click.argument("reference", metavar="ID|NAME|HINT")
@click.pass_context
def revoke_key(context: click.Context, reference: str) -> None:
    """Make a key count no longer, from now on."""
    key = _keys(context).revoke(reference, now())
    click.echo(f"Revoked {key.name} ({key.hint}…)")


cli.add_command(models)


@cli.command()
@click.pass_context
def migrate(context: click.Context) -> None:
    """Bring the database up to date; `serve` does it by itself."""
    applied = _database(context).migrate()
    click.echo("\n".join(f"applied {name}" for name in applied) or "The database is up to date")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Look at everything a picture takes and say what is wrong; changes nothing."""
    from banatie.doctor import Finding, examine

    path, _ = context.find_root().obj
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            remedy = f" → {finding.remedy}" if finding.remedy else ""
            click.echo(f"{finding.state:<4}  {finding.check:<14}  {finding.found}{remedy}")

    try:
        config = config_of(context)
    except ConfigError as error:
        tell(Finding("settings", "FAIL", str(error), "config.toml explains every setting"))
    else:
        tell(Finding("settings", "ok", f"{path or 'no file'}: every setting is known and valid"))
        for finding in examine(config, now()):
            tell(finding)
    failed = any(finding.state == "FAIL" for finding in findings)
    if as_json:
        checks = [dataclasses.asdict(finding) for finding in findings]
        click.echo(json.dumps({"ok": not failed, "checks": checks}, indent=2))
    context.exit(int(failed))


@cli.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_context
def backup(context: click.Context, file: Path) -> None:
    """Copy the database and the pictures into one file; a server may go on meanwhile."""
    from banatie.store.backup import write_backup

    contents = write_backup(config_of(context).storage.data, file, now())
    click.echo(f"{file}: {contents.generations} generations, {contents.pictures} pictures")
    if contents.left_out:
        click.echo(f"{contents.left_out} left out, whose pictures are not there", err=True)


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace what is in the data folder.")
@click.pass_context
def restore(context: click.Context, file: Path, force: bool) -> None:
    """Make the data folder what it was when a backup was made."""
    from banatie.store.backup import restore_backup

    data = config_of(context).storage.data
    contents = restore_backup(file, data, replace=force)
    made = datetime.fromtimestamp(contents.made_at / 1000, UTC)
    click.echo(
        f"{data}: {contents.generations} generations, {contents.pictures} pictures, as they were "
        f"on {made:%Y-%m-%d at %H:%M} UTC"
    )


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(banatie.__version__)


def run(arguments: list[str] | None = None) -> int:
    """Carry out a command line; its exit code."""
    try:
        status = cli.main(arguments, prog_name="banatie", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        return 2
    except click.UsageError as error:
        help_line = error.ctx.command_path if error.ctx else "banatie"
        message = " ".join(error.format_message().split())
        click.echo(f"banatie: {message} See: {help_line} --help", err=True)
        return 2
    except ConfigError as error:
        click.echo(f"banatie: {error}", err=True)
        return 2
    except (BanatieError, click.ClickException) as error:
        click.echo(f"banatie: {error}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        return 130
    return status if isinstance(status, int) else 0


def _lora(text: str) -> LoraUse:
    name, colon, weight = text.partition(":")
    try:
        use = LoraUse(name, float(weight)) if colon else LoraUse(name)
    except ValueError:
        raise click.BadParameter(f"{weight!r} is no number", param_hint="--lora") from None
    if not -4 <= use.weight <= 4:
        raise click.BadParameter(f"{weight} is not from -4 to 4", param_hint="--lora")
    return use


def _worker_command(context: click.Context, data_dir: str | None) -> list[str]:
    """The command line of a worker with the same settings as this process."""
    path, overrides = context.find_root().obj
    command = [sys.executable, "-m", "banatie"]
    if path is not None:
        command += ["--config", str(path)]
    for name, value in overrides.items():
        command += ["--set", f"{name}={value}"]
    command += ["worker", "--until-stdin-closes"]
    return [*command, "--data-dir", data_dir] if data_dir else command


def _database(context: click.Context):
    from banatie.store.backup import finish_restore
    from banatie.store.database import Database

    data = config_of(context).storage.data
    data.mkdir(parents=True, exist_ok=True)
    finish_restore(data)
    return Database(data / "banatie.db")


def _keys(context: click.Context):
    from banatie.store.keys import Keys

    database = _database(context)
    database.migrate()
    return Keys(database)


def _welcome(url: str, key: str) -> str:
    body = '{"prompt": "a red sports car on a mountain road"}'
    return (
        f"\nThis is your API key; it is shown only this once:\n\n    {key}\n\n"
        "Make a picture with it:\n\n"
        f"    curl -X POST {url}/api/v1/generations \\\n"
        f"      -H 'X-API-Key: {key}' \\\n"
        "      -H 'Content-Type: application/json' \\\n"
        f"      -d '{body}'\n"
    )


def _date(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d}"
