"""Pictures that go in: what is painted from them, what the record says, and what fails."""

from __future__ import annotations

import io
import json
import uuid

import numpy as np
import pytest
from PIL import ExifTags, Image

from banatie.models.ip_adapter import ADAPTER_FILE, IMAGE_ENCODER
from banatie.models.types import IpAdapter
from banatie.records import Image as ImageRecord
from banatie.store.images import insert_image
from banatie.worker.job_builder import ONLY_THE_FIRST, ONLY_THE_FIRST_WITH_A_MASK
from tests.support.tiny_ip_adapter import make_tiny_image_encoder, make_tiny_ip_adapter


@pytest.fixture
def store(bench, database, project_id):
    """Store a picture as an image; its id."""

    def store(picture: Image.Image) -> str:
        file, image_id = io.BytesIO(), str(uuid.uuid4())
        picture.save(file, "PNG")
        key = f"default/{project_id}/uploaded/{image_id}.png"
        bench.files.save(key, file.getvalue())
        size = (*picture.size, len(file.getvalue()))
        with database.writing() as connection:
            record = ImageRecord(image_id, project_id, key, "image/png", *size, 1)
            insert_image(connection, record)
        return image_id

    return store


@pytest.fixture
def ask(submit, generations, database):
    """Submit a generation whose row refers to images."""

    def ask(references=(), **columns):
        made = submit("a car", auto_enhance=False, steps=4, seed=7)
        if references:
            listed = [{"imageId": each, "alias": None, "storageKey": ""} for each in references]
            columns["reference_images"] = json.dumps(listed)
        with database.writing() as connection:
            for name, value in columns.items():
                connection.execute(
                    f"UPDATE generations SET {name} = ? WHERE id = ?", (value, made.id)
                )
        return generations.find(made.id)

    return ask


@pytest.fixture
def painted(bench, generations):
    """Paint all that waits; the ended generation and its picture."""

    def painted(made):
        bench.paint.run_waiting()
        done = generations.find(made.id)
        if done.image is None:
            return done, None
        with Image.open(bench.files.path(done.image.storage_key)) as picture:
            picture.load()
            return done, picture

    return painted


def red(size: tuple[int, int] = (128, 128)) -> Image.Image:
    return Image.new("RGB", size, (220, 30, 30))


def difference(picture: Image.Image, other: Image.Image) -> float:
    return np.abs(np.asarray(picture.convert("RGB")).astype(int) - np.asarray(other)).mean()


def test_a_reference_guides_the_picture_and_the_record_says_how(ask, painted, store):
    reference = store(red())
    plain, alone = painted(ask())
    assert (plain.reference_mode, plain.reference_strength) == (None, None)
    assert "Denoising" not in alone.text["parameters"]
    guided, picture = painted(ask([reference]))
    assert (guided.reference_mode, guided.reference_strength) == ("guide", 0.6)
    assert guided.warnings == ()
    assert picture.tobytes() != alone.tobytes()
    settings = f"Denoising strength: 0.4, Reference image: {reference}, "
    assert settings in picture.text["parameters"]
    _, same = painted(ask([reference]))
    assert same.tobytes() == picture.tobytes()
    stronger, _ = painted(ask([reference], reference_strength=0.9))
    assert stronger.reference_strength == 0.9


def test_of_several_references_the_first_is_used_and_the_record_says_so(ask, painted, store):
    first, second = store(red()), store(Image.new("RGB", (64, 64), "blue"))
    _, alone = painted(ask([first]))
    several, picture = painted(ask([first, second]))
    assert several.warnings == (ONLY_THE_FIRST,)
    assert picture.tobytes() == alone.tobytes()
    assert second not in picture.text["parameters"]


def test_what_a_mask_does_not_cover_stays_as_it_is(ask, painted, store):
    y, x = np.mgrid[0:128, 0:128]
    reference = Image.fromarray(np.stack([x, y, x ^ y], -1).astype(np.uint8))
    mask = Image.new("RGBA", (128, 128), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (64, 0, 128, 128))
    mask_id = store(mask)
    done, picture = painted(ask([store(reference)], mask_image_id=mask_id))
    assert (done.reference_mode, done.reference_strength) == ("inpaint", 0.0)
    assert f"Mask image: {mask_id}" in picture.text["parameters"]
    assert np.array_equal(np.asarray(picture)[:, :61], np.asarray(reference)[:, :61])
    assert not np.array_equal(np.asarray(picture)[:, 70:], np.asarray(reference)[:, 70:])


def test_several_references_are_combined_where_an_adapter_is_loaded(
    make_bench, model_folder, ask, store, generations, tmp_path
):
    (tmp_path / "adapter").mkdir()
    make_tiny_ip_adapter(tmp_path / "adapter" / ADAPTER_FILE, model_folder / "sdxl")
    make_tiny_image_encoder(tmp_path / "adapter" / IMAGE_ENCODER)
    adapter = IpAdapter("adapter", "Adapter", "none", tmp_path / "adapter")
    both = [store(red()), store(Image.new("RGB", (64, 64), "blue"))]
    bench = make_bench(ip_adapter=adapter)
    combined = ask(both)
    faint = ask(both, reference_strength=0.0)
    guided = ask(both[:1])
    edited = ask(both, mask_image_id=store(Image.new("L", (128, 128), 255)))
    bench.paint.run_waiting()
    done = [generations.find(each.id) for each in (combined, faint, guided, edited)]
    assert [each.status for each in done] == ["success"] * 4
    assert [(each.reference_mode, each.reference_strength) for each in done] == [
        ("ip-adapter", 0.6),
        ("ip-adapter", 0.0),
        ("guide", 0.6),
        ("inpaint", 0.0),
    ]
    assert [each.warnings for each in done] == [(), (), (), (ONLY_THE_FIRST_WITH_A_MASK,)]
    pictures = []
    for each in done:
        with Image.open(bench.files.path(each.image.storage_key)) as picture:
            picture.load()
            pictures.append(picture)
    assert len({picture.tobytes() for picture in pictures[:3]}) == 3
    named = f"Reference images: {both[0]} {both[1]}, IP-Adapter strength: 0.6"
    assert named in pictures[0].text["parameters"]
    assert "Denoising" not in pictures[0].text["parameters"]


def test_an_enlarged_picture_has_its_size_and_shows_its_progress(bench, ask, painted, monkeypatch):
    recorded: list[int] = []
    monkeypatch.setattr("banatie.worker.paint.PROGRESS_SECONDS", 0)
    record = bench.rows.claims.record_step
    monkeypatch.setattr(
        bench.rows.claims,
        "record_step",
        lambda id, step, *rest: (recorded.append(step), record(id, step, *rest)),
    )
    done, picture = painted(ask(upscale=1.5))
    assert (done.image.width, done.image.height) == picture.size == (192, 192)
    assert "Size: 128x128" in picture.text["parameters"]
    assert "Hires upscale: 1.5, Hires upscaler: Lanczos" in picture.text["parameters"]
    # Five steps in all, counted as parts of the record's four.
    assert recorded == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("form", "suffix", "quality"),
    [("png", ".png", None), ("jpeg", ".jpg", 35), ("webp", ".webp", 35)],
)
def test_a_picture_is_stored_in_its_format(ask, painted, form, suffix, quality):
    done, picture = painted(ask(output_format=form, quality=quality))
    assert done.image.mime_type == f"image/{form}" == Image.MIME[picture.format]
    assert done.image.storage_key.endswith(suffix)
    if form != "png":
        exif = picture.getexif().get_ifd(ExifTags.IFD.Exif)
        comment = exif[ExifTags.Base.UserComment]
        assert comment[8:].decode("utf-16-be").startswith("a car\nSteps: 4,")
        finer, _ = painted(ask(output_format=form, quality=95))
        assert finer.image.file_size > done.image.file_size


def test_a_picture_can_have_any_size(ask, painted, store):
    # 20 is no multiple of what a latent stands for in some models, and 88 × 72 no known ratio.
    reference = red((200, 40))
    done, picture = painted(ask([store(reference)], width=88, height=72))
    assert picture.size == (done.image.width, done.image.height) == (88, 72)


def test_a_source_that_is_gone_fails_its_picture_alone(bench, ask, painted, store, database):
    gone = store(red())
    without_file, damaged, kept = store(red()), store(red()), store(red())
    with database.writing() as connection:
        connection.execute("DELETE FROM images WHERE id = ?", (gone,))
    for image_id, data in ((without_file, None), (damaged, b"\x89PNG\r\n\x1a\nno more")):
        [path] = [path for path in bench.stored() if path.stem == image_id]
        path.write_bytes(data) if data else path.unlink()
    made = [ask([each]) for each in (gone, without_file, damaged, kept)]
    ended = [painted(each)[0] for each in made]
    assert [each.status for each in ended] == ["failed"] * 3 + ["success"]
    for each, image_id, words in (
        (ended[0], gone, "was deleted"),
        (ended[1], without_file, "is gone"),
        (ended[2], damaged, "is damaged"),
    ):
        assert image_id in each.error_message
        assert words in each.error_message
        assert "/" not in each.error_message


def test_alike_rows_with_references_are_painted_together(
    make_bench, ask, store, generations, bench
):
    batching = make_bench(batch=4)
    reference, other = store(red()), store(Image.new("RGB", (64, 64), "blue"))
    made = [ask([reference]), ask([other]), ask([reference], reference_strength=0.8), ask()]
    painted = []
    unet = batching.painter._pipeline.unet
    hook = unet.register_forward_pre_hook(lambda unet, inputs: painted.append(len(inputs[0]) // 2))
    batching.paint.run_waiting()
    hook.remove()
    assert {generations.find(each.id).status for each in made} == {"success"}
    assert painted == [2] * 2 + [1] * 1 + [1] * 4


def test_cancelling_stops_a_guided_picture_within_a_step(
    bench, ask, painted, store, generations, project_id
):
    made = ask([store(red())], steps=40, reference_strength=0.25)
    seen = []

    def cancel_at_the_third(*_: object) -> None:
        seen.append(1)
        if len(seen) == 3:
            generations.cancel(project_id, made.id, 5)

    hook = bench.painter._pipeline.unet.register_forward_hook(cancel_at_the_third)
    try:
        done, _ = painted(made)
    finally:
        hook.remove()
    assert (done.status, done.error_message) == ("failed", "Cancelled")
    assert len(seen) == 3
