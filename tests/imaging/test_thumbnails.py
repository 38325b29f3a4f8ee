"""Thumbnails: made once, again when the picture changes, in a folder that may vanish."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from banatie.imaging.thumbnails import MAX_COPIES, Thumbnails

ID = "0d5c3a52-8f0a-4c06-9d6c-0b8b8e7f1c11"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGBA", (120, 80), (200, 30, 30, 255)).save(path)
    return path


@pytest.fixture
def thumbnails(tmp_path: Path) -> Thumbnails:
    return Thumbnails(tmp_path / "cache")


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (60, None, (60, 40)),
        (None, 20, (30, 20)),
        (60, 10, (15, 10)),
        (500, 500, (120, 80)),
        (None, None, (120, 80)),
        (1, 1, (1, 1)),
    ],
)
def test_a_copy_fits_into_its_bounds_and_is_never_enlarged(
    thumbnails: Thumbnails, source: Path, width: int | None, height: int | None, size: tuple
) -> None:
    for form in ("png", "jpeg", "webp"):
        with Image.open(thumbnails.get(ID, source, form, width, height)) as image:
            assert (image.format, image.size) == (form.upper(), size)
            assert abs(image.convert("RGB").getpixel((0, 0))[0] - 200) < 10


def test_a_copy_is_made_once(thumbnails: Thumbnails, source: Path) -> None:
    first = thumbnails.get(ID, source, "jpeg", 60)
    written = first.stat()
    again = thumbnails.get(ID, source, "jpeg", 60)
    assert again == first
    assert (again.stat().st_ino, again.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert thumbnails.get(ID, source, "jpeg", 61) != first


def test_the_folder_can_be_deleted_at_any_time(
    thumbnails: Thumbnails, source: Path, tmp_path: Path
) -> None:
    thumbnails.get(ID, source, "jpeg", 60)
    shutil.rmtree(tmp_path / "cache")
    assert thumbnails.get(ID, source, "jpeg", 60).is_file()


def test_a_picture_made_again_gets_a_new_copy_and_the_old_one_goes(
    thumbnails: Thumbnails, source: Path
) -> None:
    old = thumbnails.get(ID, source, "png", 60)
    Image.new("RGB", (120, 80), "blue").save(source)
    new = thumbnails.get(ID, source, "png", 60)
    with Image.open(new) as image:
        assert image.getpixel((0, 0)) == (0, 0, 255)
    assert not old.exists()


def test_copies_of_one_picture_do_not_pile_up(thumbnails: Thumbnails, source: Path) -> None:
    for width in range(1, MAX_COPIES + 9):
        newest = thumbnails.get(ID, source, "jpeg", width)
    copies = list(newest.parent.iterdir())
    assert len(copies) == MAX_COPIES
    assert newest in copies


def test_what_is_gone_has_no_copies(thumbnails: Thumbnails, source: Path, tmp_path: Path) -> None:
    copy = thumbnails.get(ID, source, "png", 60)
    thumbnails.remove(ID)
    thumbnails.remove(ID)
    assert not copy.exists()
    source.unlink()
    with pytest.raises(FileNotFoundError):
        thumbnails.get(ID, source, "png", 60)


def test_many_ask_at_once_and_nobody_sees_half_a_file(thumbnails: Thumbnails, source: Path) -> None:
    def ask(number: int) -> tuple[int, int]:
        with Image.open(thumbnails.get(ID, source, "png", 60 + number % 3)) as image:
            image.load()
            return image.size

    with ThreadPoolExecutor(8) as pool:
        sizes = set(pool.map(ask, range(60)))
    assert {width for width, _ in sizes} == {60, 61, 62}
