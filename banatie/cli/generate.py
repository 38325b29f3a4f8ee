"""`banatie generate`: one picture, painted by a running worker or by one started for it.

The generation is submitted to the database like any other and polled until it has ended, so
reaching a running service takes nothing but its data folder. How a picture is painted is unknown
here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from banatie.cli.options import config_of, now, worker_command
from banatie.config import Config
from banatie.errors import GenerationFailed, ModelError
from banatie.limits import MAX_GUIDANCE_SCALE, MAX_LORA_WEIGHT, MAX_SEED, MAX_STEPS, MIN_STEPS
from banatie.records import ASPECT_RATIOS, TEMPLATE_NAMES, Generation, LoraUse, Submission

if TYPE_CHECKING:
    from banatie.services import Services

POLL_SECONDS = 0.05
STOP_SECONDS = 6.0
"""How long a worker may take to stop before it is killed."""

Worker = subprocess.Popen[bytes]


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
@click.argument("prompt")
@click.option("--aspect-ratio", type=click.Choice(ASPECT_RATIOS), default="1:1", show_default=True)
@click.option("--template", type=click.Choice(TEMPLATE_NAMES), default="general", show_default=True)
@click.option("--no-enhance", is_flag=True, help="Use the prompt unchanged.")
@click.option("--negative-prompt", default="", help="What the picture must not show.")
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
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Copy the PNG here."
)
@click.pass_context
def generate(
    context: click.Context, /, prompt: str, output: Path | None, no_enhance: bool, **options: Any
) -> None:
    """Generate one picture and print its path.

    Uses the worker that is running on the data folder. If there is none, starts one for this
    picture.
    """
    config = config_of(context)
    if output is not None and not output.parent.is_dir():
        raise click.BadParameter(f"there is no folder {output.parent}", param_hint="-o")
    submission = Submission(prompt=prompt, auto_enhance=not no_enhance, **options)
    path = generate_picture(config, now, submission, worker_command(context))
    if output is not None:
        shutil.copyfile(path, output)
    click.echo(output or path)


def generate_picture(
    config: Config,
    clock: Callable[[], int],
    submission: Submission,
    command: Sequence[str],
) -> Path:
    """Submit the generation, wait until it has ended, and return the path of its picture.

    Runs `command` as a worker if none is alive, and stops it afterwards. Cancels the generation
    when interrupted. Raises ValidationError and QueueFull, GenerationFailed with the reason, and
    ModelError when no worker can paint.
    """
    from banatie.services import open_services
    from banatie.store.locks import live_workers

    services = open_services(config, clock)
    project_id = services.keys.default_project_id(clock())
    generation = services.intake.submit(project_id, submission).generation
    # Only a repeated request with an idempotency key can lack one.
    assert generation is not None
    worker = None
    if not live_workers(config.storage.data):
        worker = subprocess.Popen([*command], stdin=subprocess.PIPE)
    try:
        ended = _wait(services, generation, worker)
    except BaseException:
        # Interrupted, or no worker can paint: nobody waits for the picture any more.
        services.intake.cancel(project_id, generation.id)
        raise
    finally:
        if worker is not None:
            _stop(worker)
    if ended.image is None:
        raise GenerationFailed(ended.error_message or "It failed", None)
    return services.files.path(ended.image.storage_key)


def _wait(services: Services, generation: Generation, worker: Worker | None) -> Generation:
    """Poll the generation until it has ended, and show a progress bar on standard error."""
    bar = click.progressbar(length=100, label="waiting", file=sys.stderr)
    with bar:
        while not generation.is_ended:
            time.sleep(POLL_SECONDS)
            generation = services.intake.get(generation.project_id, generation.id)
            bar.label = _label(generation)
            percent = 100 * generation.step // generation.steps if generation.steps else 0
            bar.update(percent - bar.pos)
            _check_worker(services, worker)
        bar.update(100 - bar.pos)
    return generation


def _label(generation: Generation) -> str:
    if generation.stage == "enhance":
        return "enhancing"
    return "painting" if generation.status == "processing" else "waiting"


def _check_worker(services: Services, worker: Worker | None) -> None:
    from banatie.store.workers import state_of

    present = services.workers.present(services.clock())
    if state_of(present) == "broken":
        raise ModelError(present[0].reason or "The worker is broken")
    if worker is not None and worker.poll() is not None:
        raise ModelError(f"The worker exited with status {worker.returncode}")


def _stop(worker: Worker) -> None:
    """Ask the worker to stop by closing its standard input; kill it after STOP_SECONDS."""
    if worker.stdin is not None:
        worker.stdin.close()
    try:
        worker.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
