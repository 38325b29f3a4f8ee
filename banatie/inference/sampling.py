"""Which tokens a language model may take, and drawing one of them.

Nucleus sampling (arXiv:1904.09751) among the most likely. What the text is about is not known here.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOP_K = 40
TOP_P = 0.9


def draw(
    logits: torch.Tensor, warmth: float, chance: torch.Generator, mask: torch.Tensor | None
) -> list[int]:
    """A token for each row of logits, of rows by vocabulary; `mask` is added to every row."""
    if mask is not None:
        logits = logits + mask
    best, tokens = logits.topk(min(TOP_K, logits.shape[-1]))
    shares = torch.softmax(best / warmth, dim=-1)
    # A token stays while the ones before it have not yet made up the share.
    shares[shares.cumsum(-1) - shares > TOP_P] = 0
    choice = torch.multinomial(shares, 1, generator=chance)
    return tokens.gather(-1, choice)[:, 0].tolist()


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens by which the model says that it has done."""
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(t for t in (*listed, tokenizer.eos_token_id) if t is not None)


def mask_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    refused: frozenset[str],
    ends: frozenset[int],
) -> torch.Tensor:
    """Minus infinity for the tokens that the led way never takes: other scripts, signs, talk."""
    mask = torch.zeros(model.config.get_text_config().vocab_size)
    mask[len(tokenizer) :] = -torch.inf
    allowed = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.-'/\n")
    for token, text in enumerate(tokenizer.batch_decode([[i] for i in range(len(tokenizer))])):
        talk = text.startswith(" ") and text.strip().lower() in refused
        if not text or not allowed.issuperset(text) or talk:
            mask[token] = -torch.inf
    mask[tokenizer.all_special_ids] = -torch.inf
    mask[list(ends)] = 0
    return mask
