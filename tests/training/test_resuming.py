"""Training goes on from the shipped weights where no checkpoint is left."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from training.autoencoder import load_autoencoder
from training.judging import load_judge
from training.painting import Painter
from training.resuming import adopt, progress
from training.wording import load_encoders

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "banatie" / "models" / "bundled" / "banatie-small"
JUDGE = ROOT / "scripts" / "embedded" / "judge.safetensors"


def test_every_stage_goes_on_from_what_is_shipped(tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert adopt(MODEL, JUDGE, work)
    assert progress(work)["painter"]["seen"] > 0
    networks = {
        "unet/diffusion_pytorch_model": Painter.load(work).averaged(),
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


def test_checkpoints_that_are_there_are_kept(tmp_path: Path) -> None:
    assert adopt(MODEL, JUDGE, tmp_path)
    (tmp_path / "unet.pt").write_bytes(b"further on")
    assert not adopt(MODEL, JUDGE, tmp_path)
    assert (tmp_path / "unet.pt").read_bytes() == b"further on"


def test_without_shipped_weights_all_begins_anew(tmp_path: Path) -> None:
    assert not adopt(tmp_path / "nothing", JUDGE, tmp_path / "work")
    assert not (tmp_path / "work").exists()
