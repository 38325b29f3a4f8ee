"""Sampling: nucleus sampling, masks over the vocabulary, log-probabilities, ranking by PMI.

Works on logits and token ids; knows no prompt and no loaded model's state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOP_K = 40
TOP_P = 0.9
MIN_PMI = 2.0
"""Nats per token. Of 113 clauses judged by hand, 57 % fitted their subject; above this, 78 %."""


def sample(
    logits: torch.Tensor, temperature: float, generator: torch.Generator, mask: torch.Tensor | None
) -> list[int]:
    """Sample a token for each row of logits (rows, vocabulary), of the top k and the top p.

    `mask` is added to every row. Nucleus sampling: arXiv:1904.09751.
    """
    if mask is not None:
        logits = logits + mask
    best, tokens = logits.topk(min(TOP_K, logits.shape[-1]))
    probs = torch.softmax(best / temperature, dim=-1)
    # A token stays while the more likely ones do not yet add up to TOP_P.
    probs[probs.cumsum(-1) - probs > TOP_P] = 0
    choice = torch.multinomial(probs, 1, generator=generator)
    return tokens.gather(-1, choice)[:, 0].tolist()


def log_probs(
    first: torch.Tensor, rest: torch.Tensor, rows: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """The log-probabilities of each row's tokens, in nats.

    `first` are the logits before the rows (1, vocabulary); `rest` those after each token of the
    rows, which are padded to one length (rows, tokens, vocabulary).
    """
    before = torch.cat([first.expand(len(rows), 1, -1), rest[:, :-1]], dim=1).log_softmax(-1)
    return [
        probs[: len(row)].gather(-1, torch.tensor(row)[:, None])[:, 0]
        for probs, row in zip(before, rows, strict=True)
    ]


def rank_by_pmi(
    clauses: Sequence[str],
    given_subject: Sequence[torch.Tensor],
    given_anything: Sequence[torch.Tensor],
) -> list[str]:
    """The clauses that are specific to the subject, the most specific first.

    The tensors are the log-probabilities of each clause's tokens after the subject and after a
    neutral one. Their mean difference is the pointwise mutual information per token; clauses below
    MIN_PMI are left out.
    """
    pairs = zip(given_subject, given_anything, strict=True)
    pmi = [float((one - other).mean()) for one, other in pairs]
    ranked = sorted(zip(pmi, clauses, strict=True), reverse=True)
    return [clause for value, clause in ranked if value >= MIN_PMI]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The end-of-sequence tokens of a model and its tokenizer."""
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(t for t in (*listed, tokenizer.eos_token_id) if t is not None)


def token_mask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    banned_words: frozenset[str],
    ends: frozenset[int],
) -> torch.Tensor:
    """A mask over the vocabulary: minus infinity for tokens that guided mode never samples.

    These are banned words, other scripts, unusual punctuation and special tokens but the `ends`.
    """
    mask = torch.zeros(model.config.get_text_config().vocab_size)
    mask[len(tokenizer) :] = -torch.inf
    allowed = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.-'/\n")
    for token, text in enumerate(tokenizer.batch_decode([[i] for i in range(len(tokenizer))])):
        banned = text.startswith(" ") and text.strip().lower() in banned_words
        if not text or not allowed.issuperset(text) or banned:
            mask[token] = -torch.inf
    mask[tokenizer.all_special_ids] = -torch.inf
    mask[list(ends)] = 0
    return mask
