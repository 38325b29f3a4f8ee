"""The token loop of a causal language model: forward pass, prefix cache, continuations.

Why not `generate` of transformers: its rows end together, and it keeps no prefix between calls.
Knows tokens and caches. The two modes decide what a text means and when it is complete.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from banatie.enhancement import sampling

MAX_PREFIX_CACHE_BYTES = 64 * 2**20
NOTHING_USABLE = "The language model wrote nothing usable"

Check = Callable[[], None]
"""Called before each forward pass; raises to end the generation."""


class GenerationFailed(Exception):
    """Why the original prompt has to be used, in a sentence for the user."""


@dataclass(frozen=True)
class Prefix:
    """A text that was read, as tokens and as the key-value cache after them."""

    ids: tuple[int, ...]
    cache: DynamicCache

    @property
    def nbytes(self) -> int:
        """The size of the cache."""
        tensors = (tensor for layer in self.cache.layers for tensor in (layer.keys, layer.values))
        return sum(tensor.nbytes for tensor in tensors)

    def copy_cache(self) -> DynamicCache:
        """A cache that may be extended; the prefix's own stays as it is."""
        return copy.deepcopy(self.cache)


@dataclass
class Continuation:
    """One row of a batch that continues the same text."""

    forced: list[int] = field(default_factory=list)
    """Tokens that the row begins with, not sampled."""
    tokens: list[int] = field(default_factory=list)
    done: bool = False


Row = TypeVar("Row", bound=Continuation)


class Decoder:
    """A causal language model with its tokenizer, for one thread at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self.tokenizer = tokenizer
        self.ends = sampling.end_tokens(model, tokenizer)
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()

    def token_mask(self, banned_words: frozenset[str]) -> torch.Tensor:
        """The mask of `sampling.token_mask` for this model."""
        return sampling.token_mask(self._model, self.tokenizer, banned_words, self.ends)

    def clear_prefixes(self) -> None:
        """Forget the prefix cache, whose tensors lie on the model's device."""
        self._prefixes.clear()

    def prefix(self, text: str, check: Check) -> Prefix:
        """The model's state after `text`: from the prefix cache, or computed and kept there."""
        if text in self._prefixes:
            self._prefixes.move_to_end(text)
            return self._prefixes[text]
        check()
        ids = self.encode_from_start(text)
        cache = DynamicCache(config=self._model.config)
        self.forward([ids], cache)
        self._prefixes[text] = Prefix(tuple(ids), cache)
        while (
            sum(prefix.nbytes for prefix in self._prefixes.values()) > MAX_PREFIX_CACHE_BYTES
            and len(self._prefixes) > 1
        ):
            self._prefixes.popitem(last=False)
        return self._prefixes[text]

    def extend(
        self,
        rows: Sequence[Row],
        prefix: Prefix,
        context: list[int],
        *,
        seed: int,
        temperature: float,
        mask: torch.Tensor,
        max_tokens: int,
        check: Check,
    ) -> Iterator[Row]:
        """Extend all rows token by token until each is done; yields each row with a new token.

        The rows continue the prefix and the context. The caller sets a row's `done`.
        """
        generator = torch.Generator().manual_seed(seed % 2**63)
        cache = prefix.copy_cache()
        logits = self.forward([context], cache).expand(len(rows), -1)
        cache.batch_repeat_interleave(len(rows))
        for _ in range(max_tokens):
            check()
            sampled = sampling.sample(logits, temperature, generator, mask)
            for row, token in zip(rows, sampled, strict=True):
                row.tokens.append(row.forced.pop(0) if row.forced else token)
                if not row.done and not row.forced:
                    yield row
            if all(row.done for row in rows):
                break
            logits = self.forward([[row.tokens[-1]] for row in rows], cache)

    def generate(
        self, prefix: Prefix, ids: list[int], *, seed: int, temperature: float, check: Check
    ) -> Iterator[list[int]]:
        """Continue the text of `ids`; yields the tokens so far after each new one, up to the end.

        `prefix` holds the beginning of the text.
        """
        generator = torch.Generator().manual_seed(seed % 2**63)
        # The prefix's last token may have merged with what follows it.
        pairs = zip(prefix.ids, ids, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        cache = prefix.copy_cache()
        if surplus := len(prefix.ids) - shared:
            cache.crop(-surplus)
        logits = self.forward([ids[shared:]], cache)
        tokens: list[int] = []
        while True:
            check()
            [token] = sampling.sample(logits, temperature, generator, None)
            if token in self.ends:
                return
            tokens.append(token)
            yield tokens
            logits = self.forward([[token]], cache)

    def log_probs(
        self, prefix: Prefix, context: list[int], clauses: Sequence[str]
    ) -> list[torch.Tensor]:
        """The log-probabilities of each clause's tokens after the prefix and context, in nats."""
        cache = prefix.copy_cache()
        first = self.forward([context], cache)
        rows = [self.encode(f" {clause}") for clause in clauses]
        longest = max(map(len, rows))
        cache.batch_repeat_interleave(len(rows))
        padded = [row + row[-1:] * (longest - len(row)) for row in rows]
        return sampling.log_probs(first, self._logits(padded, cache, longest), rows)

    def forward(self, ids: list[list[int]], cache: DynamicCache) -> torch.Tensor:
        """The logits after the last tokens (rows, vocabulary), as float32 on the CPU."""
        return self._logits(ids, cache, 1)[:, -1]

    def _logits(self, ids: list[list[int]], cache: DynamicCache, last: int) -> torch.Tensor:
        """The logits after each of the last tokens (rows, `last`, vocabulary)."""
        batch = torch.tensor(ids, device=self._model.device)
        output = self._model(batch, past_key_values=cache, use_cache=True, logits_to_keep=last)
        logits = output.logits.float().cpu()
        if not torch.isfinite(logits).all():
            raise GenerationFailed(NOTHING_USABLE)
        return logits

    def encode_from_start(self, text: str) -> list[int]:
        """The tokens of a text with one beginning-of-sequence token, where the model expects it."""
        ids = self.encode(text)
        start = self.tokenizer("").input_ids[:1]
        marked = start != [self.tokenizer.bos_token_id] or ids[:1] == start
        return ids if marked else start + ids

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without special tokens."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)
