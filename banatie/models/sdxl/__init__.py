"""Everything of a Stable Diffusion XL 1.0 pipeline but its weights, as data in the files beside.

The components' configurations, and CLIP's byte-pair merges (from OpenAI's `clip`, MIT; see
LICENSE.clip), from which both tokenizers' files are made. With them a checkpoint that holds only
weights becomes a complete pipeline without a network.
"""

from __future__ import annotations

import gzip
import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

_MERGES = "clip_merges.txt.gz"
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_MARKS = ("<|startoftext|>", "<|endoftext|>")


def write_configs(folder: Path) -> None:
    """Write everything of a pipeline in the diffusers layout but the weights into `folder`."""
    root = resources.files(__name__)
    for entry in root.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            (folder / entry.name).mkdir()
            for file in entry.iterdir():
                _copy(file, folder / entry.name / file.name)
    _copy(root / "model_index.json", folder / "model_index.json")
    merges = gzip.decompress((root / _MERGES).read_bytes()).decode("utf-8")
    vocabulary = json.dumps(_vocabulary(merges.split("\n")[:-1]), ensure_ascii=False)
    for name in _TOKENIZERS:
        (folder / name / "merges.txt").write_text("#version: 0.2\n" + merges, "utf-8", newline="\n")
        (folder / name / "vocab.json").write_text(vocabulary, "utf-8")


def _vocabulary(merges: list[str]) -> dict[str, int]:
    """The tokens in the order that gives each its number, as in OpenAI's `simple_tokenizer.py`."""
    letters = _letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    return {token: number for number, token in enumerate([*tokens, *_MARKS])}


def _letters() -> list[str]:
    """A printable letter for each byte: its own where it has one, the others' after them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + others))]


def _copy(source: Traversable, target: Path) -> None:
    target.write_bytes(source.read_bytes())
