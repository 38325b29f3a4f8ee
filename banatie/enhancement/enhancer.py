"""The language model that enriches prompts: loads one from a folder and lets it write.

Two modes. *Guided*, for small models: the text opens with the template's medium and the user's
words and the model continues, several rows at once. A model that drifts only finishes the stems of
the template's slots. A taught model goes on freely in many rows, and the clauses stay that it finds
far likelier behind these words than behind any others. *Free*, for larger models: instruction, the
nearest worked examples, one sentence. What is picture and what is talk, `phrasing` decides; this
module knows tokens and caches.
"""

from __future__ import annotations

import copy
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from banatie.devices.runtime import Runtime, free_memory, is_out_of_memory
from banatie.enhancement import prompt as phrasing
from banatie.enhancement import sampling
from banatie.enhancement.chat_prompt import conversation, nearest
from banatie.enhancement.prompt import Subject
from banatie.enhancement.templates import Template, load_few_shot_examples, load_templates
from banatie.enhancement.vocabulary import Vocabulary
from banatie.errors import BanatieError, ModelBroken, OutOfMemory
from banatie.models.types import LanguageModel

ROWS_A_STEM = 2
FINE_TUNED_PHRASES = 2
"""Behind the model's own phrases the template speaks."""
FINE_TUNED_ROWS = 12
"""More rows cost a CPU next to nothing, more tokens do."""
FINE_TUNED_TOKENS = 18
FINE_TUNED_CLAUSES = 12
"""With so many to choose from, the writing ends."""
GUIDED_TOKENS = 36
STEM_TOKENS = 10
FREE_TOKENS = 110
THINKING_TOKENS = 600
"""Granted on top to a model that opens with `<think>`."""
SEEN_TOKENS = 96
"""How much of a long prompt the guided mode reads: its end, which is what is continued."""
GUIDED_TEMPERATURE = 0.6
FREE_TEMPERATURE = 0.7
FINE_TUNED_TEMPERATURE = 0.5
KEPT_PREFIX_BYTES = 64 * 2**20
NONSENSE = "The language model wrote nothing usable"

Count = Callable[[str], int]
"""How many tokens a text is to the painter."""


class Stopped(BanatieError):
    """The caller asked to stop while the model was writing."""


class _Unusable(Exception):
    """Why the original prompt is used, in a sentence for the user."""


@dataclass(frozen=True)
class Enhancement:
    """What became of a prompt."""

    text: str
    """The enhanced prompt, or the original one when `warning` is set."""
    template: str
    model: str
    mode: str
    seconds: float
    warning: str | None
    """Why the original prompt is used, in a sentence for the user."""
    from_model: tuple[str, ...] = ()
    from_slots: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Written:
    text: str
    from_model: tuple[str, ...] = ()
    from_slots: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Watch:
    """The end of the caller's patience."""

    started: float
    seconds: float
    stop: Callable[[], bool]

    def look(self) -> None:
        if self.stop():
            raise Stopped("The enhancement was stopped")
        if time.monotonic() > self.started + self.seconds:
            raise _Unusable(f"The language model needed more than {self.seconds:g} seconds")


@dataclass
class _Row:
    """One continuation as it grows."""

    slot: str | None
    forced: list[int]
    """Tokens that the row begins with, whatever the model thinks."""
    tokens: list[int] = field(default_factory=list)
    clause: str | None = None
    """What a stem became, once it is whole and fits."""
    seen: int = 0
    """How many clauses were looked at, good or not."""
    done: bool = False


@dataclass(frozen=True)
class _Prefix:
    ids: tuple[int, ...]
    cache: DynamicCache

    @property
    def bytes(self) -> int:
        tensors = (tensor for layer in self.cache.layers for tensor in (layer.keys, layer.values))
        return sum(tensor.nbytes for tensor in tensors)


class Enhancer:
    """A loaded language model with the templates: its `name`, and the `device` that it is on."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        description: LanguageModel,
        device: str,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._description = description
        self.device = device
        self.name = description.name
        self._templates = load_templates()
        self._few_shot_examples = load_few_shot_examples() if description.mode == "free" else {}
        self._vocabulary = Vocabulary.load()
        self._prefixes: OrderedDict[str, _Prefix] = OrderedDict()
        # A taught model says so in its configuration.
        self._drifts = getattr(model.config, "merged_adapter", None) is None
        self._ends = sampling.end_tokens(model, tokenizer)
        refused = self._vocabulary.talk | self._vocabulary.drift
        if not self._drifts:
            refused |= self._vocabulary.counted
        self._mask = sampling.token_mask(model, tokenizer, refused, self._ends)

    @classmethod
    def load(cls, model: LanguageModel, runtime: Runtime, place: str | None = None) -> Enhancer:
        """Load a model from its folder onto the runtime's device, or first to another place.

        Raises ModelBroken, naming the folder and the remedy, when its files are not usable.
        """
        remedy = f"run: banatie models pull {model.name}" if model.source else "put it there anew"
        if model.folder.is_dir() and not any(model.folder.glob("*.safetensors")):
            raise ModelBroken(
                f"{model.folder} holds no weights in the safetensors format, the only one that is "
                f"loaded; convert it, or remove the folder and {remedy}"
            )
        # Neither pickled weights nor code that comes with a model: both could do anything.
        safely = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(model.folder, **safely)
            network, report = AutoModelForCausalLM.from_pretrained(
                model.folder,
                **safely,
                use_safetensors=True,
                dtype=runtime.language_dtype,
                # On a CPU, plain attention needs two thirds of the fused one's time a token.
                attn_implementation="eager" if runtime.device == "cpu" else None,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelBroken(
                f"the language model in {model.folder} cannot be loaded ({reason}); "
                f"remove the folder and {remedy}"
            ) from error
        if report["missing_keys"]:
            raise ModelBroken(
                f"the language model in {model.folder} lacks weights "
                f"({min(report['missing_keys'])}); remove the folder and {remedy}"
            )
        place = place or runtime.device
        return cls(network.to(place).eval(), tokenizer, model, place)

    def move_to(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Bring the model there, between two prompts; nothing if it is there."""
        if device == self.device:
            return
        # A few milliseconds each to compute again, where the model is quick.
        self._prefixes.clear()
        self._model.to(device, dtype)
        before, self.device = self.device, device
        free_memory(before)

    def enhance(
        self,
        prompt: str,
        template: str,
        *,
        seed: int,
        count_tokens: Count,
        time_limit: float,
        stop: Callable[[], bool] = lambda: False,
    ) -> Enhancement:
        """Enrich a prompt in the manner of a template; the same seed gives the same text.

        `count_tokens` counts as the painter's encoders do, without their special tokens;
        `time_limit` is in seconds; `stop` is asked between tokens, and Stopped raised on its yes.
        Too little time, or nonsense from the model, gives the original prompt with a warning.
        Raises OutOfMemory, with the memory freed.
        """
        started = time.monotonic()
        watch = _Watch(started, time_limit, stop)
        style = self._templates[template]
        subject = phrasing.read(prompt, self._vocabulary)
        mode = self._description.mode

        warning, written = None, _Written(prompt)
        write = self._write_guided if mode == "guided" else self._write_free
        try:
            with torch.inference_mode():
                written = write(subject, style, seed, count_tokens, watch)
            text = phrasing.with_tags(written.text, subject)
        except _Unusable as reason:
            text = prompt
            warning = f"{reason}; the prompt is used as it was written"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            written = None
        if written is None:
            # Out here, where no frame of the error holds what was too much.
            free_memory(self.device)
            raise OutOfMemory(f"the memory of {self.device} did not suffice to write")
        return Enhancement(
            text=text,
            template=template,
            model=self.name,
            mode=mode,
            seconds=time.monotonic() - started,
            warning=warning,
            from_model=written.from_model,
            from_slots=written.from_slots,
        )

    # --- guided ---

    def _write_guided(
        self, subject: Subject, template: Template, seed: int, count_tokens: Count, watch: _Watch
    ) -> _Written:
        base = phrasing.opening(subject, template, self._vocabulary)
        write = self._finish if self._drifts else self._choose
        written, finished = write(subject, template, seed, watch)
        phrases, slots = phrasing.fill(template, subject, written, finished, self._vocabulary, seed)
        kept = phrasing.fit(base, phrases, count_tokens)
        return _Written(
            phrasing.join_phrases(base, kept),
            from_model=tuple(phrase for phrase in kept if phrase not in slots),
            from_slots=tuple(phrase for phrase in kept if phrase in slots),
        )

    def _finish(
        self, subject: Subject, template: Template, seed: int, watch: _Watch
    ) -> tuple[list[str], dict[str, str]]:
        """What a model that drifts makes of the slots' stems."""
        rows: list[_Row] = []
        for slot in template.slots:
            if slot.stem and phrasing.suits(slot.stem, subject):
                stem = self._encode(f" {slot.stem.text}")
                rows += [_Row(slot.name, list(stem)) for _ in range(ROWS_A_STEM)]
        if not rows:
            return [], {}
        prefix = self._prefix(phrasing.showing(template), watch)
        copied = {clause for e in template.examples for clause in self._split(e.adds)}
        seen = self._seen(subject, template)
        for row in self._grow(rows, copy.deepcopy(prefix.cache), seen, seed, watch):
            self._look_at(row, subject, copied)
        return [], {row.slot: row.clause for row in reversed(rows) if row.clause}

    def _choose(
        self, subject: Subject, template: Template, seed: int, watch: _Watch
    ) -> tuple[list[str], dict[str, str]]:
        """The best of what a taught model has to say in many rows."""
        prefix = self._prefix(phrasing.heading(template), watch)
        seen = self._seen(subject, template)
        rows = [_Row(None, []) for _ in range(FINE_TUNED_ROWS)]
        # A set that keeps its order.
        found: dict[str, None] = {}
        for row in self._grow(rows, copy.deepcopy(prefix.cache), seen, seed, watch):
            text = self._decode(row.tokens)
            row.done = row.tokens[-1] in self._ends or text.endswith("\n")
            if not row.done and not text.endswith(","):
                continue
            for clause in self._split(text)[row.seen :]:
                row.seen += 1
                if self._fits(clause, subject) and not phrasing.invents(clause, self._vocabulary):
                    found[clause] = None
            if len(found) >= FINE_TUNED_CLAUSES or len(row.tokens) >= FINE_TUNED_TOKENS:
                break
        watch.look()
        return self._best(list(found), prefix, subject, template) if found else [], {}

    def _best(
        self, clauses: list[str], prefix: _Prefix, subject: Subject, template: Template
    ) -> list[str]:
        """The clauses that are much likelier behind the subject than behind anything else."""
        nothing = phrasing.read("something", self._vocabulary)
        here, anywhere = (
            self._log_probs(prefix, self._seen(one, template), clauses)
            for one in (subject, nothing)
        )
        best: list[str] = []
        for clause in sampling.rank_by_pmi(clauses, here, anywhere):
            if self._fits(clause, subject, best):
                best.append(clause)
        return best[:FINE_TUNED_PHRASES]

    def _log_probs(
        self, prefix: _Prefix, seen: list[int], clauses: list[str]
    ) -> list[torch.Tensor]:
        """The log-likelihoods of each clause's tokens behind the seen ones, in nats."""
        cache = copy.deepcopy(prefix.cache)
        first = self._forward([seen], cache)
        rows = [self._encode(f" {clause}") for clause in clauses]
        longest = max(map(len, rows))
        cache.batch_repeat_interleave(len(rows))
        filled = [row + row[-1:] * (longest - len(row)) for row in rows]
        return sampling.log_probs(first, self._logits(filled, cache, longest), rows)

    def _seen(self, subject: Subject, template: Template) -> list[int]:
        """The tokens of the opening, which is continued."""
        base = phrasing.opening(subject, template, self._vocabulary)
        return self._encode(" ".join(base.split()) + ",")[-SEEN_TOKENS:]

    def _grow(
        self, rows: list[_Row], cache: DynamicCache, seen: list[int], seed: int, watch: _Watch
    ) -> Iterator[_Row]:
        """Let all rows grow, a token at a time, until each is done; yields those with new text."""
        generator = torch.Generator().manual_seed(seed % 2**63)
        temperature = GUIDED_TEMPERATURE if self._drifts else FINE_TUNED_TEMPERATURE
        logits = self._forward([seen], cache).expand(len(rows), -1)
        cache.batch_repeat_interleave(len(rows))
        for _ in range(GUIDED_TOKENS):
            watch.look()
            drawn = sampling.sample(logits, temperature, generator, self._mask)
            for row, token in zip(rows, drawn, strict=True):
                row.tokens.append(row.forced.pop(0) if row.forced else token)
                if not row.done and not row.forced:
                    yield row
            if all(row.done for row in rows):
                break
            logits = self._forward([[row.tokens[-1]] for row in rows], cache)

    def _look_at(self, row: _Row, subject: Subject, copied: set[str]) -> None:
        """Take in the clause that a row's last token may have ended."""
        text = self._decode(row.tokens)
        # A full stop behind a digit may be that of an aperture: f/1.8.
        over = row.tokens[-1] in self._ends or bool(re.search(r"\n$|[^\d]\.$", text))
        over = over or len(row.tokens) >= STEM_TOKENS
        if not over and not text.endswith(","):
            return
        clauses = self._split(text)
        if not over and len(clauses) == 1 and "palette" in self._vocabulary.classes_of(text):
            # The list of colours may go on.
            return
        row.done = True
        if clauses and self._fits(clauses[0], subject) and clauses[0] not in copied:
            row.clause = clauses[0]

    def _fits(self, clause: str, subject: Subject, taken: Sequence[str] = ()) -> bool:
        return phrasing.judge(clause, subject, taken, self._vocabulary).good

    def _split(self, text: str) -> list[str]:
        return phrasing.split_clauses(text, self._vocabulary)

    # --- free -----------------------------------------------------------------------------------

    def _write_free(
        self, subject: Subject, template: Template, seed: int, count_tokens: Count, watch: _Watch
    ) -> _Written:
        shown = nearest(subject, self._few_shot_examples[template.name], self._vocabulary)
        before, after = conversation(subject, template, shown, self._tokenizer)
        prefix = self._prefix(before, watch)
        answer = self._answer(prefix, self._encode_whole(before + after), seed, watch)
        sentence = phrasing.sentence_of(answer)
        base = phrasing.opening(subject, template, self._vocabulary)
        clauses = self._split(sentence)
        if clauses and phrasing.keeps(clauses[0], subject, self._vocabulary):
            base, *clauses = clauses
            words = self._vocabulary.content_words
            if not set(words(template.medium)) & set(words(base)):
                named = phrasing.read(base, self._vocabulary)
                base = phrasing.opening(named, template, self._vocabulary)
        kept: list[str] = []
        for clause in clauses:
            if phrasing.judge(clause, subject, kept, self._vocabulary, strict=False).good:
                kept.append(clause)
        if not kept:
            raise _Unusable(NONSENSE)
        kept = phrasing.fit(base, kept, count_tokens)
        return _Written(phrasing.join_phrases(base, kept), from_model=tuple(kept))

    def _answer(self, prefix: _Prefix, ids: list[int], seed: int, watch: _Watch) -> str:
        """What the model says: a line, or what follows a line of thinking."""
        generator = torch.Generator().manual_seed(seed % 2**63)
        # The last token before the user's words may have become one with what follows.
        pairs = zip(prefix.ids, ids, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        cache = copy.deepcopy(prefix.cache)
        if surplus := len(prefix.ids) - shared:
            cache.crop(-surplus)
        logits = self._forward([ids[shared:]], cache)
        tokens: list[int] = []
        text = ""
        while True:
            watch.look()
            [token] = sampling.sample(logits, FREE_TEMPERATURE, generator, None)
            if token in self._ends:
                return text
            tokens.append(token)
            text = self._decode(tokens)
            thinking = text.lstrip().startswith("<think>")
            said = text.rpartition("</think>")[2].strip() if thinking else text.strip()
            limit = FREE_TOKENS + (THINKING_TOKENS if thinking else 0)
            if text.endswith("\n") and said and not said.endswith(":"):
                return text
            if len(tokens) >= limit:
                # The clause that was cut off says nothing.
                return text.rpartition(",")[0]
            logits = self._forward([[token]], cache)

    # --- tokens ---------------------------------------------------------------------------------

    def _prefix(self, text: str, watch: _Watch) -> _Prefix:
        """The state of the model after `text`, computed once and kept."""
        if text in self._prefixes:
            self._prefixes.move_to_end(text)
            return self._prefixes[text]
        watch.look()
        ids = self._encode_whole(text)
        cache = DynamicCache(config=self._model.config)
        self._forward([ids], cache)
        self._prefixes[text] = _Prefix(tuple(ids), cache)
        while (
            sum(p.bytes for p in self._prefixes.values()) > KEPT_PREFIX_BYTES
            and len(self._prefixes) > 1
        ):
            self._prefixes.popitem(last=False)
        return self._prefixes[text]

    def _forward(self, ids: list[list[int]], cache: DynamicCache) -> torch.Tensor:
        """The logits after the last tokens, as float32 on the CPU: rows by vocabulary."""
        return self._logits(ids, cache, 1)[:, -1]

    def _logits(self, ids: list[list[int]], cache: DynamicCache, kept: int) -> torch.Tensor:
        """The logits after each of the last tokens: rows by `kept` by vocabulary."""
        batch = torch.tensor(ids, device=self.device)
        output = self._model(batch, past_key_values=cache, use_cache=True, logits_to_keep=kept)
        logits = output.logits.float().cpu()
        if not torch.isfinite(logits).all():
            raise _Unusable(NONSENSE)
        return logits

    def _encode_whole(self, text: str) -> list[int]:
        """The tokens of a text from its beginning, marked once where the model expects a mark."""
        ids = self._encode(text)
        start = self._tokenizer("").input_ids[:1]
        marked = start != [self._tokenizer.bos_token_id] or ids[:1] == start
        return ids if marked else start + ids

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False).input_ids

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)
