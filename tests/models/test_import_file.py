"""Imports: a model is installed complete, with its manifest, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from banatie.devices.runtime import Runtime
from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.catalog import Catalog
from banatie.models.import_file import import_model, model_name
from banatie.models.manifest import file_digests, is_model_name, read_manifest, sha256_of
from banatie.painting.painter import Painter, PaintJob
from tests.support.single_files import PARTS, write_checkpoint, write_empty_file
from tests.support.tiny_models import edit_json, make_tiny_language_model, make_tiny_sdxl

ROOT = Path(__file__).parents[2]
JOB = PaintJob("a red cat", "", width=48, height=32, steps=2, guidance_scale=5.0, seed=7)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # With two text encoders of different widths, as SDXL's are: by these they are told apart.
    return make_tiny_sdxl(tmp_path_factory.mktemp("made") / "pipeline", second_width=24)


@pytest.fixture(scope="module")
def checkpoint(pipeline: Path) -> Path:
    return write_checkpoint(pipeline, pipeline.parent / "Tiny Model (v1).safetensors")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def silent(line: str) -> None:
    assert "\n" not in line


def weights_of(folder: Path, part: str) -> dict[str, torch.Tensor]:
    [file] = (folder / part).glob("*.safetensors")
    return load_file(file)


def left(models: Path) -> set[str]:
    """What is in the models folder but the locks, which stay."""
    return {path.name for path in models.iterdir() if path.suffix != ".lock"}


def paint(folder: Path) -> bytes:
    model = Catalog(folder.parent).painting_model(str(folder))
    painter = Painter.load(model, Runtime("cpu", torch.float32, torch.float32))
    return painter.paint(JOB, lambda step, steps: None).tobytes()


def rewritten(file: Path, target: Path, **changes: torch.Tensor | None) -> Path:
    """The same checkpoint with other tensors; None leaves one out."""
    tensors = {**load_file(file), **changes}
    save_file({name: t for name, t in tensors.items() if t is not None}, target)
    return target


def test_a_checkpoint_becomes_the_pipeline_that_it_was_made_of(pipeline, checkpoint, models):
    said: list[str] = []
    manifest = import_model(checkpoint, models, said.append, configs=pipeline)
    folder = models / "Tiny-Model-v1"
    assert left(models) == {folder.name}
    for part in PARTS:
        made, original = weights_of(folder, part), weights_of(pipeline, part)
        assert made.keys() == original.keys()
        for name, tensor in made.items():
            assert tensor.dtype == torch.float16
            assert torch.equal(tensor, original[name].half())
    assert read_manifest(folder) == manifest
    assert manifest.kind == "painting"
    assert manifest.source.startswith("Tiny Model (v1).safetensors, SHA-256 ")
    assert manifest.files == file_digests(folder)
    assert {(path.stat().st_mode & 0o777) for path in folder.rglob("*.safetensors")} == {0o644}
    assert len(said) == 3


def test_what_was_imported_paints_the_same_picture(pipeline, models, tmp_path):
    file = write_checkpoint(pipeline, tmp_path / "whole.safetensors", torch.float32)
    import_model(file, models, silent, configs=pipeline)
    assert paint(models / "whole") == paint(pipeline)


@pytest.mark.parametrize(
    ("kept", "becomes"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
        (torch.float8_e4m3fn, torch.float16),
    ],
)
def test_the_precision_stays_and_float8_becomes_half(pipeline, models, tmp_path, kept, becomes):
    file = write_checkpoint(pipeline, tmp_path / "kept.safetensors", kept)
    import_model(file, models, silent, configs=pipeline)
    for part in PARTS:
        assert {t.dtype for t in weights_of(models / "kept", part).values()} == {becomes}


def test_what_other_programs_put_beside_is_left_out(pipeline, models, tmp_path):
    more = {
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77),
        "conditioner.embedders.1.model.logit_scale": torch.zeros(()),
        "denoiser.sigmas": torch.zeros(1000),
        "model_ema.decay": torch.zeros(()),
    }
    file = write_checkpoint(pipeline, tmp_path / "more.safetensors", more=more)
    import_model(file, models, silent, configs=pipeline)
    for part in PARTS:
        assert weights_of(models / "more", part).keys() == weights_of(pipeline, part).keys()


def test_a_checkpoint_that_predicts_velocity_gets_its_scheduler(pipeline, models, tmp_path):
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    file = write_checkpoint(pipeline, tmp_path / "noob.safetensors", torch.float32, marks)
    import_model(file, models, silent, configs=pipeline)
    config = json.loads((models / "noob" / "scheduler" / "scheduler_config.json").read_text())
    assert config["prediction_type"] == "v_prediction"
    assert config["rescale_betas_zero_snr"] is True
    assert config["timestep_spacing"] == "trailing"
    assert paint(models / "noob") != paint(pipeline)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_the_head_may_say_what_a_checkpoint_predicts(pipeline, models, tmp_path, prediction):
    metadata = {"modelspec.prediction_type": prediction, "modelspec.title": "A title"}
    file = write_checkpoint(pipeline, tmp_path / "told.safetensors", metadata=metadata)
    assert import_model(file, models, silent, configs=pipeline).title == "A title"
    config = json.loads((models / "told" / "scheduler" / "scheduler_config.json").read_text())
    expected = {"v": "v_prediction", "epsilon": "epsilon"}[prediction]
    assert config["prediction_type"] == expected
    assert config["timestep_spacing"] == "leading"


def test_a_checkpoint_of_another_size_is_refused_by_part_and_name(pipeline, models, tmp_path):
    # As wide as SDXL at the one place that is looked at first, and nowhere else.
    attends = "model.diffusion_model.input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"
    checkpoint = write_checkpoint(pipeline, tmp_path / "first.safetensors")
    wide = {name: torch.zeros(16, 2048) for name in load_file(checkpoint) if "attn2.to_k" in name}
    assert attends in wide
    file = rewritten(checkpoint, tmp_path / "small.safetensors", **wide)
    reason = (
        r"in its unet \S+input_blocks\.0\.0\.weight is 8×4×3×3, which should be 320×4×3×3; import"
    )
    with pytest.raises(ModelBroken, match=reason):
        import_model(file, models, silent)
    assert left(models) == set()


UNET = "model.diffusion_model."


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({UNET + "out.2.bias": None}, "not a plain Stable Diffusion XL: its unet lacks conv_out"),
        (
            {"conditioner.embedders.1.model.ln_final.bias": None},
            r"its text_encoder_2 lacks \S*final_layer_norm\.bias",
        ),
        (
            {"conditioner.embedders.0.transformer.more": torch.zeros(3)},
            r"its text_encoder has \S+transformer\.more, which is not expected",
        ),
        ({"first_stage_model.decoder.more": torch.zeros(3)}, r"its vae has \S+decoder\.more"),
        (
            {UNET + "out.0.bias": torch.zeros(2, 4)},
            r"unet \S+out\.0\.bias is 2×4, which should be 8",
        ),
        # As many numbers as there should be, and other names.
        (
            {UNET + "out.2.bias": None, UNET + "out.3.bias": torch.zeros(4)},
            "its unet lacks conv_out",
        ),
        # Of two layers of the same size each has the other's name.
        (
            {
                UNET + "middle_block.0.in_layers.0.bias": None,
                UNET + "middle_block.9.in_layers.0.bias": torch.zeros(16),
            },
            r"its unet lacks mid_block\.resnets\.0\.norm1\.bias",
        ),
        ({UNET + "more": torch.zeros(3)}, r"its unet has \S+more, which is not expected"),
    ],
)
def test_weights_that_lack_or_do_not_fit_leave_nothing(
    pipeline, checkpoint, models, tmp_path, changes, reason
):
    file = rewritten(checkpoint, tmp_path / "wrong.safetensors", **changes)
    with pytest.raises(ModelBroken, match=reason) as caught:
        import_model(file, models, silent, configs=pipeline)
    assert str(caught.value).count("\n") == 0
    assert left(models) == set()


def test_a_folder_is_copied_without_what_nobody_loads(pipeline, models, tmp_path):
    folder = Path(shutil.copytree(pipeline, tmp_path / "My pipeline"))
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(unet, unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    (folder / "LICENSE.md").write_text("the terms")
    (folder / "sample.png").write_bytes(b"a picture")
    manifest = import_model(folder, models, silent)
    assert manifest.name == "My-pipeline"
    assert set(manifest.files) == {
        path.relative_to(pipeline).as_posix() for path in pipeline.rglob("*") if path.is_file()
    } | {"LICENSE.md"}
    assert paint(models / "My-pipeline") == paint(pipeline)


def test_a_folder_that_was_imported_keeps_its_manifests_words(pipeline, models, tmp_path):
    metadata = {"modelspec.license": "MIT", "modelspec.title": "Nice"}
    file = write_checkpoint(pipeline, tmp_path / "nice.safetensors", metadata=metadata)
    import_model(file, models, silent, configs=pipeline)
    again = import_model(models / "nice", models, silent, name="again")
    assert (again.title, again.licence) == ("Nice", "MIT")


def test_a_language_models_folder_is_taken_too(models, tmp_path):
    folder = make_tiny_language_model(tmp_path / "talker")
    manifest = import_model(folder, models, silent, name="writer")
    assert manifest.kind == "language"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(manifest.files)
    assert Catalog(models).language_model("writer").folder == models / "writer"


def test_folders_that_are_neither_are_named(pipeline, models, tmp_path):
    with pytest.raises(ModelBroken, match="is a UNet2DConditionModel, neither"):
        import_model(pipeline / "unet", models, silent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelBroken, match="holds neither a pipeline"):
        import_model(tmp_path / "empty", models, silent)
    (tmp_path / "empty" / "pixel.safetensors").touch()
    with pytest.raises(ModelBroken, match=r"if it is a LoRA, import the file: .*pixel.safetensors"):
        import_model(tmp_path / "empty", models, silent)
    old = Path(shutil.copytree(pipeline, tmp_path / "old"))
    edit_json(old / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(ModelBroken, match="describes a StableDiffusionPipeline"):
        import_model(old, models, silent)
    assert not models.exists()


def test_known_surplus_and_other_programs_names_change_no_weight(pipeline, models, tmp_path):
    plain = write_checkpoint(pipeline, tmp_path / "plain.safetensors", torch.float32)
    one, two = "conditioner.embedders.0.transformer.", "conditioner.embedders.1."
    surplus = {
        f"{one}text_projection.weight": torch.ones(16, 16),
        f"{one}logit_scale": torch.ones(()),
        f"{two}model.logit_scale": torch.ones(()),
    }
    rewritten(plain, tmp_path / "surplus.safetensors", **surplus)
    tensors = load_file(plain)
    projection = tensors[f"{two}model.text_projection"].T.contiguous()
    other = {
        f"{two}model.text_projection": None,
        f"{two}model.text_projection.weight": projection,
    }
    rewritten(plain, tmp_path / "transposed.safetensors", **other)
    theirs = {name: None for name in tensors if name.startswith(two)}
    hugging_face = {
        f"{two}transformer.{name}": tensor
        for name, tensor in weights_of(pipeline, "text_encoder_2").items()
    }
    hugging_face[f"{two}transformer.text_model.embeddings.position_ids"] = torch.arange(77)
    hugging_face[f"{two}transformer.logit_scale"] = torch.ones(())
    rewritten(plain, tmp_path / "renamed.safetensors", **theirs, **hugging_face)
    for name in ("plain", "surplus", "transposed", "renamed"):
        import_model(tmp_path / f"{name}.safetensors", models, silent, configs=pipeline)
        for part in PARTS:
            made, own = weights_of(models / name, part), weights_of(pipeline, part)
            assert made.keys() == own.keys()
            assert all(torch.equal(tensor, own[key]) for key, tensor in made.items()), name


def without_metadata(file: Path) -> Path:
    """The file with null for its metadata, as some programs write it."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]) | {"__metadata__": None}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    return file


def test_null_for_metadata_is_none(pipeline, models, tmp_path):
    file = write_checkpoint(pipeline, tmp_path / "null.safetensors", torch.float32)
    import_model(without_metadata(file), models, silent, configs=pipeline)
    assert paint(models / "null") == paint(pipeline)
    folder = make_tiny_language_model(tmp_path / "talker")
    without_metadata(folder / "model.safetensors")
    assert import_model(folder, models, silent).kind == "language"
    assert AutoModelForCausalLM.from_pretrained(models / "talker").config.model_type == "llama"


@pytest.mark.parametrize(
    ("prediction", "marks", "expected"),
    [
        ("v", {}, "v_prediction"),
        ("epsilon", {"v_pred": torch.zeros(0)}, "epsilon"),
        (None, {}, "epsilon"),
    ],
)
def test_what_a_checkpoint_predicts_can_be_told(
    pipeline, models, tmp_path, prediction, marks, expected
):
    file = write_checkpoint(pipeline, tmp_path / "noob_vpred.safetensors", torch.float32, marks)
    said: list[str] = []
    import_model(file, models, said.append, configs=pipeline, prediction=prediction)
    folder = models / "noob_vpred"
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["prediction_type"] == expected
    assert (paint(folder) == paint(pipeline)) == (expected == "epsilon")
    hints = [line for line in said if "import it with --prediction v" in line]
    assert len(hints) == (prediction is None)


def test_a_title_that_says_v_prediction_is_hinted_at_and_a_word_like_it_is_not(
    pipeline, models, tmp_path
):
    for number, (title, hinted) in enumerate((("Noob V-Prediction", 1), ("Improved vprofile", 0))):
        file = tmp_path / f"{number}.safetensors"
        write_checkpoint(pipeline, file, metadata={"modelspec.title": title})
        said: list[str] = []
        import_model(file, models, said.append, configs=pipeline)
        assert sum("--prediction v" in line for line in said) == hinted


def test_a_prediction_is_for_checkpoints_alone(pipeline, models, tmp_path):
    for path in (pipeline, lora(tmp_path / "a.safetensors")):
        with pytest.raises(ModelError, match="--prediction is for checkpoints"):
            import_model(path, models, silent, prediction="v")


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        ("model_index", {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "flow ma"),
        ("scheduler/scheduler_config", {"use_flow_sigmas": True}, "describes flow matching"),
        ("scheduler/scheduler_config", {"prediction_type": "flow_prediction"}, "flow matching"),
        ("scheduler/scheduler_config", {"prediction_type": "x"}, "predicts 'x', and not one of"),
        ("model_index", {"scheduler": ["diffusers", "MyScheduler"]}, "names the scheduler MySched"),
        ("unet/config", {"in_channels": 8}, "a UNet for editing images with 8 input channels"),
        ("vae/config", {"latent_channels": 16}, "with 4 input channels, but the VAE has 16"),
        ("unet/config", {"out_channels": 8}, "a UNet with 8 output channels, but the VAE has 4"),
    ],
)
def test_a_folder_that_no_picture_could_be_painted_with_is_refused_by_name(
    pipeline, models, tmp_path, file, changes, reason
):
    folder = Path(shutil.copytree(pipeline, tmp_path / "other"))
    edit_json(folder / f"{file}.json", **changes)
    with pytest.raises(ModelBroken, match=reason) as caught:
        import_model(folder, models, silent)
    assert "\n" not in str(caught.value)
    assert not models.exists()


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_model_for_inpainting_is_taken_and_sees_the_mask(models, tmp_path, as_folder):
    made = make_tiny_sdxl(tmp_path / "inpainting", second_width=24, in_channels=9)
    plain = make_tiny_sdxl(tmp_path / "plain", second_width=24)
    if as_folder:
        edit_json(made / "model_index.json", _class_name="StableDiffusionXLInpaintPipeline")
        import_model(made, models, silent)
    else:
        file = write_checkpoint(made, tmp_path / "inpainting.safetensors")
        import_model(file, models, silent, configs=plain)
    folder = models / "inpainting"
    assert json.loads((folder / "unet" / "config.json").read_text())["in_channels"] == 9
    # A checkpoint is of half precision.
    found, expected = (np.frombuffer(paint(each), np.uint8).astype(int) for each in (folder, made))
    assert np.abs(found - expected).max() <= (0 if as_folder else 2)


def lora(file: Path, width: int = 2048) -> Path:
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    halves = {
        f"{name}.lora_A.weight": torch.ones(4, width),
        f"{name}.lora_B.weight": torch.ones(640, 4),
    }
    save_file(halves, file, metadata={"modelspec.trigger_phrase": "pixel art"})
    return file


def test_a_lora_is_taken_with_what_it_says_of_itself(models, tmp_path):
    file = lora(tmp_path / "Pixel_Art-XL.safetensors")
    manifest = import_model(file, models, silent)
    assert (manifest.kind, manifest.name) == ("lora", "Pixel_Art-XL")
    assert manifest.settings == {"rank": 4, "trigger_words": ["pixel art"]}
    assert (models / "Pixel_Art-XL" / "lora.safetensors").read_bytes() == file.read_bytes()
    assert read_manifest(models / "Pixel_Art-XL") == manifest
    assert (manifest.original_sha256, manifest.changed) == (sha256_of(file), "")
    content = file.read_bytes()
    weights = content[8 + int.from_bytes(content[:8], "little") :]
    assert manifest.original_weights_sha256 == hashlib.sha256(weights).hexdigest()


def test_a_lora_is_kept_in_diffusers_names_with_its_strength_in_the_weights(models, tmp_path):
    layer = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    file = tmp_path / "pixel.safetensors"
    down, up = torch.randn(4, 2048).half(), torch.randn(640, 4).half()
    parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(3.0)}
    metadata = {"modelspec.title": "Pixel art"}
    save_file({f"{layer}.{part}": tensor for part, tensor in parts.items()}, file, metadata)
    manifest = import_model(file, models, silent)
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    kept = load_file(models / "pixel" / "lora.safetensors")
    assert kept.keys() == {f"{name}.lora_A.weight", f"{name}.lora_B.weight"}
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}
    change = kept[f"{name}.lora_B.weight"].float() @ kept[f"{name}.lora_A.weight"].float()
    expected = 3 / 4 * up.float() @ down.float()
    assert (change - expected).norm() < 5e-4 * expected.norm()
    assert manifest.original_sha256 == sha256_of(file)
    assert manifest.changed == (
        "3 of 3 tensors renamed or left out; alpha / rank multiplied into 1 of 1 layers"
    )
    assert manifest.title == "Pixel art"


X = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({f"{X}.lora_up.weight": None}, "lacks its other half, the up matrix"),
        ({f"{X}.lora_up.weight": torch.ones(64, 4)}, r"up.weight' is 64×4, and not 640×4"),
        ({f"{X}.alpha": torch.ones(2)}, r"alpha' is not one number"),
        ({f"{X}.alpha": torch.tensor(float("nan"))}, r"alpha' is not a finite number"),
        ({f"{X}.lora_up.weight": torch.full((640, 4), float("inf"))}, "are not all finite"),
        ({f"{X}.lora_up.bias": torch.ones(640)}, "lora_up.bias' is in no known LoRA format"),
        ({"lora_unet_x.lora_up.weight": torch.ones(4, 4)}, "'lora_unet_x.lora_up.weight' is for a"),
        (
            {"lora_te1_text_projection.lora_up.weight": torch.ones(4, 4)},
            "'lora_te1_text_projection.lora_up.weight' is for a layer that the text_encoder does",
        ),
        (
            {X.replace("lora_unet_", "unet.") + ".lora_A.weight": torch.ones(4, 2048)},
            "is for the same layer as",
        ),
    ],
)
def test_a_lora_that_could_not_be_applied_exactly_is_refused_by_the_tensors_name(
    models, tmp_path, changes, reason
):
    tensors = {
        f"{X}.lora_down.weight": torch.ones(4, 2048),
        f"{X}.lora_up.weight": torch.ones(640, 4),
        f"{X}.alpha": torch.tensor(4.0),
        **changes,
    }
    file = tmp_path / "odd.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)
    with pytest.raises(ModelBroken, match=reason) as caught:
        import_model(file, models, silent)
    assert "\n" not in str(caught.value)
    assert left(models) == set()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 101, "<lora:x>"])
def test_a_name_that_can_be_none_is_refused(models, tmp_path, name):
    with pytest.raises(ModelError, match="cannot be a model's name"):
        import_model(lora(tmp_path / "a.safetensors"), models, silent, name=name)
    assert not models.exists()


@pytest.mark.parametrize(
    ("stem", "name"),
    [("Модель v2", "v2-[0-9a-f]{8}"), ("a (b) [c]", "a-b-c"), ("x" * 200, "x" * 100)],
)
def test_a_name_is_made_of_the_files(models, tmp_path, stem, name):
    manifest = import_model(lora(tmp_path / f"{stem}.safetensors"), models, silent)
    assert re.fullmatch(name, manifest.name)


def test_a_name_that_is_taken_is_refused_and_what_has_it_stays(models, tmp_path):
    file = lora(tmp_path / "pixel.safetensors")
    import_model(file, models, silent)
    before = file_digests(models / "pixel")
    with pytest.raises(ModelError, match="a model called 'pixel' is already installed; give"):
        import_model(file, models, silent)
    assert file_digests(models / "pixel") == before
    assert import_model(file, models, silent, name="other").name == "other"
    assert left(models) == {"pixel", "other"}


def test_an_archive_brings_its_own_name(models, tmp_path):
    (tmp_path / "model.tar").touch()
    with pytest.raises(ModelError, match="an archive contains its model's name"):
        import_model(tmp_path / "model.tar", models, silent, name="other")


def test_what_is_not_there_is_told(models, tmp_path):
    with pytest.raises(ModelNotFound, match=r"the file .* does not exist"):
        import_model(tmp_path / "none.safetensors", models, silent)
    with pytest.raises(ModelNotFound, match=r"unet.config\.json does not exist; name a folder"):
        import_model(lora(tmp_path / "a.safetensors"), models, silent, configs=tmp_path)


def test_room_on_the_disk_is_looked_for_before_anything_is_written(models, tmp_path):
    # A file with a hole of 8 TB, which no disk of a tester has free.
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
    file = write_empty_file(tmp_path / "vast.safetensors", {name: (2_000_000_000, 2048)})
    with pytest.raises(ModelError, match=r"vast needs 8192\.0 GB and the disk of .* free; free"):
        import_model(file, models, silent)
    assert left(models) == set()


def test_a_disk_that_takes_no_more_leaves_nothing(pipeline, checkpoint, models):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    models.mkdir()
    for limit in (3_000, 100_000):
        # In the configurations first, then in the weights.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(ModelError, match="Tiny-Model-v1 could not be installed in"):
                import_model(checkpoint, models, silent, configs=pipeline)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert left(models) == set()


KILLED = """
import os, signal, sys
from pathlib import Path
from banatie.models.import_file import import_model, model_name

def report(line):
    if line == "Hashing the files":
        os.kill(os.getpid(), signal.SIGKILL)

import_model(Path(sys.argv[1]), Path(sys.argv[2]), report, configs=Path(sys.argv[3]))
"""


@pytest.mark.end_to_end
def test_what_a_killed_import_leaves_is_swept_by_the_next(pipeline, checkpoint, models, tmp_path):
    arguments = [str(checkpoint), str(models), str(pipeline)]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT)
    assert ended.returncode == -9
    assert left(models) == {".Tiny-Model-v1.installing"}
    import_model(lora(tmp_path / "pixel.safetensors"), models, silent)
    assert left(models) == {"pixel"}


def test_two_imports_do_not_get_into_each_others_way(models, tmp_path):
    models.mkdir()
    file = lora(tmp_path / "pixel.safetensors")
    with (
        FileLock(models / ".pixel.lock"),
        pytest.raises(ModelError, match="another process is installing or removing pixel; wait"),
    ):
        import_model(file, models, silent)
    assert left(models) == set()
    with FileLock(models / ".other.lock"):
        import_model(file, models, silent)
    assert left(models) == {"pixel"}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Pixel_Art-XL", "Pixel_Art-XL"),
        ("Café crème (v2)", "Cafe-creme-v2"),
        ("猫-v2", "v2-[0-9a-f]{8}"),
        ("犬-v2", "v2-[0-9a-f]{8}"),
        ("猫", "model-[0-9a-f]{8}"),
        ("🦊", "model-[0-9a-f]{8}"),
        ("---", "model-[0-9a-f]{8}"),
        (os.fsdecode("猫".encode("shift-jis")), "L-[0-9a-f]{8}"),
        ("猫" * 80, "model-[0-9a-f]{8}"),
        ("x" * 120 + "猫", "x{91}-[0-9a-f]{8}"),
    ],
)
def test_each_file_name_gives_a_name(file, name):
    assert re.fullmatch(name, model_name(file))
    assert is_model_name(model_name(file))
    assert model_name(file) == model_name(file)


def test_names_of_letters_that_are_left_out_stay_different():
    files = ["猫", "犬", "猫-v2", "犬-v2", "ink", "ink猫", os.fsdecode("猫".encode("shift-jis"))]
    assert len({model_name(file) for file in files}) == len(files)


@pytest.mark.parametrize("name", ["猫", os.fsdecode("猫".encode("shift-jis"))])
def test_a_file_of_any_name_is_imported(pipeline, checkpoint, models, tmp_path, name):
    text = os.fsencode(name).decode("utf-8", "replace")
    for file, configs in (
        (lora(tmp_path / "a.safetensors"), None),
        (shutil.copyfile(checkpoint, tmp_path / "b.safetensors"), pipeline),
    ):
        named = file.rename(tmp_path / f"{name}.safetensors")
        manifest = import_model(named, models, silent, configs=configs)
        assert (manifest.name, manifest.title) == (model_name(name), text)
        assert manifest.source.startswith(f"{text}.safetensors, SHA-256 ")
        assert read_manifest(models / manifest.name) == manifest
        shutil.rmtree(models / manifest.name)
