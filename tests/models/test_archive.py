"""What was imported goes over an air gap, and comes in by the same command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from banatie.errors import BanatieError
from banatie.models.catalog import Catalog
from banatie.models.import_file import import_model
from banatie.models.manage import export
from banatie.models.manifest import read_manifest
from tests.support.single_files import write_checkpoint, write_lora
from tests.support.tiny_models import make_tiny_sdxl


def silent(line: str) -> None:
    pass


def test_a_lora_and_a_checkpoint_are_exported_and_imported_again(tmp_path: Path) -> None:
    pipeline = make_tiny_sdxl(tmp_path / "pipeline", second_width=24)
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    write_lora(tmp_path / "ink.safetensors", {layer: torch.Size((16, 40))}, rank=4, alpha=2.0)
    write_checkpoint(pipeline, tmp_path / "nice.safetensors")
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("ink", "nice"):
        import_model(tmp_path / f"{name}.safetensors", here, silent, configs=pipeline)
        export(Catalog(here).entry(name), tmp_path / f"{name}.tar", silent)
        came = import_model(tmp_path / f"{name}.tar", there, silent)
        assert came == read_manifest(here / name) == read_manifest(there / name)
        with pytest.raises(BanatieError, match="already"):
            import_model(tmp_path / f"{name}.tar", there, silent)
    assert Catalog(there).lora("ink") == there / "ink" / "lora.safetensors"
