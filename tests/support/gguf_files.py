"""A tiny Llama as a GGUF file, and LoRA adapters for it. Knows nothing of Banatie."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

WIDTH, HEADS, LAYERS = 32, 2, 2
CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def write_gguf(path: Path, architecture: str = "llama") -> None:
    """Write a Llama of width 32 in Q4_1, with an alphabet for a vocabulary."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    tokens = ["<|start|>", "<|end|>", *"abcdefghijklmnopqrstuvwxyz0123456789", "Ġ", "ca", "cat"]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([control] * 2 + [normal] * (len(tokens) - 2))
    writer.add_token_merges(["c a", "ca t"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(CHAT_TEMPLATE)

    def add(name: str, *shape: int) -> None:
        weights = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, weights)
            return
        kind = gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH)
    for layer in range(LAYERS):
        for name, *shape in (
            ("attn_norm", WIDTH),
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH // HEADS, WIDTH),
            ("attn_v", WIDTH // HEADS, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_norm", WIDTH),
            ("ffn_gate", 64, WIDTH),
            ("ffn_up", 64, WIDTH),
            ("ffn_down", WIDTH, 64),
        ):
            add(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_adapter(folder: Path, seed: int, width: int = WIDTH) -> None:
    """Write a random adapter for the queries of the second layer, with alpha / r = 2."""
    generator = torch.Generator().manual_seed(seed)
    query = "base_model.model.model.layers.1.self_attn.q_proj"
    tensors = {
        f"{query}.lora_A.weight": torch.randn(4, width, generator=generator).half(),
        f"{query}.lora_B.weight": torch.randn(WIDTH, 4, generator=generator).half(),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
