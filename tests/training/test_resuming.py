"""Training resumes from the shipped weights where there is no checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from training.autoencoder import load_autoencoder
from training.judging import load_judge
from training.resuming import progress, restore_shipped
from training.text_encoders import load_encoders
from training.unet import UNetTraining

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "banatie" / "models" / "bundled" / "banatie-small"
JUDGE = ROOT / "scripts" / "training" / "judge.safetensors"


def test_every_stage_resumes_from_the_shipped_weights(tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert restore_shipped(MODEL, JUDGE, work)
    assert progress(work)["painter"]["seen"] > 0
    networks = {
        "unet/diffusion_pytorch_model": UNetTraining.load(work).averaged(),
        "vae/diffusion_pytorch_model": load_autoencoder(work),
        "text_encoder/model": load_encoders(work)[1],
        "text_encoder_2/model": load_encoders(work)[2],
    }
    for name, network in networks.items():
        shipped = load_file(MODEL / f"{name}.safetensors")
        weights = network.state_dict()
        assert shipped.keys() <= weights.keys()
        for each, value in shipped.items():
            torch.testing.assert_close(weights[each].half(), value.half(), msg=each)
    load_judge(work / "judge.pt")


def test_existing_checkpoints_are_kept(tmp_path: Path) -> None:
    assert restore_shipped(MODEL, JUDGE, tmp_path)
    (tmp_path / "unet.pt").write_bytes(b"further on")
    assert not restore_shipped(MODEL, JUDGE, tmp_path)
    assert (tmp_path / "unet.pt").read_bytes() == b"further on"


def test_without_shipped_weights_training_starts_from_nothing(tmp_path: Path) -> None:
    assert not restore_shipped(tmp_path / "nothing", JUDGE, tmp_path / "work")
    assert not (tmp_path / "work").exists()
