"""The pictures' files."""

from __future__ import annotations

import pytest

from banatie.errors import DataFolderUnusable
from banatie.store.files import Files, generated_key, image_key


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


def test_files_appear_whole_and_are_found(files):
    kept, stray = generated_key("o", "p", "1"), image_key("o", "p", "2", "uploaded", "jpeg")
    files.save(kept, b"one")
    files.save(stray, b"two")
    files.path(kept).with_suffix(".png.part").write_bytes(b"half")
    assert files.stored() == {kept, stray, f"{kept}.part"}
    files.remove(kept)
    files.remove(kept)
    assert not files.path(kept).exists()


def test_a_file_that_is_not_published_never_appears(files):
    key = generated_key("o", "p", "1")
    with files.prepared(key, b"new"):
        assert not files.path(key).exists()
    assert files.stored() == set()


def test_a_published_file_replaces_the_old_one_which_its_readers_keep(files):
    key = generated_key("o", "p", "1")
    files.save(key, b"old")
    with files.path(key).open("rb") as reader:
        with files.prepared(key, b"newer") as publish:
            assert files.path(key).read_bytes() == b"old"
            publish()
        assert reader.read() == b"old"
    assert files.path(key).read_bytes() == b"newer"
    assert files.stored() == {key}


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_row_that_fails_leaves_what_was_there_before(files, before):
    key = generated_key("o", "p", "1")
    if before:
        files.save(key, before)
    with pytest.raises(RuntimeError), files.prepared(key, b"new"):
        raise RuntimeError
    assert files.stored() == ({key} if before else set())
    if before:
        assert files.path(key).read_bytes() == before


def test_a_file_that_cannot_be_written_is_reported(files):
    (files.folder / "o").write_text("a file, not a folder")
    with (
        pytest.raises(DataFolderUnusable, match="could not be saved"),
        files.prepared(generated_key("o", "p", "1"), b"new"),
    ):
        pytest.fail("it must not get here")
