"""Text encoding: embeddings of prompts of any length by Stable Diffusion XL's two text encoders.

CLIP reads 77 tokens at a time, including the two special tokens. A longer text is split into
several chunks, at punctuation where possible, and the chunks' embeddings are concatenated. No token
is ever dropped. Knows no scheduler, no latents and no picture.
"""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from banatie.errors import ModelBroken
from banatie.painting.prompt_weights import Prompt, WeightedPrompt, apply_weights

LOOK_BACK = 20
"""Tokens of a chunk that may stay unused so that it ends with a clause or a word."""

CACHED_TEXTS = 32
"""Texts whose embeddings are cached; one of SDXL's takes 0.3 MB in half precision."""

PUNCTUATION = re.compile(r"[,.;:!?](?=\s|$)|[，。；：！？、]|\S(?=\s*\n)")


@dataclass(frozen=True)
class TextEmbedding:
    """What the UNet is conditioned on for a text, or for a batch of texts.

    `sequence` is (texts, 77 · chunks, width of both encoders), diffusers' `prompt_embeds`; `pooled`
    is (texts, the second encoder's projection), its `pooled_prompt_embeds`.
    """

    sequence: torch.Tensor
    pooled: torch.Tensor


class PromptTokenizer:
    """A CLIP tokenizer that never pads, truncates or warns; safe for use by several threads."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        # A copy, because calling the original changes its padding and truncation settings.
        self._backend: Tokenizer = copy.deepcopy(tokenizer.backend_tokenizer)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._first: int = tokenizer.bos_token_id
        self._last: int = tokenizer.eos_token_id
        self._padding: int = tokenizer.pad_token_id

    def count(self, text: str) -> int:
        """The number of tokens of a text, without the two special tokens."""
        return len(self._backend.encode(_replace_surrogates(text), add_special_tokens=False).ids)

    def chunks(self, text: str, max_tokens: int) -> list[list[int]]:
        """The tokens of a text in chunks of at most `max_tokens`; an empty text is one chunk."""
        ids, after_punctuation, between_words = self._read(text)
        return split_into_chunks(ids, (after_punctuation, between_words), max_tokens)

    def _read(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """The tokens, and where a chunk may begin: after punctuation, or between two words."""
        text = _replace_surrogates(text)
        encoding = self._backend.encode(text, add_special_tokens=False)
        punctuation_ends = {match.end() for match in PUNCTUATION.finditer(text)}
        words = encoding.word_ids
        after_punctuation, between_words = [], []
        for index in range(1, len(words)):
            if words[index] != words[index - 1]:
                between_words.append(index)
                if encoding.offsets[index - 1][1] in punctuation_ends:
                    after_punctuation.append(index)
        return encoding.ids, after_punctuation, between_words

    def weighted_chunks(
        self, prompt: WeightedPrompt, max_tokens: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """The same of a prompt with weights, and the weight of each token.

        Each part is read by itself, and each section begins a chunk.
        """
        chunks: list[list[int]] = []
        weights: list[list[float]] = []
        for section in prompt.sections:
            ids: list[int] = []
            of_ids: list[float] = []
            after_punctuation: list[int] = []
            between_words: list[int] = []
            ends_clause = False
            for part in section:
                start = len(ids)
                read, *positions = self._read(part.text)
                (after_punctuation if ends_clause else between_words).append(start)
                after_punctuation += [start + position for position in positions[0]]
                between_words += [start + position for position in positions[1]]
                ids += read
                of_ids += [part.weight] * len(read)
                ends_clause = part.text.rstrip().endswith(tuple(",.;:!?"))
            split = split_into_chunks(ids, (after_punctuation, between_words), max_tokens)
            chunks += split
            taken = 0
            for chunk in split:
                weights.append(of_ids[taken : taken + len(chunk)])
                taken += len(chunk)
        return chunks, weights

    def with_special_tokens(self, chunk: Sequence[int], length: int) -> list[int]:
        """The chunk between its two special tokens, padded to `length`."""
        tokens = [self._first, *chunk, self._last]
        return tokens + [self._padding] * (length - len(tokens))


class TokenCounter:
    """Counts tokens with both of a model's tokenizers; safe for use by several threads."""

    def __init__(self, tokenizers: Sequence[PromptTokenizer]) -> None:
        self._tokenizers = tuple(tokenizers)

    def __call__(self, text: str) -> int:
        """The larger of both counts, without the special tokens."""
        return max(tokenizer.count(text) for tokenizer in self._tokenizers)


def token_counter(folder: Path) -> TokenCounter:
    """The token counter of a pipeline's folder, of which only the two tokenizers are read.

    Raises ModelBroken when one of them cannot be read.
    """
    return TokenCounter([_load_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")])


class PromptEncoder:
    """Both text encoders of a pipeline with their tokenizers, and a cache of embeddings.

    `zeros_for_empty_prompt` is the pipeline's `force_zeros_for_empty_prompt`: whether an absent
    negative prompt is all zeros, or the embedding of an empty text. `on_device` is entered while
    the encoders compute.
    """

    def __init__(
        self,
        tokenizers: Sequence[CLIPTokenizer],
        encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection],
        zeros_for_empty_prompt: bool,
        on_device: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._tokenizers = tuple(PromptTokenizer(tokenizer) for tokenizer in tokenizers)
        self._encoders = encoders
        self._context = min(encoder.config.max_position_embeddings for encoder in encoders)
        self._zeros_for_empty_prompt = zeros_for_empty_prompt
        self._on_device = on_device
        self._cache: OrderedDict[Prompt, TextEmbedding] = OrderedDict()
        self.count_tokens = TokenCounter(self._tokenizers)

    def chunks(self, prompt: Prompt) -> int:
        """The number of chunks of a prompt."""
        return max(len(self._chunks(tokenizer, prompt)[0]) for tokenizer in self._tokenizers)

    def clear_cache(self) -> None:
        """Drop the cached embeddings, because the encoders changed or were moved."""
        self._cache.clear()

    @torch.inference_mode()
    def encode(self, text: Prompt) -> TextEmbedding:
        """The embedding of the whole prompt; for one chunk, exactly that of `encode_prompt`."""
        if text not in self._cache:
            with self._on_device():
                self._cache[text] = self._embed(text)
            if len(self._cache) > CACHED_TEXTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(text)
        return self._cache[text]

    @torch.inference_mode()
    def encode_batch(
        self, texts: Sequence[Prompt], negative_texts: Sequence[Prompt]
    ) -> tuple[TextEmbedding, TextEmbedding | None]:
        """The embeddings of prompts and of their negative prompts, a row for each prompt.

        Shorter ones are padded with empty chunks. Without negative texts the second is None.
        """
        positive = [self.encode(text) for text in texts]
        negative = []
        for text, prompt in zip(negative_texts, positive, strict=False):
            if self._zeros_for_empty_prompt and isinstance(text, str) and not text.strip():
                zeros = (torch.zeros_like(prompt.sequence), torch.zeros_like(prompt.pooled))
                negative.append(TextEmbedding(*zeros))
            else:
                negative.append(self.encode(text))
        length = max(each.sequence.shape[1] for each in (*positive, *negative))
        return self._stack(positive, length), self._stack(negative, length) if negative else None

    def _stack(self, rows: Sequence[TextEmbedding], length: int) -> TextEmbedding:
        return TextEmbedding(
            torch.cat([self._extend(each.sequence, length) for each in rows]),
            torch.cat([each.pooled for each in rows]),
        )

    def _extend(self, sequence: torch.Tensor, length: int) -> torch.Tensor:
        missing = length - sequence.shape[1]
        if missing == 0:
            return sequence
        empty = self.encode("").sequence
        return torch.cat([sequence, empty.repeat(1, missing // empty.shape[1], 1)], 1)

    def _embed(self, prompt: Prompt) -> TextEmbedding:
        read = [self._chunks(tokenizer, prompt) for tokenizer in self._tokenizers]
        number = max(len(chunks) for chunks, _ in read)
        outputs, states = [], []
        for tokenizer, encoder, (chunks, weights) in zip(
            self._tokenizers, self._encoders, read, strict=True
        ):
            chunks += [[]] * (number - len(chunks))
            rows = [tokenizer.with_special_tokens(chunk, self._context) for chunk in chunks]
            tokens = torch.tensor(rows, device=encoder.device)
            outputs.append(encoder(tokens, output_hidden_states=True))
            states.append(outputs[-1].hidden_states[-2])
            if weights:
                weights += [[]] * (number - len(weights))
                states[-1] = apply_weights(states[-1], [self._padded(each) for each in weights])
        # The penultimate layer, and the pooled embedding of the first chunk alone: see
        # arXiv:2307.01952, section 2.1, and `encode_prompt` in diffusers' SDXL pipeline.
        sequence = torch.cat(states, dim=-1)
        pooled = outputs[-1].text_embeds[:1]
        return TextEmbedding(sequence.flatten(0, 1).unsqueeze(0).to(pooled.dtype), pooled)

    def _chunks(
        self, tokenizer: PromptTokenizer, prompt: Prompt
    ) -> tuple[list[list[int]], list[list[float]]]:
        """The chunks of tokens, and of their weights if there are any."""
        if isinstance(prompt, str):
            return tokenizer.chunks(prompt, self._context - 2), []
        return tokenizer.weighted_chunks(prompt, self._context - 2)

    def _padded(self, weights: Sequence[float]) -> list[float]:
        """With those of the special tokens and of the padding, which count as they are."""
        return [1.0, *weights, *[1.0] * (self._context - 1 - len(weights))]


def split_into_chunks(
    tokens: Sequence[int], breaks: Sequence[Sequence[int]], max_tokens: int
) -> list[list[int]]:
    """Split tokens into chunks of at most `max_tokens`; an empty list is one empty chunk.

    `breaks` are ascending positions at which a chunk may begin, the preferred kind first. The last
    one within LOOK_BACK tokens of a full chunk is taken; without any, the chunk is filled.
    """
    chunks, start = [], 0
    while len(tokens) - start > max_tokens:
        full = start + max_tokens
        cut = full
        for positions in breaks:
            near = [p for p in positions if max(start, full - LOOK_BACK) < p <= full]
            if near:
                cut = near[-1]
                break
        chunks.append(list(tokens[start:cut]))
        start = cut
    chunks.append(list(tokens[start:]))
    return chunks


def _replace_surrogates(text: str) -> str:
    # JSON can carry half a surrogate pair, which tokenizers refuse.
    return text.encode("utf-8", "replace").decode("utf-8")


def _load_tokenizer(folder: Path) -> PromptTokenizer:
    if not folder.is_dir():
        raise ModelBroken(f"{folder} is missing; copy the model's folder again")
    try:
        return PromptTokenizer(CLIPTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelBroken(f"{folder} holds no readable CLIP tokenizer: {error}") from error
