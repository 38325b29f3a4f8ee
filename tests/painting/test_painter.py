from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import shutil
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from banatie.devices.memory_plan import Plan
from banatie.devices.runtime import Runtime
from banatie.errors import ModelBroken, ModelNotFound, OutOfMemory, PaintingError, UnusablePicture
from banatie.models.catalog import Catalog
from banatie.models.types import PaintingModel
from banatie.painting.painter import OnStep, Painter, PaintJob
from tests.support.tiny_models import edit_json, make_tiny_sdxl

FULL = Runtime("cpu", torch.float32, torch.float32)
HALF = Runtime("cpu", torch.float16, torch.float16)
JOB = PaintJob(
    prompt="a red cat on the road, soft light",
    negative_prompt="",
    width=48,
    height=32,
    steps=3,
    guidance_scale=5.0,
    seed=2**53 - 1,
)
LONG = ", ".join(["a red cat on the road in soft light"] * 12)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def painter(original: Path) -> Painter:
    return load(original)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def load(folder: Path, runtime: Runtime = FULL) -> Painter:
    model = PaintingModel("tiny", "Tiny", "none", 3, 5.0, {"1:1": (128, 128)}, folder)
    return Painter.load(model, runtime)


def paint(painter: Painter, **changes: object) -> bytes:
    return painter.paint(dataclasses.replace(JOB, **changes), lambda step, steps: None).tobytes()


@contextlib.contextmanager
def hooked(module: torch.nn.Module, hook: object) -> Iterator[None]:
    """Let `hook` see (and, if it returns something, change) what the module gives."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def recorder(told: list[tuple[int, int]]) -> OnStep:
    return lambda step, steps: told.append((step, steps))


def change_weights(file: Path, name: str, factor: float) -> None:
    weights = load_file(file)
    weights[name] = weights[name] * factor
    save_file(weights, file, {"format": "pt"})


def use_scheduler(folder: Path, name: str) -> None:
    edit_json(folder / "model_index.json", scheduler=["diffusers", name])
    edit_json(folder / "scheduler" / "scheduler_config.json", _class_name=name)


class Stop(Exception):
    """What a caller raises to stop a painting."""


def test_the_picture_is_the_bare_pipelines(painter: Painter, original: Path) -> None:
    pipeline = load(original)._pipeline
    shape = (1, 4, JOB.height // 4, JOB.width // 4)
    for guidance, negative in ((5.0, ""), (5.0, "dark, blurry"), (1.0, "")):
        expected = pipeline(
            prompt=JOB.prompt,
            negative_prompt=negative or None,
            width=JOB.width,
            height=JOB.height,
            num_inference_steps=JOB.steps,
            guidance_scale=guidance,
            latents=torch.randn(shape, generator=torch.Generator().manual_seed(JOB.seed)),
        ).images[0]
        found = paint(painter, guidance_scale=guidance, negative_prompt=negative)
        assert found == expected.tobytes()


def test_the_picture_has_the_size_and_mode_asked_for(painter: Painter) -> None:
    image = painter.paint(JOB, lambda step, steps: None)
    assert isinstance(image, Image.Image)
    assert (image.size, image.mode) == ((48, 32), "RGB")
    assert np.asarray(image).std() > 10


@pytest.mark.parametrize(
    "scheduler",
    ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"],
)
def test_the_same_job_gives_the_same_picture_whatever_came_before(
    folder: Path, scheduler: str
) -> None:
    use_scheduler(folder, scheduler)
    painter = load(folder)
    first = paint(painter)
    assert paint(painter, seed=1) != first
    assert paint(painter, steps=7, width=64, prompt=LONG, negative_prompt="dark") != first
    torch.manual_seed(5)
    assert paint(painter) == first
    assert paint(load(folder)) == first


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a dog"},
        {"prompt": LONG},
        {"negative_prompt": "dark"},
        {"steps": 4},
        {"guidance_scale": 7.5},
        {"seed": 0},
        {"prompt": "a dog", "guidance_scale": 1.0},
    ],
)
def test_every_parameter_counts(painter: Painter, changes: dict) -> None:
    assert paint(painter, **changes) != paint(painter)


def test_the_end_of_a_long_prompt_counts(painter: Painter) -> None:
    assert paint(painter, prompt=LONG + ", blue") != paint(painter, prompt=LONG + ", green")
    assert paint(painter, negative_prompt=LONG) != paint(painter, negative_prompt="a red cat")


@pytest.mark.parametrize(("guidance", "passes"), [(0.0, 1), (1.0, 1), (1.01, 2), (20.0, 2)])
def test_without_guidance_there_is_no_negative_pass(
    painter: Painter, guidance: float, passes: int
) -> None:
    seen = []
    with hooked(painter._pipeline.unet, lambda unet, inputs, output: seen.append(inputs[0].shape)):
        paint(painter, guidance_scale=guidance, negative_prompt="dark", prompt=LONG)
    assert [shape[0] for shape in seen] == [passes] * JOB.steps


@pytest.mark.parametrize(
    "scheduler", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "PNDMScheduler"]
)
def test_each_step_is_told_once_and_in_order(folder: Path, scheduler: str) -> None:
    use_scheduler(folder, scheduler)
    # PNDM for Stable Diffusion leaves its warm-up steps out; others do not know the setting.
    edit_json(folder / "scheduler" / "scheduler_config.json", skip_prk_steps=True)
    painter = load(folder)
    for number in (1, 4):
        told: list[tuple[int, int]] = []
        painter.paint(dataclasses.replace(JOB, steps=number), recorder(told))
        assert told == [(step, number) for step in range(1, number + 1)]


def test_whatever_on_step_raises_stops_the_painting_there(painter: Painter) -> None:
    expected = paint(painter)

    def stop_at_two(step: int, steps: int) -> None:
        if step == 2:
            raise Stop

    asked, decoded = [], []
    with (
        hooked(painter._pipeline.unet, lambda *_: asked.append(1)),
        hooked(painter._pipeline.vae.decoder, lambda *_: decoded.append(1)),
        pytest.raises(Stop),
    ):
        painter.paint(JOB, stop_at_two)
    assert (len(asked), len(decoded)) == (2, 0)
    assert paint(painter) == expected


def test_more_steps_than_the_scheduler_knows_are_refused(folder: Path) -> None:
    use_scheduler(folder, "LCMScheduler")
    painter = load(folder)
    with pytest.raises(PaintingError, match="cannot paint in 100 steps"):
        paint(painter, steps=100)
    assert paint(painter, guidance_scale=1.0)


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("unet", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        ("vae", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        ("text_encoder_2", torch.OutOfMemoryError("CUDA out of memory.")),
        ("unet", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")),
        ("unet", RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")),
        ("unet", RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)")),
        ("unet", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")),
        ("unet", MemoryError()),
    ],
)
def test_out_of_memory_fails_one_job_and_frees_what_it_held(
    painter: Painter, part: str, error: Exception
) -> None:
    expected = paint(painter)
    pipeline = painter._pipeline
    painter._encoder.forget()
    # The decoder is what runs: the autoencoder itself is never called as a whole.
    module = pipeline.vae.decoder if part == "vae" else getattr(pipeline, part)
    held: list[weakref.ref] = []

    def run_out(module: torch.nn.Module, inputs: tuple, output: object) -> None:
        held.append(weakref.ref(inputs[0]))
        # A fresh one, because the parameter outlives the test, and would keep its traceback.
        raise type(error)(*error.args)

    with hooked(module, run_out), pytest.raises(OutOfMemory, match="48 × 32") as caught:
        paint(painter)
    assert caught.value.__context__ is None
    assert [reference() for reference in held] == [None]
    assert paint(painter) == expected


def test_any_other_error_is_left_as_it_is(painter: Painter) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with hooked(painter._pipeline.unet, fail), pytest.raises(RuntimeError, match="mat1"):
        paint(painter)


def test_numbers_that_are_none_fail_one_job(painter: Painter) -> None:
    expected = paint(painter)
    decoded = []
    with (
        hooked(painter._pipeline.unet.conv_out, lambda unet, inputs, out: out * float("nan")),
        hooked(painter._pipeline.vae.decoder, lambda *_: decoded.append(1)),
        pytest.raises(UnusablePicture),
    ):
        paint(painter)
    assert decoded == []
    assert paint(painter) == expected


@pytest.mark.parametrize("force_upcast", [True, False])
def test_a_decoder_that_overflows_in_half_precision_still_gives_a_picture(
    folder: Path, force_upcast: bool
) -> None:
    edit_json(folder / "vae" / "config.json", force_upcast=force_upcast)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    change_weights(weights, "decoder.conv_in.weight", 1e5)
    painter = load(folder, HALF)
    vae = painter._pipeline.vae
    dtype = torch.float32 if force_upcast else torch.float16
    assert vae.dtype == dtype
    latents = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    assert not torch.isfinite(
        load(folder, HALF)._pipeline.vae.half().decode(latents.half())[0]
    ).all()
    picture = paint(painter)
    assert np.frombuffer(picture, np.uint8).std() > 10
    assert vae.dtype == dtype
    assert paint(painter) == picture


def test_a_decoder_that_gives_no_numbers_at_all_fails_the_job(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    change_weights(weights, "decoder.conv_in.weight", float("nan"))
    edit_json(folder / "vae" / "config.json", force_upcast=False)
    painter = load(folder, HALF)
    with pytest.raises(UnusablePicture, match="even in float32"):
        paint(painter)
    assert painter._pipeline.vae.dtype == torch.float16


def test_half_precision_paints_nearly_the_same_picture(painter: Painter, original: Path) -> None:
    full = np.frombuffer(paint(painter), np.uint8).astype(int)
    for dtype in (torch.float16, torch.bfloat16):
        half = np.frombuffer(paint(load(original, Runtime("cpu", dtype, dtype))), np.uint8)
        assert np.abs(half - full).mean() < 8


def test_a_vae_with_its_own_mean_and_deviation_is_decoded_as_diffusers_does(folder: Path) -> None:
    edit_json(
        folder / "vae" / "config.json",
        latents_mean=[-1.6, 1.7, 0.1, -0.4],
        latents_std=[8.4, 5.9, 5.3, 6.8],
        scaling_factor=0.5,
    )
    painter = load(folder)
    latents = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(JOB.seed))
    expected = load(folder)._pipeline(
        prompt=JOB.prompt,
        width=JOB.width,
        height=JOB.height,
        num_inference_steps=JOB.steps,
        guidance_scale=5.0,
        latents=latents,
    )
    assert paint(painter) == expected.images[0].tobytes()


def test_two_hundred_pictures_leave_nothing_behind(painter: Painter) -> None:
    def tensors() -> int:
        gc.collect()
        # By the type's identity: isinstance would wake lazy modules among everything there is.
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    # As many texts' embeddings as are kept.
    for number in range(40):
        paint(painter, steps=1, prompt=f"{number} cats")
    before = tensors()
    for seed in range(200):
        paint(painter, seed=seed, steps=1, prompt=LONG if seed % 2 else f"{seed} dogs")
    assert tensors() <= before


def test_the_fingerprint_is_that_of_the_unets_file(painter: Painter, original: Path) -> None:
    weights = (original / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert painter.fingerprint == hashlib.sha256(weights).hexdigest()[:10]
    assert painter.fingerprint == painter.fingerprint


def test_the_sampler_has_the_name_that_others_know(painter: Painter, folder: Path) -> None:
    assert painter.sampler == "Euler"
    use_scheduler(folder, "PNDMScheduler")
    assert load(folder).sampler == "PNDM"
    use_scheduler(folder, "DPMSolverMultistepScheduler")
    edit_json(folder / "scheduler" / "scheduler_config.json", use_karras_sigmas=True)
    assert load(folder).sampler == "DPM++ 2M Karras"


def test_tokens_are_counted(painter: Painter) -> None:
    assert painter.count_tokens("a red cat") == 3


def test_loading_and_painting_open_no_socket(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a socket was opened: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert paint(load(original))


def test_nothing_is_written_to_the_terminal(
    original: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paint(load(original), prompt=LONG)
    assert capfd.readouterr() == ("", "")


def test_half_precision_files_are_read_where_there_are_no_others(
    painter: Painter, folder: Path
) -> None:
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        for file in (folder / name).glob("*.safetensors"):
            half = {key: value.half() for key, value in load_file(file).items()}
            save_file(half, file.with_suffix(".fp16.safetensors"), {"format": "pt"})
            # One model keeps both, as folders in the wild do.
            if name != "vae":
                file.unlink()
    loaded = load(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    assert loaded.fingerprint == hashlib.sha256(weights.read_bytes()).hexdigest()[:10]
    difference = np.frombuffer(paint(loaded), np.uint8).astype(int) - np.frombuffer(
        paint(painter), np.uint8
    )
    assert np.abs(difference).mean() < 8


def test_a_folder_from_the_catalog_can_be_painted_with(original: Path, tmp_path: Path) -> None:
    model = Catalog(tmp_path).painting_model(str(original))
    width, height = model.sizes["21:9"]
    image = Painter.load(model, FULL).paint(
        dataclasses.replace(JOB, width=width, height=height), lambda step, steps: None
    )
    assert image.size == (192, 80)


def test_a_batch_gives_what_each_job_gives_alone(painter: Painter) -> None:
    jobs = [
        JOB,
        dataclasses.replace(JOB, prompt="a dog", seed=1),
        dataclasses.replace(JOB, negative_prompt="dark", seed=2),
    ]
    told: list[tuple[int, int]] = []
    together = painter.paint_batch(jobs, recorder(told))
    assert told == [(1, 3), (2, 3), (3, 3)]
    for picture, job in zip(together, jobs, strict=True):
        alone = np.asarray(painter.paint(job, recorder([]))).astype(int)
        # The same sums, in another order.
        assert np.abs(np.asarray(picture) - alone).max() <= 1


def test_a_job_s_length_is_the_longer_text_s(painter: Painter) -> None:
    chunks = painter.chunks(dataclasses.replace(JOB, prompt=LONG))
    assert chunks > 1
    assert painter.chunks(JOB) == 1
    assert painter.chunks(dataclasses.replace(JOB, negative_prompt=LONG)) == chunks
    unguided = dataclasses.replace(JOB, negative_prompt=LONG, guidance_scale=1.0)
    assert painter.chunks(unguided) == 1


def test_one_picture_that_is_none_leaves_the_others_of_its_batch(painter: Painter) -> None:
    def spoil_the_second(unet: torch.nn.Module, inputs: tuple, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        # Rows without guidance come first, then the same with it.
        out[1::2] = float("nan")
        return out

    jobs = [JOB, dataclasses.replace(JOB, seed=1)]
    with hooked(painter._pipeline.unet.conv_out, spoil_the_second):
        first, second = painter.paint_batch(jobs, recorder([]))
    assert isinstance(first, Image.Image)
    assert isinstance(second, UnusablePicture)


def test_a_text_is_encoded_once(painter: Painter) -> None:
    painter._encoder.forget()
    asked = []
    with hooked(painter._pipeline.text_encoder, lambda *_: asked.append(1)):
        first = paint(painter, negative_prompt="dark")
        assert len(asked) == 2
        assert paint(painter, negative_prompt="dark") == first
        assert len(asked) == 2
        paint(painter, prompt="a dog", negative_prompt="dark")
        assert len(asked) == 3


def test_encoders_that_are_set_aside_are_fetched_for_a_new_text_alone(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PaintingModel("tiny", "Tiny", "none", 3, 5.0, {"1:1": (128, 128)}, original)
    painter = Painter.load(model, FULL, Plan("offload-encoders"))
    moves: list[str] = []
    move = painter._move_encoders
    monkeypatch.setattr(painter, "_move_encoders", lambda to: (moves.append(to), move(to)))
    paint(painter, negative_prompt="dark")
    assert moves == ["cpu", "cpu"] * 2
    paint(painter, negative_prompt="dark", seed=1)
    assert len(moves) == 4
    paint(painter, negative_prompt="bright")
    assert len(moves) == 6


def test_a_model_s_own_sampler_is_used(original: Path) -> None:
    wanted = {"class": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    model = PaintingModel("tiny", "", "", 3, 5.0, {"1:1": (128, 128)}, original, wanted)
    painter = Painter.load(model, FULL)
    assert painter.sampler == "Euler a"
    paint(painter)
    assert painter._pipeline.scheduler.config.timestep_spacing == "trailing"
    unknown = dataclasses.replace(model, scheduler={"class": "CrystalBallScheduler"})
    with pytest.raises(ModelBroken, match="CrystalBallScheduler"):
        Painter.load(unknown, FULL)


def test_previews_become_the_picture(painter: Painter) -> None:
    previews: list[Image.Image] = []

    def look(step: int, steps: int) -> None:
        previews.extend(painter.previews())

    picture = painter.paint(JOB, look)
    assert len(previews) == JOB.steps
    small = np.asarray(picture.resize(previews[-1].size, Image.Resampling.BOX)).astype(int)
    far, near = (np.abs(np.asarray(each) - small).mean() for each in (previews[0], previews[-1]))
    assert near < far
    assert painter.previews() == []


def test_a_compiled_unet_paints_nearly_the_same_picture(painter: Painter, original: Path) -> None:
    model = PaintingModel("tiny", "Tiny", "none", 3, 5.0, {"1:1": (128, 128)}, original)
    compiled = Painter.load(model, FULL, compiled=True)
    found = np.frombuffer(paint(compiled), np.uint8).astype(int)
    assert np.abs(found - np.frombuffer(paint(painter), np.uint8)).max() <= 1


def test_without_a_compiler_pictures_are_painted_all_the_same(
    painter: Painter, original: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/no/such/compiler",))
    model = PaintingModel("tiny", "Tiny", "none", 3, 5.0, {"1:1": (128, 128)}, original)
    torch._dynamo.reset()
    with monkeypatch.context() as context:
        context.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
        assert paint(Painter.load(model, FULL, compiled=True)) == paint(painter)
    assert "cannot be compiled and paints as it is" in caplog.text


class TestBrokenFolders:
    def refusal(self, folder: Path, error: type[Exception] = ModelBroken) -> str:
        with pytest.raises(error) as caught:
            load(folder)
        return str(caught.value)

    def test_no_folder(self, tmp_path: Path) -> None:
        missing = tmp_path / "nowhere"
        assert str(missing) in self.refusal(missing, ModelNotFound)

    def test_no_index(self, folder: Path) -> None:
        (folder / "model_index.json").unlink()
        assert "model_index.json is missing" in self.refusal(folder)

    @pytest.mark.parametrize(
        "content", ["{", "[]", '{"_class_name": ["pipeline", "Mine"]}', "\xff"]
    )
    def test_an_index_that_is_none(self, folder: Path, content: str) -> None:
        (folder / "model_index.json").write_text(content, "latin-1")
        assert "model_index.json" in self.refusal(folder)

    def test_another_architecture(self, folder: Path) -> None:
        edit_json(folder / "model_index.json", _class_name="StableDiffusionPipeline")
        message = self.refusal(folder)
        assert "StableDiffusionPipeline" in message
        assert "StableDiffusionXLPipeline" in message

    def test_another_architecture_in_one_place(self, folder: Path) -> None:
        edit_json(folder / "model_index.json", unet=["diffusers", "SD3Transformer2DModel"])
        assert "unet is SD3Transformer2DModel" in self.refusal(folder)

    @pytest.mark.parametrize("entry", [None, [None, None], "CLIPTokenizer"])
    def test_a_component_that_the_index_leaves_out(self, folder: Path, entry: object) -> None:
        edit_json(folder / "model_index.json", tokenizer_2=entry)
        assert "tokenizer_2" in self.refusal(folder)

    @pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "tokenizer_2", "scheduler"])
    def test_a_component_that_is_missing(self, folder: Path, name: str) -> None:
        shutil.rmtree(folder / name)
        assert f"{folder / name} is missing; copy" in self.refusal(folder)

    @pytest.mark.parametrize("keep", [0, 4, 1000, -1])
    def test_half_a_file(self, folder: Path, keep: int) -> None:
        file = folder / "text_encoder_2" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        message = self.refusal(folder)
        assert str(file) in message
        assert "copy it again" in message

    def test_weights_in_a_format_that_can_run_code(self, folder: Path) -> None:
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
        assert f"{folder / 'unet'} holds no weights in the safetensors format" in self.refusal(
            folder
        )

    @pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "text_encoder_2"])
    def test_weights_that_lack_a_tensor(self, folder: Path, name: str) -> None:
        file = next((folder / name).glob("*.safetensors"))
        weights = load_file(file)
        lost = sorted(weights)[3]
        del weights[lost]
        save_file(weights, file, {"format": "pt"})
        message = self.refusal(folder)
        assert str(file) in message
        assert lost in message

    def test_weights_of_another_shape(self, folder: Path) -> None:
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        weights["conv_in.weight"] = torch.zeros(8, 9, 3, 3)
        save_file(weights, file, {"format": "pt"})
        assert "conv_in.weight" in self.refusal(folder)

    def test_a_configuration_that_cannot_be_read(self, folder: Path) -> None:
        (folder / "unet" / "config.json").write_text("{", "utf-8")
        assert str(folder) in self.refusal(folder)

    def test_a_scheduler_that_nobody_knows(self, folder: Path) -> None:
        use_scheduler(folder, "CrystalBallScheduler")
        assert "CrystalBallScheduler" in self.refusal(folder)


def test_the_tiny_models_are_the_same_each_time(original: Path, tmp_path: Path) -> None:
    again, other = make_tiny_sdxl(tmp_path / "again"), make_tiny_sdxl(tmp_path / "other", seed=1)
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file())
    assert [(again / file).read_bytes() for file in files] == [
        (original / file).read_bytes() for file in files
    ]
    weights = Path("unet", "diffusion_pytorch_model.safetensors")
    assert (other / weights).read_bytes() != (original / weights).read_bytes()
    assert json.loads((other / "unet" / "config.json").read_text())["addition_embed_type"]
