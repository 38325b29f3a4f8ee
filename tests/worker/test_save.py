"""The save stage: files, their text, and rows that are gone by then."""

from __future__ import annotations

import threading

from PIL import Image


def test_metadata_can_be_left_out(make_bench, submit, generations):
    bench = make_bench(**{"storage.metadata": False})
    made = submit(auto_enhance=False, steps=1)
    bench.paint.run_waiting()
    done = generations.find(made.id)
    with Image.open(bench.files.path(done.image.storage_key)) as picture:
        assert picture.info == {}


def test_a_picture_is_saved_while_the_next_is_painted(bench, submit, generations, monkeypatch):
    made = [submit(auto_enhance=False, steps=1, seed=seed) for seed in range(2)]
    next_is_painted = threading.Event()
    save, order = bench.files.save, []

    def save_late(storage_key: str, data: bytes) -> None:
        if not order:
            assert next_is_painted.wait(20)
            # Meanwhile it is neither lost nor taken for one that was dropped.
            assert bench.rows.requeue_dropped() == 0
        order.append(storage_key)
        save(storage_key, data)

    def painted(*_: object) -> None:
        if generations.find(made[1].id).status == "processing":
            next_is_painted.set()

    monkeypatch.setattr(bench.files, "save", save_late)
    hook = bench.painter._pipeline.unet.register_forward_hook(painted)
    bench.paint.run_waiting()
    hook.remove()
    assert {generations.find(each.id).status for each in made} == {"success"}
    assert len(order) == 2


def test_a_row_deleted_while_its_file_was_written_leaves_no_file(
    bench, submit, generations, project_id, monkeypatch
):
    made = submit(auto_enhance=False, steps=1)
    save = bench.files.save

    def save_and_delete(storage_key: str, data: bytes) -> None:
        save(storage_key, data)
        generations.delete(project_id, made.id)

    monkeypatch.setattr(bench.files, "save", save_and_delete)
    bench.paint.run_waiting()
    assert bench.stored() == []
