"""What a monitor is told, read by Prometheus' own reader."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from banatie.records import Submission
from banatie.store.workers import WorkerState
from tests.support.api_server import GENERATIONS, Server, assert_failure, serving

pytestmark = pytest.mark.anyio

ONE = GENERATIONS + "/{generation_id}"
READY = WorkerState("w", 1, "ready", device="cpu", memory_bytes=812_000_000)


class Figures:
    """The samples, by name and labels."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value of the one sample with these labels; None where there is none."""
        found = [s.value for s in self.samples if s.name == name and s.labels == labels]
        assert len(found) <= 1
        return found[0] if found else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values by one label."""
        return {s.labels[label]: s.value for s in self.samples if s.name == name}


async def figures(server: Server) -> Figures:
    response = await server.visitor().get("/metrics")
    assert response.status_code == 200, response.text
    return Figures(response.text)


@pytest.fixture
async def alone(tmp_path):
    """A server that nothing else has asked for anything."""
    async with serving(tmp_path) as running:
        yield running


def requests(found: Figures, method: str, route: str, status: int) -> float | None:
    return found("banatie_http_requests_total", method=method, route=route, status=str(status))


async def test_requests_are_counted_by_method_route_and_status(alone):
    client, stranger = alone.client(), alone.visitor()
    made = await client.create(autoEnhance=False)
    await client.create(autoEnhance=False)
    for path in (made["id"], made["id"], "00000000-0000-4000-8000-000000000000", "no-uuid"):
        await client.get(f"{GENERATIONS}/{path}")
    await client.post(GENERATIONS, json={"prompt": " "})
    await client.patch(f"{GENERATIONS}/{made['id']}", json={})
    await stranger.get(GENERATIONS)
    await stranger.get("/nowhere/at/all")
    alone.worker.paint(made["id"])
    picture = (await client.record(made["id"]))["outputImage"]["storageUrl"]
    assert (await stranger.get(picture)).status_code == 200
    found = await figures(alone)
    assert requests(found, "POST", GENERATIONS, 201) == 2
    assert requests(found, "POST", GENERATIONS, 400) == 1
    assert requests(found, "GET", ONE, 200) == 3
    assert requests(found, "GET", ONE, 404) == 2
    assert requests(found, "PATCH", "other", 405) == 1
    assert requests(found, "GET", "other", 401) == 1
    assert requests(found, "GET", "other", 404) == 1
    assert requests(found, "GET", "/storage/{storage_key}", 200) == 1
    name = "banatie_http_request_duration_seconds"
    assert found(f"{name}_count", method="GET", route=ONE) == 5
    assert found(f"{name}_bucket", method="GET", route=ONE, le="+Inf") == 5
    assert 0 < found(f"{name}_sum", method="GET", route=ONE) < 60
    assert requests(await figures(alone), "GET", "/metrics", 200) == 1


async def test_nobody_can_make_figures_at_will(alone):
    visitor = alone.visitor()
    for number in range(20):
        await visitor.request(f"FROB{number}", "/health")
        await visitor.get(f"/x{number}")
        await visitor.get(f"/docs/x{number}")
    found = await figures(alone)
    methods = {s.labels["method"] for s in found.samples if "method" in s.labels}
    routes = {s.labels["route"] for s in found.samples if "route" in s.labels}
    assert methods == {"GET", "other"}
    assert routes == {"other", "/docs/{name}"}
    assert len(found.by("banatie_http_requests_total", "status")) == 2


async def test_the_queue_the_outcomes_and_the_stages_are_told(alone):
    client = alone.client()
    done, failed, cancelled = [await client.create(autoEnhance=False) for _ in range(3)]
    alone.clock.advance(seconds=2)
    alone.worker.paint(done["id"])
    alone.worker.fail(failed["id"], "No")
    await client.post(f"{GENERATIONS}/{cancelled['id']}/cancel")
    await client.create()
    alone.clock.advance(seconds=7)
    found = await figures(alone)
    assert found("banatie_generations_accepted_total") == 4
    ended = "banatie_generations_ended_total"
    assert found(ended, status="success", reason="") == 1
    assert found.by(ended, "reason") == {"": 1, "unforeseen": 1, "cancelled": 1}
    queue = "banatie_queue_generations"
    assert found(queue, stage="enhance", state="waiting") == 1
    assert found(queue, stage="paint", state="waiting") == 0
    assert found("banatie_queue_oldest_seconds") == 7
    stage = "banatie_stage_duration_seconds"
    assert found(f"{stage}_count", stage="paint_wait") == 2
    assert found(f"{stage}_sum", stage="paint_wait") == 4
    assert found(f"{stage}_bucket", stage="paint_wait", le="1.0") == 0
    assert found(f"{stage}_bucket", stage="paint_wait", le="2.5") == 2
    assert found(f"{stage}_bucket", stage="paint_wait", le="+Inf") == 2
    assert set(found.by(f"{stage}_count", "stage")) == {
        *("enhance_wait", "enhance", "paint_wait", "paint", "encode", "save")
    }


async def test_figures_of_generations_hold_across_restarts_and_deletions(tmp_path):
    async with serving(tmp_path) as server:
        client = server.client(project="p")
        made = await client.create(autoEnhance=False)
        server.worker.paint(made["id"])
        await client.delete(f"{GENERATIONS}/{made['id']}")
    async with serving(tmp_path) as server:
        found = await figures(server)
    assert found("banatie_generations_accepted_total") == 1
    assert found("banatie_generations_ended_total", status="success", reason="") == 1
    assert found("banatie_stage_duration_seconds_count", stage="paint_wait") == 1


async def test_the_workers_state_and_memory_are_told_while_it_is_there(alone):
    found = await figures(alone)
    assert found("banatie_worker_ready") == 0
    assert found("banatie_memory_bytes", process="worker") is None
    assert found("banatie_memory_bytes", process="web") > 10_000_000
    alone.services.workers.report(READY, alone.clock())
    found = await figures(alone)
    assert found("banatie_worker_ready") == 1
    assert found("banatie_memory_bytes", process="worker") == 812_000_000
    assert found.by("banatie_gpu_memory_total_bytes", "device") == {}
    alone.clock.advance(seconds=16)
    assert (await figures(alone))("banatie_worker_ready") == 0


async def test_the_memory_of_a_gpu_is_told_where_there_is_one(alone):
    worker = WorkerState(
        "w", 1, "ready", device="cuda", device_memory_used=7, device_memory_total=24
    )
    alone.services.workers.report(worker, alone.clock())
    found = await figures(alone)
    assert found("banatie_gpu_memory_used_bytes", device="cuda") == 7
    assert found("banatie_gpu_memory_total_bytes", device="cuda") == 24


async def test_several_workers_are_counted_and_each_gpu_is_told_once(alone):
    def report(name: str, state: str, device: str, used: int) -> None:
        worker = WorkerState(
            name,
            1,
            state,
            device=device,
            memory_bytes=1000,
            device_memory_used=used,
            device_memory_total=24,
        )
        alone.services.workers.report(worker, alone.clock())

    report("a", "ready", "cuda:0", 7)
    report("b", "ready", "cuda:0", 7)
    report("c", "starting", "cuda:1", 2)
    found = await figures(alone)
    assert found("banatie_worker_ready") == 1
    assert found.by("banatie_workers", "state") == {"ready": 2, "starting": 1, "broken": 0}
    assert found("banatie_memory_bytes", process="worker") == 3000
    assert found.by("banatie_gpu_memory_used_bytes", "device") == {"cuda:0": 7, "cuda:1": 2}


async def test_requests_are_told_even_when_the_database_is_gone(alone):
    await alone.visitor().get("/api/info")
    assert (await figures(alone))("banatie_database_up") == 1
    alone.execute("DROP TABLE outcomes")
    found = await figures(alone)
    assert found("banatie_database_up") == 0
    assert requests(found, "GET", "/api/info", 200) == 1
    assert found("banatie_generations_accepted_total") is None


async def test_nothing_personal_is_in_it(alone):
    client = alone.client(project="secret-project")
    made = await client.create(prompt="a confidential fox")
    await client.get(f"{GENERATIONS}/{made['id']}", headers={"User-Agent": "spy"})
    response = await alone.visitor().get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    for word in ("secret-project", "confidential", client.key, made["id"], client.project_id):
        assert word not in response.text
    assert "x-ratelimit-limit" not in response.headers


async def test_it_can_be_turned_off(tmp_path):
    async with serving(tmp_path, server__metrics=False) as server:
        assert_failure(await server.visitor().get("/metrics"), 404, "NOT_FOUND")
        assert (await server.visitor().get("/api/info")).status_code == 200


async def test_the_request_that_asked_is_known_by_the_row(alone):
    client = alone.client()
    response = await client.post(GENERATIONS, json={"prompt": "a fox"})
    [made] = alone.generations_of(client)
    assert made.request_id == response.headers["x-request-id"]
    assert made.request_id not in response.text
    record = await client.get(f"{GENERATIONS}/{made.id}")
    assert made.request_id not in record.text


async def test_a_generation_that_no_request_asked_for_has_none(alone):
    client = alone.client()
    made = alone.services.intake.submit(client.project_id, Submission("a fox")).generation
    assert made.request_id is None
