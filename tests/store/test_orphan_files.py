"""Orphaned files are deleted, and never a file whose row is about to be written."""

from __future__ import annotations

import pytest

from banatie.records import Image
from banatie.store.claims import Claims
from banatie.store.files import Files, generated_key
from banatie.store.images import Images
from banatie.store.orphan_files import OrphanFiles


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path / "storage")


@pytest.fixture
def orphans(database, files) -> OrphanFiles:
    return OrphanFiles(database, files)


def key(project_id: str, number: int) -> str:
    return generated_key("default", project_id, f"00000000-0000-4000-8000-00000000000{number}")


def test_what_no_row_knows_is_swept_at_once_when_nobody_works(
    orphans, files, paint, submit, project_id
):
    submit(auto_enhance=False)
    known = paint("00000000-0000-4000-8000-000000000001").id
    assert known
    for number in (1, 2):
        files.save(key(project_id, number), b"picture")
    files.path(key(project_id, 2)).with_suffix(".png.part").write_bytes(b"half")
    orphans.scan()
    assert orphans.delete_orphans() == 2
    assert files.generated() == {key(project_id, 1)}
    assert orphans.delete_orphans() == 0


def test_a_file_whose_row_is_about_to_know_it_is_left(
    orphans, files, submit, claims, database, project_id
):
    submit(auto_enhance=False)
    taken = claims.claim("paint", 2)
    stray, own = key(project_id, 2), key(project_id, 1)
    for name in (stray, own):
        files.save(name, b"picture")
    orphans.scan()
    assert orphans.delete_orphans() == 0
    assert files.generated() == {stray, own}
    _succeed(claims, taken, own)
    # What is begun after the look holds nothing up, and its file is not touched.
    submit(auto_enhance=False)
    claims.claim("paint", 4)
    late = key(project_id, 3)
    files.save(late, b"picture")
    assert orphans.delete_orphans() == 1
    assert files.generated() == {own, late}
    assert Images(database).storage_keys() == {own}


@pytest.mark.parametrize("end", ["cancel", "take back and again"])
def test_a_row_that_is_let_go_holds_the_sweep_up_no_longer(
    end, orphans, files, submit, claims, generations, project_id
):
    submit(auto_enhance=False)
    taken = claims.claim("paint", 2)
    files.save(key(project_id, 1), b"picture")
    orphans.scan()
    if end == "cancel":
        generations.cancel(project_id, taken.id, 3)
    else:
        claims.release_claims(3)
        assert claims.claim("paint", 4).id == taken.id
    assert orphans.delete_orphans() == 1


def _succeed(claims: Claims, generation, storage_key: str) -> None:
    image_id = storage_key.rpartition("/")[2].removesuffix(".png")
    image = Image(image_id, generation.project_id, storage_key, "image/png", 8, 8, 7, 1)
    claims.start_painting(generation.id, model="m", steps=1, guidance_scale=1.0, now=2)
    assert claims.succeed(generation.id, image, 1, 3)
