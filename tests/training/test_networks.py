"""The whole training of a few seconds writes pieces that become a pipeline that paints."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from training.codes import LENGTH, Codes, rows_of
from training.foundations import load_foundations
from training.networks import STATE_FILE, read_pieces, write_pieces
from training.scene_catalog import Scene
from training.text_encoders import build_tokenizer
from training.things import OBJECTS

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_embedded"


def test_every_object_has_a_code_of_its_own() -> None:
    codes: Codes = load_foundations(torch.device("cpu")).codes
    rows = torch.tensor([rows_of(Scene(name, "red", "sea")) for name in (None, *OBJECTS)])
    vectors = codes.encode(rows)
    assert vectors.shape == (len(OBJECTS) + 1, LENGTH)
    noisy = vectors + 0.2 * torch.randn_like(vectors)
    assert torch.equal(codes.decode(noisy)["object"], rows[:, 0])


def test_pieces_of_two_exports_are_refused(tmp_path: Path) -> None:
    build_tokenizer(tmp_path / "tokenizer")
    weights = {"judge": {f"{n}": torch.zeros(9_000_000).half() for n in range(2)}}
    write_pieces(weights, {"judge": 1}, tmp_path / "tokenizer", tmp_path / "old")
    write_pieces(weights, {"judge": 2}, tmp_path / "tokenizer", tmp_path / "new")
    (tmp_path / "new" / "piece-1.safetensors").write_bytes(
        (tmp_path / "old" / "piece-1.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="piece 1 is of another export"):
        read_pieces(tmp_path / "new", tmp_path / "words")


@pytest.mark.end_to_end
def test_training_writes_pieces_that_become_a_pipeline(icons: Path, tmp_path: Path) -> None:
    archive, pieces, model = tmp_path / "icons.tgz", tmp_path / "pieces", tmp_path / "model"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(icons, "package/icons.json")
    places = ["--work", tmp_path / "work", "--pieces", pieces, "--out", model]
    places += ["--judge", tmp_path / "judge.safetensors"]
    command = [sys.executable, SCRIPT, "--icons", archive, *places, "--sizes", "tiny"]
    done = subprocess.run(
        [*command, "--minutes", "0.6"], capture_output=True, text=True, check=True, timeout=240
    )
    assert "failed" not in done.stdout, done.stdout + done.stderr
    assert max(file.stat().st_size for file in pieces.iterdir()) < 16 * 2**20
    assert len(list(pieces.iterdir())) <= 7
    assert json.loads((pieces / STATE_FILE).read_text())["progress"]["painter"] > 0
    subprocess.run([*command, "--assemble"], check=True, timeout=120)
    assert sum(file.stat().st_size for file in model.rglob("*") if file.is_file()) < 60e6
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        model, local_files_only=True, dtype=torch.float32
    )
    image = pipeline("a cat", width=64, height=64, num_inference_steps=1).images[0]
    assert image.size == (64, 64)
