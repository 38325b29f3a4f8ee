"""The paint stage: batches, LoRAs, memory that runs out, cancelling and stopping."""

from __future__ import annotations

import torch
from PIL import Image

from banatie.devices.memory_plan import Plan
from banatie.errors import ServiceUnavailable
from banatie.models.import_file import import_model
from banatie.models.known_words import FILE
from banatie.records import LoraUse
from tests.support.single_files import write_lora
from tests.worker.conftest import raising


def test_each_ratio_has_the_models_size(bench, submit, generations):
    made = [submit(auto_enhance=False, steps=1, aspect_ratio=r) for r in bench.model.sizes]
    bench.paint.run_waiting()
    for generation in made:
        image = generations.find(generation.id).image
        assert (image.width, image.height) == bench.model.sizes[generation.aspect_ratio]


def test_a_picture_is_painted_with_its_loras_and_says_so(bench, model_folder, submit, generations):
    folder = model_folder
    layer = "unet.mid_block.attentions.0.proj_in"
    write_lora(folder / "ink.safetensors", {layer: torch.Size((16, 16))}, rank=4, alpha=None)
    configs = bench.model.folder
    import_model(folder / "ink.safetensors", folder, lambda line: None, configs=configs)
    loras = (LoraUse("ink", -0.5),)
    made = [
        submit("a car", auto_enhance=False, steps=1, seed=7, loras=use) for use in ((), loras, ())
    ]
    bench.paint.run_waiting()
    pictures = []
    for generation in made:
        done = generations.find(generation.id)
        assert (done.status, done.loras) == ("success", generation.loras)
        pictures.append(Image.open(bench.files.path(done.image.storage_key)))
    plain, inked, again = pictures
    assert plain.tobytes() == again.tobytes() != inked.tobytes()
    assert inked.text["parameters"].startswith("a car <lora:ink:-0.5>\nSteps: 1,")
    assert plain.text["parameters"].startswith("a car\nSteps: 1,")


def test_tags_are_neither_read_as_words_nor_written_into_the_file(bench, submit, generations):
    tag = "<lora:none:0.8>"
    made = [
        submit(f"a car{tag}", auto_enhance=False, steps=1, seed=7, negative_prompt=f"x {tag}"),
        submit("a car", auto_enhance=False, steps=1, seed=7, negative_prompt="x"),
        submit(f"a car {tag}", steps=1, seed=7),
    ]
    bench.enhance.run_waiting()
    bench.paint.run_waiting()
    done = [generations.find(each.id) for each in made]
    assert done[0].prompt == done[0].original_prompt == f"a car{tag}"
    assert done[2].original_prompt == f"a car {tag}"
    tagged, plain, enhanced = (
        Image.open(bench.files.path(each.image.storage_key)) for each in done
    )
    assert tagged.tobytes() == plain.tobytes()
    assert tagged.text == plain.text
    assert "lora" not in enhanced.text["parameters"]


def test_a_model_with_few_words_says_when_a_prompt_names_none_of_them(
    bench, submit, generations, model_folder
):
    words = bench.model.folder / FILE
    words.write_text('{"objects": ["fox", "ice cream"]}')
    try:
        made = [submit(text, auto_enhance=False, steps=1) for text in ("a violin", "a red FOX")]
        bench.paint.run_waiting()
    finally:
        words.unlink()
    unknown, known = (generations.find(each.id) for each in made)
    assert known.warnings == ()
    [warning] = unknown.warnings
    assert warning.startswith("The model sdxl knows nothing that this prompt names")
    assert "`banatie models pull sdxl-lightning-4step`" in warning


def test_a_lora_that_is_gone_fails_its_picture_alone(bench, submit, generations):
    gone = submit(auto_enhance=False, steps=1, loras=(LoraUse("gone"),))
    after = submit(auto_enhance=False, steps=1)
    bench.paint.run_waiting()
    assert "no LoRA called 'gone' is installed" in generations.find(gone.id).error_message
    assert generations.find(after.id).status == "success"


def test_an_unexpected_error_fails_one_row_and_reveals_no_internals(
    bench, submit, generations, caplog
):
    bad, good = (submit(auto_enhance=False, steps=1) for _ in range(2))
    unet = bench.painter._pipeline.unet
    hooks = []
    hooks.append(unet.register_forward_pre_hook(raising(ValueError("/secret/path"), hooks)))
    bench.paint.run_waiting()
    failed = generations.find(bad.id)
    assert failed.status == "failed"
    assert "ValueError" in failed.error_message
    assert "secret" not in failed.error_message
    assert "/secret/path" in caplog.text
    assert generations.find(good.id).status == "success"


def test_out_of_memory_ends_one_row_with_what_to_do(bench, submit, generations):
    bad, good = (submit(auto_enhance=False, steps=1) for _ in range(2))
    hooks = []
    error = torch.OutOfMemoryError("CUDA out of memory")
    hooks.append(bench.painter._pipeline.unet.register_forward_pre_hook(raising(error, hooks)))
    bench.paint.run_waiting()
    assert "memory" in generations.find(bad.id).error_message
    assert generations.find(good.id).status == "success"


def test_out_of_memory_steps_down_and_paints_it_again(make_bench, submit, generations, caplog):
    bench = make_bench(smaller=(Plan(tiled=True),))
    made = [submit(auto_enhance=False, steps=1) for _ in range(2)]
    hooks = []
    error = torch.OutOfMemoryError("CUDA out of memory")
    unet = bench.painter._pipeline.unet
    hooks.append(unet.register_forward_pre_hook(raising(error, hooks)))
    bench.paint.run_waiting()
    bench.painter._pipeline.vae.disable_tiling()
    assert {generations.find(each.id).status for each in made} == {"success"}
    assert caplog.text.count("out of memory; plan until the next start:") == 1


def test_out_of_memory_in_a_batch_paints_one_by_one(make_bench, submit, generations):
    bench = make_bench(batch=4)
    made = [submit(auto_enhance=False, steps=1, seed=seed) for seed in range(4)]
    painted = []

    def run_out(unet: torch.nn.Module, inputs: tuple) -> None:
        painted.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = bench.painter._pipeline.unet.register_forward_pre_hook(run_out)
    bench.paint.run_waiting()
    hook.remove()
    assert painted == [8, 2, 2, 2, 2]
    assert {generations.find(each.id).status for each in made} == {"success"}


def test_alike_rows_are_painted_together(make_bench, submit, generations):
    bench = make_bench(batch=3)
    long = "a red car, " * 60
    made = [
        *(submit(auto_enhance=False, steps=1, seed=seed) for seed in range(4)),
        submit(auto_enhance=False, steps=1, aspect_ratio="9:16"),
        submit(auto_enhance=False, steps=2),
        submit(long, auto_enhance=False, steps=2),
    ]
    painted = []

    def look(unet: torch.nn.Module, inputs: tuple) -> None:
        painted.append((len(inputs[0]) // 2, tuple(inputs[0].shape[2:])))

    hook = bench.painter._pipeline.unet.register_forward_pre_hook(look)
    bench.paint.run_waiting()
    hook.remove()
    square, tall = (32, 32), painted[2][1]
    # A longer text is painted by itself, and each of the last two takes two steps.
    alone = [(1, square)] * 4
    assert painted == [(3, square), (1, square), (1, tall), *alone]
    done = [generations.find(each.id) for each in made]
    assert {each.status for each in done} == {"success"}
    assert len({bench.files.path(each.image.storage_key).read_bytes() for each in done}) == 7


def test_a_batch_that_cannot_be_taken_is_painted_one_by_one(
    make_bench, submit, generations, claims, monkeypatch
):
    bench = make_bench(batch=3)
    made = [submit(auto_enhance=False, steps=1, seed=seed) for seed in range(2)]

    def locked(*_: object) -> None:
        raise ServiceUnavailable("The database is locked")

    monkeypatch.setattr(claims, "claim_like", locked)
    bench.paint.run_waiting()
    assert {generations.find(each.id).status for each in made} == {"success"}


def test_of_a_batch_a_cancelled_row_is_left_out_and_the_others_painted(
    make_bench, submit, generations, project_id
):
    bench = make_bench(batch=3)
    made = [submit(auto_enhance=False, steps=5, seed=seed) for seed in range(3)]

    def cancel(*_: object) -> None:
        generations.cancel(project_id, made[1].id, 5)

    hook = bench.painter._pipeline.unet.register_forward_hook(cancel)
    bench.paint.run_waiting()
    hook.remove()
    found = [generations.find(each.id) for each in made]
    assert [each.status for each in found] == ["success", "failed", "success"]
    assert found[1].error_message == "Cancelled"
    assert len(bench.stored()) == 2


def test_cancelling_stops_within_a_step(bench, submit, generations, project_id):
    made = submit(auto_enhance=False, steps=50)
    seen = []

    def cancel_at_the_third(*_: object) -> None:
        seen.append(1)
        if len(seen) == 3:
            generations.cancel(project_id, made.id, 5)

    hook = bench.painter._pipeline.unet.register_forward_hook(cancel_at_the_third)
    try:
        bench.paint.run_waiting()
    finally:
        hook.remove()
    cancelled = generations.find(made.id)
    assert (cancelled.status, cancelled.error_message) == ("failed", "Cancelled")
    assert len(seen) == 3
    assert bench.stored() == []


def test_stopping_leaves_the_row_to_be_taken_back(bench, submit, generations, claims):
    made = submit(auto_enhance=False, steps=50)
    hook = bench.painter._pipeline.unet.register_forward_hook(lambda *_: bench.rows.stopping.set())
    try:
        bench.paint.run_waiting()
    finally:
        hook.remove()
    assert generations.find(made.id).status == "processing"
    assert claims.release_claims(1) == 1
    assert generations.find(made.id).status == "pending"
