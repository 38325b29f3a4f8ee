"""`banatie generate`: one picture, painted by a running worker or by one started for it.

The generation is submitted to the database like any other and polled until it has ended, so
reaching a running service takes nothing but its data folder. How a picture is painted is unknown
here.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from banatie.checks import nearest_ratio, parse_size
from banatie.cli.images import store_file
from banatie.cli.options import config_of, data_dir_option, now, worker_command
from banatie.cli.temporary_worker import TemporaryWorker
from banatie.cli.terminal import StatusLine, Text
from banatie.config import Config
from banatie.errors import GenerationFailed, ModelError
from banatie.filesystem import special_kind
from banatie.limits import (
    MAX_GUIDANCE_SCALE,
    MAX_LORA_WEIGHT,
    MAX_QUALITY,
    MAX_SEED,
    MAX_STEPS,
    MAX_UPSCALE,
    MIN_STEPS,
)
from banatie.records import (
    ASPECT_RATIOS,
    TEMPLATE_NAMES,
    AspectRatio,
    Generation,
    ImageFormat,
    LoraUse,
    Submission,
)

if TYPE_CHECKING:
    from banatie.services import Services

POLL_SECONDS = 0.05
WORKER_CHECK_SECONDS = 0.5
"""How far apart to look whether anybody is at work."""
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Pillow's names of the formats that a picture can be copied in, by the file's suffix."""
LOSSY_QUALITY = 92
PICTURE_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)


def _lora(option: str) -> LoraUse:
    name, colon, weight = option.partition(":")
    if not colon:
        return LoraUse(name)
    try:
        use = LoraUse(name, float(weight))
    except ValueError:
        raise click.BadParameter(f"the weight {weight!r} is not a number") from None
    if not -MAX_LORA_WEIGHT <= use.weight <= MAX_LORA_WEIGHT:
        allowed = f"from {-MAX_LORA_WEIGHT} to {MAX_LORA_WEIGHT}"
        raise click.BadParameter(f"the weight {weight} is not {allowed}")
    return use


@click.command("generate")
@click.argument("words", nargs=-1, required=True, metavar="PROMPT", type=Text())
@click.option("--aspect-ratio", type=click.Choice(ASPECT_RATIOS), help="Default: 1:1.")
@click.option("--size", metavar="WIDTHxHEIGHT", type=Text(), help="Instead of --aspect-ratio.")
@click.option("--template", type=click.Choice(TEMPLATE_NAMES), default="general", show_default=True)
@click.option("--no-enhance", is_flag=True, help="Use the prompt unchanged.")
@click.option("--negative-prompt", type=Text(), default="", help="What the picture must not show.")
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), help="The same seed gives the same picture."
)
@click.option("--steps", type=click.IntRange(MIN_STEPS, MAX_STEPS), help="Denoising steps.")
@click.option(
    "--guidance-scale",
    type=click.FloatRange(0, MAX_GUIDANCE_SCALE),
    help="How closely the picture follows the prompt.",
)
@click.option(
    "--lora", "loras", multiple=True, type=_lora, metavar="NAME[:WEIGHT]", help="Apply a LoRA."
)
@click.option(
    "--reference",
    "reference_files",
    multiple=True,
    type=PICTURE_FILE,
    help="Paint from this picture; up to three times.",
)
@click.option(
    "--reference-strength",
    type=click.FloatRange(0, 1),
    help="0: the reference is not seen; 1: hardly anything else is.",
)
@click.option("--mask", "mask_file", type=PICTURE_FILE, help="White is painted anew.")
@click.option("--upscale", type=click.FloatRange(1, MAX_UPSCALE), help="Enlarge the picture.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(IMAGE_FORMATS),
    default="png",
    show_default=True,
    help="What is stored.",
)
@click.option("--quality", type=click.IntRange(1, MAX_QUALITY), help="Of jpeg and webp.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Copy the picture here, as a .png, .jpg or .webp file.",
)
@click.option("--verbose", is_flag=True, help="Show the log.")
@data_dir_option
@click.pass_context
def generate(
    context: click.Context,
    /,
    words: tuple[str, ...],
    output: Path | None,
    no_enhance: bool,
    verbose: bool,
    aspect_ratio: AspectRatio | None,
    size: str | None,
    reference_files: tuple[Path, ...],
    mask_file: Path | None,
    **options: Any,
) -> None:
    """Generate one picture and print its path.

    Uses the worker that is running on the data folder. If there is none, starts one for this
    picture.
    """
    if len(words) > 1:
        quoted = " ".join(words).replace('"', "'")
        raise click.UsageError(
            f'The prompt is one argument; put it in quotes: banatie generate "{quoted}".', context
        )
    config = config_of(context, quiet=not verbose)
    if output is not None:
        _check_output(output)
    shape: dict[str, Any] = {"aspect_ratio": aspect_ratio or "1:1"}
    if size is not None:
        if aspect_ratio is not None:
            raise click.UsageError("Give --size or --aspect-ratio, not both.", context)
        sides = parse_size(size)
        shape = {"aspect_ratio": nearest_ratio(*sides), "size": sides}
    submission = Submission(prompt=words[0], auto_enhance=not no_enhance, **shape, **options)
    worker = TemporaryWorker(
        worker_command(context),
        config.storage.data,
        max_crashes=config.worker.max_retries + 1,
        show_log=verbose,
    )
    generation, path = generate_picture(
        config, now, submission, worker, references=reference_files, mask=mask_file
    )
    for warning in generation.warnings:
        click.echo(f"banatie: {warning}", err=True)
    if output is not None:
        _copy(path, output)
    click.echo(output or path)


def generate_picture(
    config: Config,
    clock: Callable[[], int],
    submission: Submission,
    worker: TemporaryWorker,
    *,
    references: Sequence[Path] = (),
    mask: Path | None = None,
) -> tuple[Generation, Path]:
    """Submit the generation, wait until it has ended, and return it with its picture's path.

    The files of `references` and `mask` are stored as uploaded images first.
    Uses `worker` while nobody is at work. Cancels the generation when interrupted. Raises
    ValidationError and QueueFull, GenerationFailed with the reason, and ModelError when no worker
    can paint.
    """
    from banatie.services import open_services

    services = open_services(config, clock)
    project_id = services.keys.default_project_id(clock())
    submission = replace(
        submission,
        references=tuple(store_file(services, project_id, file).id for file in references),
        mask=store_file(services, project_id, mask).id if mask is not None else None,
    )
    generation = services.intake.submit(project_id, submission).generation
    # Only a repeated request with an idempotency key can lack one.
    assert generation is not None
    status = StatusLine(sys.stderr)
    with worker:
        try:
            ended = _wait(services, generation, worker, status)
        except BaseException:
            # Interrupted, or no worker can paint: nobody waits for the picture any more.
            services.intake.cancel(project_id, generation.id)
            raise
        finally:
            status.clear()
    if ended.image is None or ended.status == "failed":
        raise GenerationFailed(ended.error_message or "It failed", None)
    return ended, services.files.path(ended.image.storage_key)


def _wait(
    services: Services, generation: Generation, worker: TemporaryWorker, status: StatusLine
) -> Generation:
    """Poll the generation until it has ended, and show on the status line what happens to it."""
    checked = None
    is_ready = False
    while not generation.is_ended:
        if checked is None or time.monotonic() - checked >= WORKER_CHECK_SECONDS:
            worker.ensure()
            is_ready = _is_ready(services, worker)
            checked = time.monotonic()
        status.show(_label(generation, is_ready), generation.step, generation.steps or 0)
        time.sleep(POLL_SECONDS)
        generation = services.intake.get(generation.project_id, generation.id)
    return generation


def _label(generation: Generation, is_ready: bool) -> str:
    if generation.status == "processing":
        return "painting"
    if not is_ready:
        return "waiting for the models to load"
    return "enhancing" if generation.stage == "enhance" else "waiting"


def _is_ready(services: Services, worker: TemporaryWorker) -> bool:
    """Whether a worker has loaded its models. Raises ModelError when none of them can paint."""
    from banatie.store.locks import is_alive
    from banatie.store.workers import state_of

    # The row of a worker that was killed stays for a while.
    data = services.config.storage.data
    workers = [
        each for each in services.workers.present(services.clock()) if is_alive(data, each.id)
    ]
    state = state_of(workers)
    if state == "broken":
        raise ModelError(worker.reason or workers[0].reason or "The worker is broken")
    return state == "ready"


def _check_output(output: Path) -> None:
    """Raise BadParameter for a file that cannot become a copy of the picture."""
    # Unlike Path.is_dir, it does not raise for odd names.
    if not os.path.isdir(output.parent):
        raise click.BadParameter(f"there is no folder {output.parent}", param_hint="-o")
    if output.suffix and output.suffix.lower() not in FORMATS:
        raise click.BadParameter(
            f"{output.suffix} is no format of a picture here; use .png, .jpg or .webp",
            param_hint="-o",
        )
    try:
        kind = special_kind(output, follow_links=True)
    except OSError as error:
        raise click.BadParameter(f"{output}: {error.strerror}", param_hint="-o") from error
    if kind is not None:
        raise click.BadParameter(
            f"{output} is {kind}; name a regular file, or one that does not exist",
            param_hint="-o",
        )


def _copy(path: Path, output: Path) -> None:
    """Copy the picture, in the format that the file's suffix names."""
    form = FORMATS.get(output.suffix.lower(), "PNG")
    try:
        if form == FORMATS.get(path.suffix):
            shutil.copyfile(path, output)
        else:
            from PIL import Image

            with Image.open(path) as picture:
                picture.convert("RGB").save(output, form, quality=LOSSY_QUALITY)
    except OSError as error:
        raise click.ClickException(
            f"{output} cannot be written ({error.strerror or error}); the picture is "
            f"{path.absolute()}"
        ) from error
