"""Uploads and pictures that are made again, killed between the file and its row."""

from __future__ import annotations

import httpx
import pytest

from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.images import Images
from tests.support.api_server import picture_bytes
from tests.support.faulty_service import FaultyService

PLAIN = {"autoEnhance": False, "steps": 2}


def assert_consistent(service: FaultyService) -> None:
    """Every row of an image has its file, of its size, and there is no other file."""
    database = Database(service.data / "banatie.db")
    images, files = Images(database).all(), Files(service.data / "storage")
    database.close()
    assert files.stored() == {image.storage_key for image in images}
    for image in images:
        assert files.path(image.storage_key).stat().st_size == image.file_size


def upload(service: FaultyService, **fields: str) -> httpx.Response:
    return httpx.post(
        f"{service.url}/api/v1/images/upload",
        headers={"X-API-Key": service.key},
        files={"file": ("a.png", picture_bytes())},
        data=fields,
        trust_env=False,
        timeout=60,
    )


@pytest.mark.parametrize("fault", ["die_before_rename", "die_between_file_and_row"])
def test_killed_uploads_leave_no_stray(own_service: FaultyService, fault: str) -> None:
    process = own_service.serve_with_faults(**{fault: {"counter_file": own_service.counter_file()}})
    with pytest.raises(httpx.TransportError):
        upload(own_service, alias="@logo")
    own_service.wait_until_exited(process)
    assert len(Files(own_service.data / "storage").stored()) == 1
    own_service.serve_with_faults()
    # The name is free, and the sweep of the next worker leaves what is alive.
    assert upload(own_service, alias="@logo").status_code == 201
    own_service.start_worker_and_wait()
    assert len(Files(own_service.data / "storage").stored()) == 1
    assert_consistent(own_service)


@pytest.mark.parametrize(
    "fault",
    [
        *("die_at_step", "die_while_encoding", "die_before_rename"),
        *("die_between_file_and_row", "die_after_success_row"),
    ],
)
def test_a_worker_killed_while_it_makes_a_picture_again(service: FaultyService, fault: str) -> None:
    service.start_worker_and_wait()
    [before] = service.wait_until_all_ended([service.post("a red cat", **PLAIN)])
    url = before["outputImage"]["storageUrl"]
    service.kill_worker()
    parameters = {"counter_file": service.counter_file()} | (
        {"step": 1} if fault == "die_at_step" else {}
    )
    service.start_worker_and_wait(**{fault: parameters})
    service.request("PUT", f"/api/v1/generations/{before['id']}", json={"prompt": "a dog"})
    seen = set()

    def died() -> bool:
        answer = httpx.get(url, trust_env=False)
        assert answer.status_code == 200
        seen.add(answer.content)
        return not service.worker_is_alive()

    service.wait_for(died, "the worker to be killed")
    [after] = service.wait_until_all_ended([before])
    assert (after["status"], after["prompt"]) == ("success", "a dog")
    assert after["outputImage"]["storageUrl"] == url
    seen.add(httpx.get(url, trust_env=False).content)
    # The old one and the new one, each whole.
    assert 1 <= len(seen) <= 2
    service.paint("another picture, so that a sweep has been")
    assert_consistent(service)
