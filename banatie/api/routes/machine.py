"""The routes about the machine: what runs and waits, memory, disk, and the doctor's findings.

The middleware admits master keys alone below `/api/admin`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Literal

import msgspec
from litestar import Response, Router, get
from msgspec import Meta

from banatie.api.dependencies import AppState, HttpRequest, app_state_of, in_thread
from banatie.api.query import check_query
from banatie.api.responses import COMMON_ERRORS, failures, json_response, options
from banatie.api.schemas import Id, Success, Time, Wire, timestamp
from banatie.errors import ServiceUnavailable
from banatie.store.statistics import Statistics, read_statistics
from banatie.store.workers import state_of

DOCTOR_SECONDS = 120.0
"""It imports torch, which takes seconds, and reads every weight file's hash."""
ADMIN_ERRORS = (*COMMON_ERRORS, "FORBIDDEN")


class StageQueueView(Wire):
    """How many generations a stage has."""

    waiting: int
    running: int


class QueueView(Wire):
    """What waits and runs, in all projects."""

    enhancing: StageQueueView
    painting: StageQueueView
    oldest_waiting_seconds: Annotated[float, Meta(description="0 while none waits.")]


class UnfinishedView(Wire):
    """A generation that has not ended."""

    id: Id
    project: Annotated[str, Meta(description="The project's slug.")]
    prompt: Annotated[str, Meta(description="The beginning of the original prompt.")]
    stage: Literal["enhance", "paint"]
    is_running: bool
    step: int
    steps: int | None
    created_at: Time


class MachineWorkerView(Wire):
    """A worker process, its memory plan and its memory, in bytes."""

    device: str | None
    state: Literal["ready", "starting", "broken"]
    reason: str | None
    painting_model: str | None
    language_model: str | None
    plan: Annotated[str | None, Meta(description="Where its models lie, and why.")]
    memory: int | None
    device_memory_used: int | None
    device_memory_total: int | None


class DiskView(Wire):
    """The disk of the data folder, in bytes."""

    folder: str
    free: int
    total: int
    pictures: int
    picture_count: int
    database: int


class MachineView(Wire):
    """What runs and waits on this machine."""

    state: Literal["ready", "starting", "broken", "gone"]
    workers: list[MachineWorkerView]
    queue: QueueView
    generations: Annotated[
        list[UnfinishedView], Meta(description="Those that run, then those that wait; at most 50.")
    ]
    disk: DiskView


class FindingView(Wire):
    """The result of one check."""

    check: str
    state: Literal["ok", "warn", "FAIL"]
    found: str
    remedy: Annotated[str, Meta(description="What to do; empty if the state is ok.")]


class DoctorView(Wire):
    """The findings of `banatie doctor`."""

    ok: bool
    checks: list[FindingView]


@get(
    "/machine",
    operation_id="machine",
    summary="Get what runs and waits, the memory plans and the disk use",
    response_description="The machine as it is now.",
    responses=failures(*ADMIN_ERRORS),
)
async def machine(request: HttpRequest) -> Response[Success[MachineView]]:
    """What runs and waits in all projects, the workers with their plans, and the disk."""
    return json_response(Success(data=await in_thread(_machine, app_state_of(request))))


@get(
    "/doctor",
    operation_id="doctor",
    summary="Check everything that generating a picture needs",
    response_description="The findings.",
    responses=failures(*ADMIN_ERRORS),
)
async def doctor(request: HttpRequest) -> Response[Success[DoctorView]]:
    """Run `banatie doctor`, which takes seconds. It changes nothing."""
    app = app_state_of(request)
    async with app.doctor:
        return json_response(Success(data=await _examine(app.command)))


def machine_router() -> Router:
    """The routes /api/admin/machine and /api/admin/doctor."""
    return Router(
        "/api/admin",
        route_handlers=[options("/machine", "GET"), machine, options("/doctor", "GET"), doctor],
        guards=[check_query],
        security=[{"apiKey": []}],
        tags=["Administration"],
    )


def _machine(app: AppState) -> MachineView:
    workers = app.workers.present(app.clock())
    disk = app.overview.disk()
    return MachineView(
        state=state_of(workers),
        workers=[
            MachineWorkerView(
                device=worker.device,
                state=worker.state,
                reason=worker.reason,
                painting_model=worker.painting_model,
                language_model=worker.language_model,
                plan=worker.plan,
                memory=worker.memory_bytes,
                device_memory_used=worker.device_memory_used,
                device_memory_total=worker.device_memory_total,
            )
            for worker in workers
        ],
        queue=_queue(read_statistics(app.database, app.clock())),
        generations=[
            UnfinishedView(
                id=each.id,
                project=each.project,
                prompt=each.prompt,
                stage=each.stage,
                is_running=each.is_running,
                step=each.step,
                steps=each.steps,
                created_at=timestamp(each.created_at),
            )
            for each in app.overview.unfinished()
        ],
        disk=DiskView(
            folder=str(app.config.storage.data.absolute()),
            free=disk.free,
            total=disk.total,
            pictures=disk.pictures,
            picture_count=disk.picture_count,
            database=disk.database,
        ),
    )


def _queue(statistics: Statistics) -> QueueView:
    enhancing, painting = (
        StageQueueView(statistics.queues[stage, False], statistics.queues[stage, True])
        for stage in ("enhance", "paint")
    )
    return QueueView(enhancing, painting, statistics.oldest_waiting_seconds)


async def _examine(command: tuple[str, ...]) -> DoctorView:
    """The findings of a doctor in a process of its own, because it imports torch."""
    process = await asyncio.create_subprocess_exec(
        *(*command, "doctor", "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), DOCTOR_SECONDS)
        return msgspec.convert(json.loads(output), DoctorView)
    except (TimeoutError, ValueError) as error:
        raise ServiceUnavailable(
            "The doctor came to no end; run it on the server's machine: banatie doctor"
        ) from error
    finally:
        # Also when the client has hung up.
        if process.returncode is None:
            process.kill()
