"""Conversion of a GGUF file into a language model's folder, and merging a LoRA adapter into one.

The folder gets what transformers loads in a second: safetensors weights in bfloat16, a tokenizer
and a chat template. Knows Llama's architecture with a byte-level BPE tokenizer, and nothing of
where the file comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from banatie.errors import ModelBroken
from banatie.models.manifest import sha256_of

ADAPTER_FILE = "adapter_model.safetensors"
MERGED_ADAPTER = "merged_adapter"
"""The key in `config.json` of the merged adapter's SHA-256."""

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
"""GGUF's names of a block's tensors, and transformers'."""


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write weights, tokenizer, configuration and chat template into `folder`.

    Raises ModelBroken for anything but a Llama with a byte-level BPE tokenizer.
    """
    try:
        reader = GGUFReader(gguf)
    except (ValueError, IndexError) as error:
        raise ModelBroken(f"{gguf.name} is not a GGUF file ({error}); download it again") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    architecture, tokenizer_model = (
        fields.get(name) for name in ("general.architecture", "tokenizer.ggml.model")
    )
    if architecture != "llama" or tokenizer_model != "gpt2":
        raise ModelBroken(f"{gguf.name} is not a Llama with a byte-level BPE tokenizer")
    try:
        config = _config(fields, {tensor.name for tensor in reader.tensors})
        weights = dict(_weights(reader, config))
        tokenizer = _tokenizer(fields)
        tokens = fields["tokenizer.ggml.tokens"]
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[config["bos_token_id"]],
            "eos_token": tokens[config["eos_token_id"]],
            "pad_token": tokens[config["pad_token_id"]],
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
        }
    except KeyError as error:
        raise ModelBroken(f"{gguf.name} lacks {error}; nothing was installed") from error
    generation = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _save_weights(weights, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    _write_json(folder / "generation_config.json", generation)
    if template := fields.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    _write_json(folder / "config.json", config)


def merge_adapter(adapter: Path, folder: Path) -> None:
    """Merge a LoRA adapter into the weights in `folder`: W + alpha / r · B · A (arXiv:2106.09685).

    `adapter` is a folder in peft's layout. The model's `config.json` keeps its SHA-256. Raises
    ModelBroken when the adapter is not for these weights.
    """
    settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    scale = settings["lora_alpha"] / settings["r"]
    lora = load_file(adapter / ADAPTER_FILE)
    weights = load_file(folder / "model.safetensors")
    for name in lora:
        if not name.endswith(".lora_A.weight"):
            continue
        target = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") + ".weight"
        # In float64, so that every machine rounds to the same numbers.
        down, up = lora[name].double(), lora[name.replace("lora_A", "lora_B")].double()
        if target not in weights or weights[target].shape != (len(up), down.shape[1]):
            raise ModelBroken(f"the adapter in {adapter} is not for this model: {target}")
        weights[target] = (weights[target].double() + scale * (up @ down)).to(torch.bfloat16)
    _save_weights(weights, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    digest = sha256_of(adapter / ADAPTER_FILE)
    _write_json(folder / "config.json", {**config, MERGED_ADAPTER: digest})


def _save_weights(weights: dict[str, torch.Tensor], folder: Path) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _config(fields: Mapping[str, Any], tensors: set[str]) -> dict[str, Any]:
    heads, width = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    end = fields["tokenizer.ggml.eos_token_id"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": fields.get("llama.attention.key_length", width // heads),
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": fields.get("llama.rope.freq_base", 10000.0),
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": end,
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id", end),
    }


def _weights(reader: GGUFReader, config: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
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
                # llama.cpp stores the two halves of a rotated pair interleaved, transformers apart.
                pairs = weight.reshape(heads[kind], -1, 2, weight.shape[1])
                weight = pairs.transpose(1, 2).reshape(weight.shape)
            yield f"model.layers.{layer}.{LLAMA_TENSORS[kind]}.weight", weight.contiguous()
        elif not tensor.name.startswith("rope"):
            raise KeyError(f"a place for {tensor.name}")


def _tokenizer(fields: Mapping[str, Any]) -> Tokenizer:
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if fields.get("tokenizer.ggml.pre") == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return tokenizer


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
