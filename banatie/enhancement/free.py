"""The free mode, for larger models: instruction, facts, few-shot examples, one sentence in reply.

The reply is cut to clauses that pass the rules; the user's words are restored where the model
dropped some. Knows no device and no time limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from banatie.enhancement.chat_prompt import build_chat, extract_sentence, nearest_examples
from banatie.enhancement.compose import Composition, TokenCounter, fit_to_chunks
from banatie.enhancement.decoding import NOTHING_USABLE, Check, Decoder, GenerationFailed
from banatie.enhancement.lexicon_mode import LexiconMode
from banatie.enhancement.prompt import Subject, join_phrases, opening, parse_prompt
from banatie.enhancement.rules import preserves_prompt, rejection, split_clauses
from banatie.enhancement.templates import FewShotExample, Template
from banatie.enhancement.vocabulary import Vocabulary

MAX_TOKENS = 110
THINKING_TOKENS = 600
"""In addition, for a model that opens its reply with `<think>`."""
TEMPERATURE = 0.7


class FreeMode:
    """Writes enhanced texts with a larger model; one prompt at a time."""

    def __init__(
        self,
        decoder: Decoder,
        vocabulary: Vocabulary,
        few_shot_examples: Mapping[str, Sequence[FewShotExample]],
        lexicon: LexiconMode,
    ) -> None:
        self._decoder = decoder
        self._lexicon = lexicon
        self._vocabulary = vocabulary
        self._few_shot_examples = few_shot_examples

    def write(
        self,
        subject: Subject,
        template: Template,
        seed: int,
        count_tokens: TokenCounter,
        check: Check,
    ) -> Composition:
        """Compose the enhanced text of a subject; `check` is called between tokens.

        Raises GenerationFailed when no clause of the reply is usable.
        """
        examples = nearest_examples(
            subject, self._few_shot_examples[template.name], self._vocabulary
        )
        before, after = build_chat(
            subject,
            template,
            examples,
            self._decoder.tokenizer,
            facts=self._lexicon.facts(subject),
        )
        sentence = extract_sentence(self._reply(before, after, seed, check))
        text = opening(subject, template, self._vocabulary)
        clauses = split_clauses(sentence, self._vocabulary)
        if clauses and preserves_prompt(clauses[0], subject, self._vocabulary):
            text, *clauses = clauses
            words = self._vocabulary.content_words
            if not set(words(template.medium)) & set(words(text)):
                text = opening(parse_prompt(text, self._vocabulary), template, self._vocabulary)
        kept: list[str] = []
        for clause in clauses:
            if rejection(clause, subject, kept, self._vocabulary, strict=False) is None:
                kept.append(clause)
        if not kept:
            raise GenerationFailed(NOTHING_USABLE)
        kept = fit_to_chunks(text, kept, count_tokens)
        return Composition(join_phrases(text, kept), from_model=tuple(kept), mode="free")

    def _reply(self, before: str, after: str, seed: int, check: Check) -> str:
        """The model's reply: one line, or its thinking and one line after it."""
        prefix = self._decoder.prefix(before, check)
        ids = self._decoder.encode_from_start(before + after)
        text = ""
        for tokens in self._decoder.generate(
            prefix, ids, seed=seed, temperature=TEMPERATURE, check=check
        ):
            text = self._decoder.decode(tokens)
            thinking = text.lstrip().startswith("<think>")
            reply = text.rpartition("</think>")[2].strip() if thinking else text.strip()
            limit = MAX_TOKENS + (THINKING_TOKENS if thinking else 0)
            if text.endswith("\n") and reply and not reply.endswith(":"):
                break
            if len(tokens) >= limit:
                # The last clause was cut off.
                return text.rpartition(",")[0]
        return text
