"""The save stage: files, their text, and rows that are gone by then."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from PIL import Image

from banatie.models.import_file import import_model
from banatie.models.manifest import Manifest, write_manifest
from banatie.records import LoraUse
from banatie.worker.save import BLANK, PaintedJob
from tests.support.single_files import write_lora


def test_metadata_can_be_left_out(make_bench, submit, generations):
    bench = make_bench(**{"storage.metadata": False})
    made = submit(auto_enhance=False, steps=1)
    bench.paint.run_waiting()
    done = generations.find(made.id)
    with Image.open(bench.files.path(done.image.storage_key)) as picture:
        assert picture.info == {}


def test_imported_files_are_named_by_their_own_hashes(
    make_bench, model_folder, submit, generations, tmp_path
):
    checkpoint = hashlib.sha256(b"the checkpoint").hexdigest()
    manifest = Manifest("painting", "sdxl", "", "", "", original_sha256=checkpoint)
    write_manifest(model_folder / "sdxl", manifest)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    file = tmp_path / "hashed.safetensors"
    write_lora(file, {layer: torch.Size((16, 16))}, rank=4, alpha=2)
    import_model(file, model_folder, lambda _: None, configs=model_folder / "sdxl")
    try:
        bench = make_bench()
        plain = submit(auto_enhance=False, steps=1)
        inked = submit(auto_enhance=False, steps=1, loras=(LoraUse("hashed"),))
        bench.paint.run_waiting()
        texts = []
        for made in (plain, inked):
            with Image.open(bench.files.path(generations.find(made.id).image.storage_key)) as image:
                texts.append(image.text["parameters"])
        assert all(f", Model hash: {checkpoint[:10]}, " in text for text in texts)
        content = file.read_bytes()
        weights = content[8 + int.from_bytes(content[:8], "little") :]
        digits = hashlib.sha256(weights).hexdigest()[:12]
        assert f', Lora hashes: "hashed: {digits}", ' in texts[1]
        assert "Lora hashes" not in texts[0]
    finally:
        shutil.rmtree(model_folder / "hashed")
        (model_folder / "sdxl" / "banatie.json").unlink()


def test_a_folder_without_a_file_of_its_own_claims_no_hash_of_one(bench, submit, generations):
    made = submit(auto_enhance=False, steps=1)
    bench.paint.run_waiting()
    with Image.open(bench.files.path(generations.find(made.id).image.storage_key)) as picture:
        text = picture.text["parameters"]
    assert "Model hash" not in text
    assert f", UNet hash: {bench.painter.fingerprint}, " in text


@pytest.mark.parametrize(("spread", "is_blank"), [(0, True), (4, True), (40, False)])
def test_a_picture_of_one_colour_is_told(bench, submit, generations, spread, is_blank):
    made = submit(auto_enhance=False, steps=1)
    job = bench.jobs.build(made)
    # Half of the picture is as much lighter as the spread says.
    picture = Image.new("RGB", (32, 32), (90, 90, 90))
    picture.paste((90 + spread, 90, 90), (0, 0, 16, 32))
    [claimed] = bench.rows.claim_batch(1)
    bench.rows.claims.start_painting(made.id, model="m", steps=1, guidance_scale=1.0, now=2)
    bench.save.submit([PaintedJob(claimed, job, picture, 0.0, 1.0, ("told before",))])
    bench.save.wait()
    done = generations.find(made.id)
    assert done.status == "success"
    assert done.warnings == ("told before", *([BLANK] if is_blank else []))


def test_a_picture_is_saved_while_the_next_is_painted(bench, submit, generations, monkeypatch):
    made = [submit(auto_enhance=False, steps=1, seed=seed) for seed in range(2)]
    next_is_painted = threading.Event()
    prepared, order = bench.files.prepared, []

    def prepared_late(storage_key: str, data: bytes) -> AbstractContextManager[Callable[[], None]]:
        if not order:
            assert next_is_painted.wait(20)
            # Meanwhile it is neither lost nor taken for one that was dropped.
            assert bench.rows.requeue_dropped() == 0
        order.append(storage_key)
        return prepared(storage_key, data)

    def painted(*_: object) -> None:
        if generations.find(made[1].id).status == "processing":
            next_is_painted.set()

    monkeypatch.setattr(bench.files, "prepared", prepared_late)
    hook = bench.painter._pipeline.unet.register_forward_hook(painted)
    bench.paint.run_waiting()
    hook.remove()
    assert {generations.find(each.id).status for each in made} == {"success"}
    assert len(order) == 2


def test_a_row_deleted_while_its_file_was_written_leaves_no_file(
    bench, submit, generations, project_id, monkeypatch
):
    made = submit(auto_enhance=False, steps=1)
    prepared = bench.files.prepared

    @contextmanager
    def prepared_and_deleted(storage_key: str, data: bytes) -> Iterator[Callable[[], None]]:
        with prepared(storage_key, data) as publish:
            generations.delete(project_id, made.id, 50)
            yield publish

    monkeypatch.setattr(bench.files, "prepared", prepared_and_deleted)
    bench.paint.run_waiting()
    assert bench.stored() == []
