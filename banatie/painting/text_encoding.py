"""Prompts of any length as Stable Diffusion XL's two text encoders read them.

CLIP reads 77 tokens at a time, two of which mark the beginning and the end. A longer text is read
in several such chunks, cut where a reader would pause, and the chunks' embeddings follow one
another. Nothing is ever dropped. Knows no scheduler, no latents and no picture.
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

LOOK_BACK = 20
"""How many tokens of a chunk may stay unused so that it ends where a clause or a word ends."""

KEPT_TEXTS = 32
"""How many texts' embeddings are kept; one of SDXL's takes 0.3 MB in half precision."""

_PAUSE = re.compile(r"[,.;:!?](?=\s|$)|[，。；：！？、]|\S(?=\s*\n)")


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told about a text.

    `sequence` is (1, 77 · chunks, width of both encoders), `pooled` (1, the second's projection).
    """

    sequence: torch.Tensor
    pooled: torch.Tensor


class PromptTokenizer:
    """A CLIP tokenizer that never pads, cuts or warns; any number of threads may use it at once."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        # A copy, because calling the original sets its padding and truncation for good.
        self._backend: Tokenizer = copy.deepcopy(tokenizer.backend_tokenizer)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._first: int = tokenizer.bos_token_id
        self._last: int = tokenizer.eos_token_id
        self._padding: int = tokenizer.pad_token_id

    def count(self, text: str) -> int:
        """How many tokens `text` is, without the two that mark beginning and end."""
        return len(self._backend.encode(_encodable(text), add_special_tokens=False).ids)

    def chunks(self, text: str, room: int) -> list[list[int]]:
        """The tokens of `text` in chunks of at most `room`; at least one chunk, if an empty one."""
        text = _encodable(text)
        encoding = self._backend.encode(text, add_special_tokens=False)
        pauses = {match.end() for match in _PAUSE.finditer(text)}
        words = encoding.word_ids
        # Where a chunk may begin: after a pause if there is one, else between two words.
        after_pause, between_words = [], []
        for index in range(1, len(words)):
            if words[index] != words[index - 1]:
                between_words.append(index)
                if encoding.offsets[index - 1][1] in pauses:
                    after_pause.append(index)
        return split(encoding.ids, (after_pause, between_words), room)

    def framed(self, chunk: Sequence[int], length: int) -> list[int]:
        """The chunk between its marks, padded to `length`."""
        tokens = [self._first, *chunk, self._last]
        return tokens + [self._padding] * (length - len(tokens))


class TokenCounter:
    """Counts as both of a model's tokenizers do; any number of threads may use it at once."""

    def __init__(self, tokenizers: Sequence[PromptTokenizer]) -> None:
        self._tokenizers = tuple(tokenizers)

    def __call__(self, text: str) -> int:
        """The larger of both counts, without the tokens that mark beginning and end."""
        return max(tokenizer.count(text) for tokenizer in self._tokenizers)


def token_counter(folder: Path) -> TokenCounter:
    """The counter for a pipeline's folder, of which only the two tokenizers are read.

    Raises ModelBroken when one of them cannot be.
    """
    return TokenCounter([_load_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")])


class PromptEncoder:
    """Both text encoders of a pipeline with their tokenizers.

    `zeros_for_nothing` is the model's word on what an absent text is: all zeros, or the
    embedding of an empty one. `fetching` brings the encoders to where they compute.
    """

    def __init__(
        self,
        tokenizers: Sequence[CLIPTokenizer],
        encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection],
        zeros_for_nothing: bool,
        fetching: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._tokenizers = tuple(PromptTokenizer(tokenizer) for tokenizer in tokenizers)
        self._encoders = encoders
        self._context = min(encoder.config.max_position_embeddings for encoder in encoders)
        self._zeros_for_nothing = zeros_for_nothing
        self._fetching = fetching
        self._kept: OrderedDict[str, Conditioning] = OrderedDict()
        self.count_tokens = TokenCounter(self._tokenizers)

    def chunks(self, text: str) -> int:
        """How many chunks a text is."""
        room = self._context - 2
        return max(len(tokenizer.chunks(text, room)) for tokenizer in self._tokenizers)

    def forget(self) -> None:
        """Keep no embeddings: the encoders are not what they were, or elsewhere."""
        self._kept.clear()

    @torch.inference_mode()
    def encode(self, text: str) -> Conditioning:
        """The embeddings of the whole text: for one chunk, exactly those of `encode_prompt`."""
        if text not in self._kept:
            with self._fetching():
                self._kept[text] = self._embed(text)
            if len(self._kept) > KEPT_TEXTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(text)
        return self._kept[text]

    @torch.inference_mode()
    def encode_batch(
        self, texts: Sequence[str], negative_texts: Sequence[str]
    ) -> tuple[Conditioning, Conditioning | None]:
        """The embeddings of prompts and their negatives, a row for each prompt.

        Shorter ones are filled up with empty chunks; without negative texts there are none.
        """
        positive = [self.encode(text) for text in texts]
        negative = []
        for text, asked in zip(negative_texts, positive, strict=False):
            if self._zeros_for_nothing and not text.strip():
                nothing = (torch.zeros_like(asked.sequence), torch.zeros_like(asked.pooled))
                negative.append(Conditioning(*nothing))
            else:
                negative.append(self.encode(text))
        length = max(each.sequence.shape[1] for each in (*positive, *negative))
        return self._stack(positive, length), self._stack(negative, length) if negative else None

    def _stack(self, rows: Sequence[Conditioning], length: int) -> Conditioning:
        return Conditioning(
            torch.cat([self._extend(each.sequence, length) for each in rows]),
            torch.cat([each.pooled for each in rows]),
        )

    def _extend(self, sequence: torch.Tensor, length: int) -> torch.Tensor:
        missing = length - sequence.shape[1]
        if missing == 0:
            return sequence
        empty = self.encode("").sequence
        return torch.cat([sequence, empty.repeat(1, missing // empty.shape[1], 1)], 1)

    def _embed(self, text: str) -> Conditioning:
        chunks = [tokenizer.chunks(text, self._context - 2) for tokenizer in self._tokenizers]
        number = max(len(each) for each in chunks)
        outputs = []
        for tokenizer, encoder, each in zip(self._tokenizers, self._encoders, chunks, strict=True):
            each += [[]] * (number - len(each))
            rows = [tokenizer.framed(chunk, self._context) for chunk in each]
            tokens = torch.tensor(rows, device=encoder.device)
            outputs.append(encoder(tokens, output_hidden_states=True))
        # The last layer but one, and the pooled text of the first chunk alone: see
        # arXiv:2307.01952, section 2.1, and `encode_prompt` in diffusers' SDXL pipeline.
        sequence = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = outputs[-1].text_embeds[:1]
        return Conditioning(sequence.flatten(0, 1).unsqueeze(0).to(pooled.dtype), pooled)


def split(tokens: Sequence[int], breaks: Sequence[Sequence[int]], room: int) -> list[list[int]]:
    """Cut tokens into chunks of at most `room`; an empty list of tokens is one empty chunk.

    `breaks` are ascending positions at which a chunk may begin, the most welcome kind first. The
    last one within LOOK_BACK tokens of a full chunk is taken; without any, the chunk is filled up.
    """
    chunks, start = [], 0
    while len(tokens) - start > room:
        full = start + room
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


def _encodable(text: str) -> str:
    # JSON can carry half a surrogate pair, which is no text and which tokenizers refuse.
    return text.encode("utf-8", "replace").decode("utf-8")


def _load_tokenizer(folder: Path) -> PromptTokenizer:
    if not folder.is_dir():
        raise ModelBroken(f"{folder} is missing; copy the model's folder again")
    try:
        return PromptTokenizer(CLIPTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelBroken(f"{folder} holds no CLIP tokenizer that can be read: {error}") from error
