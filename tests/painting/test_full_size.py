"""A checkpoint of full size: 6.9 GB in half precision, with SDXL's own configurations."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from banatie.models.sdxl import write_configs
from tests.support.single_files import PARTS, Tensors, original, write_full_size

ROOT = Path(__file__).parents[2]
ROOM = 17_000_000_000
"""Bytes: the checkpoint, the converted folder, and the space that an import leaves free."""
MOST_MEMORY = 1_500_000_000
"""Bytes of the process's own memory, without mapped files."""
PAINTING_ROOM = 12_000_000_000
"""Bytes of memory: the weights in half precision, and a picture while it is painted."""
MACHINE = 24_000_000_000
PYTHON = 1_500_000_000
"""Bytes: the program and its libraries, which plans do not count."""
SAME = {
    "unet": ("conv_in.weight", "model.diffusion_model.input_blocks.0.0.weight"),
    "vae": ("decoder.conv_out.weight", "first_stage_model.decoder.conv_out.weight"),
    "text_encoder": (
        "final_layer_norm.weight",
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
    ),
    "text_encoder_2": (
        "text_model.encoder.layers.31.self_attn.q_proj.weight",
        "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight",
    ),
}


@dataclass(frozen=True)
class Import:
    """A checkpoint of full size and the costs of its import."""

    parts: dict[str, Tensors]
    file: Path
    folder: Path
    seconds: float
    memory: int


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Import]:
    """SDXL with random weights, as a checkpoint and as the converted folder."""
    room = tmp_path_factory.mktemp("full")
    if (free := shutil.disk_usage(room).free) < ROOM:
        pytest.skip(f"needs {ROOM / 1e9:.0f} GB on the disk; {free / 1e9:.0f} GB are free")
    write_configs(room)
    parts = empty_parts(room)
    tensors = original(parts, layers_per_block=2)
    block = np.random.default_rng(0).normal(0, 0.02, 8_000_000).astype(np.float16).tobytes()
    file = write_full_size(room / "full.safetensors", tensors, block)
    seconds, memory = imported(file, room / "models")
    yield Import(parts, file, room / "models" / "full", seconds, memory)
    shutil.rmtree(room)


def empty_parts(folder: Path) -> dict[str, Tensors]:
    """The tensors of SDXL's parts, without memory."""
    with init_empty_weights():
        models = (
            UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
            AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
            CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
            CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder / "text_encoder_2")),
        )
    return {
        part: {name: tensor.half() for name, tensor in model.named_parameters()}
        for part, model in zip(PARTS, models, strict=True)
    }


def imported(file: Path, models: Path) -> tuple[float, int]:
    """Import the file by the command; the seconds that it took, and its peak memory."""
    command = [sys.executable, "-m", "banatie", "--set", f"storage.models_dir={models}"]
    started, most = time.monotonic(), 0
    running = psutil.Popen([*command, "models", "import", str(file)], cwd=ROOT)
    while running.poll() is None:
        memory = running.memory_info()
        # Resident pages of mapped files can be evicted at any time.
        most = max(most, memory.rss - getattr(memory, "shared", 0))
        time.sleep(0.05)
    assert running.returncode == 0
    return time.monotonic() - started, most


@pytest.mark.slow
def test_a_checkpoint_of_full_size_is_converted_in_little_memory(full: Import) -> None:
    size = full.file.stat().st_size
    assert size > 6_900_000_000
    print(f"{size / 1e9:.2f} GB: {full.seconds:.0f} s, {full.memory / 1e9:.2f} GB of memory")
    for part, weights in full.parts.items():
        [made] = (full.folder / part).glob("*.safetensors")
        with safe_open(made, "pt") as opened, safe_open(full.file, "pt") as source:
            assert set(opened.keys()) == set(weights)
            for name in weights:
                found = opened.get_slice(name)
                assert (found.get_dtype(), found.get_shape()) == ("F16", [*weights[name].shape])
            name, theirs = SAME[part]
            one = opened.get_tensor(name)
            assert torch.equal(one, source.get_tensor(theirs)[: len(one)])
    manifest = json.loads((full.folder / "banatie.json").read_text())
    assert manifest["kind"] == "painting"
    assert full.memory < MOST_MEMORY


@pytest.mark.slow
def test_sdxl_of_full_size_is_planned_and_paints_a_step(full: Import) -> None:
    if (free := psutil.virtual_memory().available) < PAINTING_ROOM:
        pytest.skip(f"needs {PAINTING_ROOM / 1e9:.0f} GB of memory; {free / 1e9:.0f} GB are free")
    command = [sys.executable, "-m", "tests.support.paint_full_size", str(full.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(report))
    assert report["size"] == [1024, 1024]
    assert report["parameters"] > 2_500_000_000
    assert report["peak"] < MACHINE
    # The plan's estimate holds.
    assert report["peak"] < report["planned"] + PYTHON
