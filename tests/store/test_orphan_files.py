"""Orphaned files are deleted, and never a file whose row is about to be written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from banatie.records import Image
from banatie.store.files import Files, generated_key, image_key
from banatie.store.orphan_files import delete_orphans

# A process that writes a file and is killed before its row is there.
WRITER = """
import sys
from pathlib import Path
from banatie.store.files import Files
with Files(Path(sys.argv[1])).prepared(sys.argv[2], b"picture") as publish:
    if sys.argv[3] == "published":
        publish()
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path / "storage")


def key(project_id: str, number: int) -> str:
    return generated_key("default", project_id, f"00000000-0000-4000-8000-00000000000{number}")


def test_what_no_row_knows_is_deleted_and_what_a_row_knows_is_kept(
    database, files, paint, submit, project_id
):
    submit(auto_enhance=False)
    assert paint("00000000-0000-4000-8000-000000000001").id
    upload = image_key("default", project_id, "1", "uploaded", "webp")
    for storage_key in (key(project_id, 1), key(project_id, 2), upload):
        files.save(storage_key, b"picture")
    files.path(key(project_id, 2)).with_suffix(".png.part").write_bytes(b"half")
    assert delete_orphans(database, files) == 3
    assert files.stored() == {key(project_id, 1)}
    assert delete_orphans(database, files) == 0


@pytest.mark.parametrize("stage", ["prepared", "published"])
def test_a_file_is_left_to_the_process_that_writes_it_until_that_dies(
    stage, database, files, project_id
):
    command = [sys.executable, "-c", WRITER, str(files.folder), key(project_id, 1), stage]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"written\n"
        assert delete_orphans(database, files) == 0
        assert len(files.stored()) == 1
        writer.kill()
        writer.wait()
        assert delete_orphans(database, files) == 1
    assert files.stored() == set()


def test_a_file_appears_with_its_row_while_sweeps_go_on(
    database, files, submit, claims, project_id
):
    submit(auto_enhance=False)
    taken = claims.claim("paint", 2)
    claims.start_painting(taken.id, model="m", steps=1, guidance_scale=1.0, now=2)
    own = key(project_id, 1)
    image = Image(own.split("/")[-1][:-4], project_id, own, "image/png", 8, 8, 7, 1)
    with files.prepared(own, b"picture") as publish:
        assert delete_orphans(database, files) == 0
        assert claims.succeed(taken.id, image, 1, 3, publish=publish)
        assert delete_orphans(database, files) == 0
    assert delete_orphans(database, files) == 0
    assert files.stored() == {own}
