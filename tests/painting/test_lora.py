"""LoRAs for one job: as strong as they were trained, and gone afterwards."""

from __future__ import annotations

import dataclasses
import gc
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

from banatie.devices.runtime import Runtime
from banatie.errors import ModelBroken, PaintingError
from banatie.models.catalog import Catalog
from banatie.painting.lora import Lora
from banatie.painting.painter import Painter, PaintJob
from tests.support.single_files import relabel_lora, write_lora
from tests.support.tiny_models import make_tiny_sdxl

FULL = Runtime("cpu", torch.float32, torch.float32)
HALF = Runtime("cpu", torch.float16, torch.float16)
JOB = PaintJob("a red cat", "", width=48, height=32, steps=2, guidance_scale=5.0, seed=7)

UNET = (
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "unet.mid_block.attentions.0.proj_in",
    "unet.down_blocks.0.resnets.0.conv1",
)
TEXT = (
    "text_encoder.encoder.layers.0.self_attn.q_proj",
    "text_encoder.encoder.layers.0.self_attn.out_proj",
    "text_encoder_2.text_model.encoder.layers.0.self_attn.out_proj",
    "text_encoder_2.text_model.encoder.layers.1.mlp.fc1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny", second_width=24)


@pytest.fixture(scope="module")
def painter(folder: Path) -> Painter:
    return load(folder)


def load(folder: Path, runtime: Runtime = FULL) -> Painter:
    return Painter.load(Catalog(folder.parent).painting_model(folder.name), runtime)


def paint(painter: Painter, *loras: Lora, **changes: object) -> bytes:
    job = dataclasses.replace(JOB, loras=loras, **changes)
    return painter.paint(job, lambda step, steps: None).tobytes()


def levels(picture: bytes) -> np.ndarray:
    return np.frombuffer(picture, np.uint8).astype(int)


def layers(painter: Painter) -> dict[str, torch.nn.Module]:
    """Every module of the pipeline's models, by its name."""
    pipeline = painter._pipeline
    return {
        f"{part}.{name}": module
        for part in ("unet", "text_encoder", "text_encoder_2", "vae")
        for name, module in getattr(pipeline, part).named_modules()
    }


def numbers(painter: Painter) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{weight}": tensor.clone()
        for name, module in layers(painter).items()
        for weight, tensor in module.named_parameters(recurse=False)
    }


@pytest.fixture
def make_lora(painter: Painter, tmp_path: Path):
    """Writes a LoRA of random numbers for these layers; gives it, and what it adds to each."""

    def make_lora(
        *names: str, form: str = "kohya", weight: float = 1.0, file: str = "lora.safetensors"
    ) -> tuple[Lora, Mapping[str, torch.Tensor]]:
        shapes = {name: layers(painter)[name].weight.shape for name in names}
        alpha = None if form == "diffusers" else 2.0
        layers_per_block = 1 if form == "original" else None
        added = write_lora(tmp_path / file, shapes, 4, alpha, layers_per_block)
        return Lora(file, tmp_path / file, weight), added

    return make_lora


@pytest.mark.parametrize("names", [UNET, TEXT, UNET + TEXT], ids=["unet", "text", "both"])
@pytest.mark.parametrize("form", ["kohya", "original", "diffusers"])
def test_it_changes_the_one_picture_and_nothing_after_it(painter, make_lora, names, form):
    before, was, modules = paint(painter), numbers(painter), layers(painter)
    lora, _ = make_lora(*names, form=form)
    assert paint(painter, lora) != before
    assert paint(painter) == before
    assert {n: id(m) for n, m in layers(painter).items()} == {n: id(m) for n, m in modules.items()}
    now = numbers(painter)
    assert now.keys() == was.keys()
    assert all(torch.equal(now[name], was[name]) for name in was)


def test_nothing_of_it_stays_in_memory(painter, make_lora):
    lora, _ = make_lora(*UNET, *TEXT)
    paint(painter, lora)
    gc.collect()
    # By its type, since asking an object for its class wakes up modules that are deprecated.
    assert [each for each in gc.get_objects() if issubclass(type(each), BaseTunerLayer)] == []


def merged_picture(painter: Painter, added: Mapping[str, torch.Tensor], weight: float) -> bytes:
    """The picture of a model to whose own weights this is added."""
    own = {name: layers(painter)[name].weight for name in added}
    kept = {name: tensor.detach().clone() for name, tensor in own.items()}
    try:
        for name, tensor in own.items():
            tensor.data += weight * added[name]
        painter._encoder.clear_cache()
        return paint(painter)
    finally:
        for name, tensor in own.items():
            tensor.data.copy_(kept[name])
        painter._encoder.clear_cache()


def assert_as_strong(painter: Painter, lora: Lora, added: Mapping[str, torch.Tensor]) -> None:
    """It paints as if W + weight · alpha / rank · B · A were the weights."""
    picture, merged = paint(painter, lora), merged_picture(painter, added, lora.weight)
    assert abs(levels(picture) - levels(merged)).max() <= 1
    assert abs(levels(picture) - levels(paint(painter))).max() > 20


@pytest.mark.parametrize(
    ("form", "weight"),
    [("kohya", 1.0), ("kohya", 0.5), ("kohya", -1.0), ("original", 1.0), ("diffusers", 1.0)],
)
def test_it_is_as_strong_as_it_was_trained(painter, make_lora, form, weight):
    """As if what it adds, W + weight · alpha / rank · B · A, were added to the weights."""
    lora, added = make_lora(*UNET, *TEXT, form=form, weight=weight)
    assert_as_strong(painter, lora, added)


def attention_layers(painter: Painter) -> dict[str, torch.Size]:
    """The attention layers of the UNet and the first text encoder, which kohya's LoRAs change."""
    found = re.compile(r"(unet|text_encoder)\..*(attn|attentions).*(to_|_proj|proj_|ff\.).*")
    return {
        name: module.weight.shape
        for name, module in layers(painter).items()
        if found.fullmatch(name) and isinstance(module, torch.nn.Linear)
    }


@pytest.mark.parametrize("alpha", [lambda rank: rank / 2, lambda rank: 3.0, lambda rank: 16 / rank])
@pytest.mark.parametrize("layers_per_block", [None, 1], ids=["diffusers' names", "Stability's"])
def test_each_layer_has_the_strength_of_its_own_rank_and_alpha(
    painter, tmp_path, alpha, layers_per_block
):
    file, shapes = tmp_path / "resized.safetensors", attention_layers(painter)
    ranks = (16, 16, 2, 4, 16, 8)
    added = write_lora(file, shapes, ranks, alpha, layers_per_block)
    assert len(added) > 30
    assert_as_strong(painter, Lora("resized", file, 0.2), added)


def test_a_text_encoder_may_be_changed_in_its_last_layer_or_in_no_attention_alone(
    painter, tmp_path
):
    for number, names in enumerate(
        (
            ("text_encoder_2.text_projection",),
            ("text_encoder.encoder.layers.1.mlp.fc2",),
            ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1",),
        )
    ):
        shapes = {name: layers(painter)[name].weight.shape for name in names}
        file = tmp_path / f"{number}.safetensors"
        added = write_lora(file, shapes, 4, 8.0)
        picture, merged = paint(painter, Lora("x", file, 1.0)), merged_picture(painter, added, 1.0)
        assert abs(levels(picture) - levels(merged)).max() <= 1
        assert picture != paint(painter)


LAYOUTS = (
    "unet. stability lora_down lora_up",
    "lora_unet. stability lora_down lora_up",
    "lora_unet_ stability lora_A lora_B",
    "unet. diffusers lora_down lora_up",
    "unet. diffusers lora_A lora_B",
    "lora_unet. diffusers lora_A lora_B",
    "unet. diffusers lora.down lora.up",
    "unet. diffusers lora_A.default lora_B.default",
    "diffusion_model. stability lora_A lora_B",
)
MORE = (
    "unet.conv_in",
    "unet.conv_out",
    "unet.add_embedding.linear_1",
    "unet.time_embedding.linear_2",
    "unet.down_blocks.0.downsamplers.0.conv",
    "unet.up_blocks.0.upsamplers.0.conv",
    "unet.up_blocks.1.resnets.0.conv_shortcut",
)


@pytest.mark.parametrize("alpha", [None, 2.0], ids=["no alpha", "alpha"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_the_same_in_every_layout(painter, tmp_path, layout, alpha):
    names = (*UNET, *TEXT, *MORE)
    shapes = {name: layers(painter)[name].weight.shape for name in names}
    file = tmp_path / "lora.safetensors"
    added = write_lora(file, shapes, (4, 2), None)
    if alpha is not None:
        tensors = load_file(file)
        ranks = {n.removesuffix(".lora_A.weight"): len(t) for n, t in tensors.items() if "_A" in n}
        alphas = {f"{name}.alpha": torch.tensor(alpha) for name in ranks}
        save_file(tensors | alphas, file)
        added = {name: alpha / ranks[name] * change for name, change in added.items()}
    relabel_lora(file, layout, 1)
    assert_as_strong(painter, Lora("lora", file, 0.3), added)


def test_alphas_in_the_header_count_as_diffusers_means_them(painter, tmp_path):
    file = tmp_path / "lora.safetensors"
    shapes = {name: layers(painter)[name].weight.shape for name in UNET}
    added = write_lora(file, shapes, 4, None)
    special = UNET[1].removeprefix("unet.")
    settings = {
        "unet.r": 4,
        "unet.lora_alpha": 1,
        "unet.use_rslora": True,
        "unet.alpha_pattern": {special: 8},
    }
    save_file(load_file(file), file, {"lora_adapter_metadata": json.dumps(settings)})
    added = {name: (4.0 if name == UNET[1] else 0.5) * change for name, change in added.items()}
    assert_as_strong(painter, Lora("lora", file, 1.0), added)


def test_a_layer_that_a_library_would_scale_otherwise_is_refused(painter, make_lora, monkeypatch):
    before = paint(painter)
    lora, _ = make_lora(*UNET, *TEXT)
    set_adapters = painter._pipeline.set_adapters

    def one_wrong(*arguments: object) -> None:
        set_adapters(*arguments)
        layers(painter)["unet.mid_block.attentions.0.proj_in"].scaling["banatie_0"] = 0.9

    monkeypatch.setattr(painter._pipeline, "set_adapters", one_wrong)
    with pytest.raises(ModelBroken, match=r"1 layers, such as unet.mid_block.attentions.0.proj_in"):
        paint(painter, lora)
    monkeypatch.undo()
    assert paint(painter) == before


def test_the_empty_prompt_is_read_by_the_changed_encoders_too(painter, make_lora):
    before = paint(painter, prompt="")
    lora, _ = make_lora(*TEXT)
    assert paint(painter, lora, prompt="") != before
    assert paint(painter, prompt="") == before


def test_with_a_weight_of_nothing_it_does_nothing(painter, make_lora):
    lora, _ = make_lora(*UNET, weight=0.0)
    assert paint(painter, lora) == paint(painter)


def test_several_work_together(painter, make_lora):
    one, _ = make_lora(*UNET, file="one.v1.safetensors")
    other, _ = make_lora(*UNET, *TEXT, file="other.safetensors", weight=-0.5, form="diffusers")
    alone = paint(painter, one)
    together = paint(painter, one, other)
    assert together not in (alone, paint(painter, other), paint(painter))
    # Their order is nothing but the order of a sum.
    assert abs(levels(together) - levels(paint(painter, other, one))).max() <= 1


def test_in_half_precision_it_is_the_same(folder, make_lora):
    painter = load(folder, HALF)
    before = paint(painter)
    lora, _ = make_lora(*UNET, *TEXT)
    assert paint(painter, lora) != before
    assert paint(painter) == before


def test_compiled_blocks_stay_compiled_and_none_is_compiled_for_one_picture(folder, make_lora):
    compiled = 0

    def compiler(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable:
        nonlocal compiled
        compiled += 1
        return graph.forward

    painter = load(folder)
    lora, _ = make_lora(*UNET)
    before, changed = paint(painter), paint(painter, lora)
    painter._pipeline.unet.compile_repeated_blocks(fullgraph=True, backend=compiler)
    assert paint(painter) == before
    assert compiled > 0
    number = compiled
    assert paint(painter, lora) == changed
    assert paint(painter) == before
    assert compiled == number


def test_a_streamed_unet_is_changed_too_and_goes_on_being_streamed(folder, make_lora):
    painter = load(folder)
    lora, _ = make_lora(*UNET, *TEXT)
    before, changed = paint(painter), paint(painter, lora)
    cpu = torch.device("cpu")
    painter._pipeline.unet.enable_group_offload(cpu, cpu, offload_type="leaf_level")
    for _ in range(2):
        assert paint(painter, lora) == changed
        assert paint(painter) == before


def test_with_a_unet_in_float8_a_lora_is_refused(folder, make_lora):
    painter = load(folder, Runtime("cpu", torch.bfloat16, torch.float32))
    painter._pipeline.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    before = paint(painter)
    lora, _ = make_lora(*UNET)
    with pytest.raises(PaintingError, match="stored in float8 here; leave them out"):
        paint(painter, lora)
    assert paint(painter) == before


class Stop(Exception):
    pass


def test_a_painting_that_is_stopped_takes_it_off(painter, make_lora):
    before = paint(painter)
    lora, _ = make_lora(*UNET, *TEXT)

    def stop(step: int, steps: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        painter.paint(dataclasses.replace(JOB, loras=(lora,)), stop)
    assert paint(painter) == before


def write_wrong_lora(file: Path, case: str) -> None:
    """A LoRA that cannot be applied."""
    name = "lora_unet_mid_block_attentions_0_proj_in"
    good = {
        f"{name}.lora_down.weight": torch.ones(4, 16),
        f"{name}.lora_up.weight": torch.ones(16, 4),
        f"{name}.alpha": torch.tensor(4.0),
    }
    if case == "for a larger model":
        good = {n: torch.ones(tuple(8 * s for s in t.shape)) for n, t in good.items()}
    elif case == "for wider text encoders":
        layer = "lora_te2_text_model_encoder_layers_0_self_attn_out_proj"
        good = {n.replace(name, layer): t for n, t in good.items()}
    elif case == "for deeper text encoders":
        layer = "lora_te1_text_model_encoder_layers_31_self_attn_out_proj"
        good = {n.replace(name, layer): t for n, t in good.items()}
    elif case == "half without the other":
        del good[f"{name}.lora_up.weight"]
    elif case == "for layers that are not there":
        good = {n.replace("mid_block", "up_blocks_7"): t for n, t in good.items()}
    elif case == "in part for layers that are not there":
        good |= {n.replace("attentions_0", "attentions_9"): t.clone() for n, t in good.items()}
    elif case == "for another architecture":
        good = {n.replace("mid_block", "double_blocks"): t for n, t in good.items()}
    save_file(good, file)
    if case == "cut off":
        file.write_bytes(file.read_bytes()[:-1])
    elif case == "gone":
        file.unlink()


@pytest.mark.parametrize(
    "case",
    [
        "for a larger model",
        "for wider text encoders",
        "for deeper text encoders",
        "half without the other",
        "for layers that are not there",
        "in part for layers that are not there",
        "for another architecture",
        "cut off",
        "gone",
    ],
)
def test_one_that_does_not_fit_fails_its_job_alone(painter, make_lora, tmp_path, case):
    before, was = paint(painter), numbers(painter)
    fitting, _ = make_lora(*UNET, *TEXT)
    write_wrong_lora(tmp_path / "wrong.safetensors", case)
    lora = Lora("pixel art", tmp_path / "wrong.safetensors", 1.0)
    with pytest.raises(ModelBroken) as caught:
        paint(painter, fitting, lora)
    message = str(caught.value)
    assert message.startswith("the LoRA 'pixel art' ")
    assert "fit the painting model" in message
    assert str(tmp_path) not in message
    assert paint(painter) == before
    assert numbers(painter).keys() == was.keys()
    assert paint(painter, fitting) != before
