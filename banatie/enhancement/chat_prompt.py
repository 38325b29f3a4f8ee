"""What a larger language model is asked, as the chat that its tokenizer's template makes.

Instruction, worked examples, the user's words. What becomes of the answer is not known here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import jinja2
from transformers import PreTrainedTokenizerBase

from banatie.enhancement.prompt import Subject, read
from banatie.enhancement.templates import FewShotExample, Template
from banatie.enhancement.vocabulary import Vocabulary

EXAMPLES_SHOWN = 3
KINDS = frozenset(
    (
        "person",
        "animal",
        "plant",
        "food",
        "building",
        "interior",
        "vehicle",
        "boat",
        "landscape",
        "graphic",
        "space",
    )
)
"""The classes by which a prompt's kind is told."""
MARK = "\u2042 what the user asks for \u2042"


def nearest(
    subject: Subject, examples: Iterable[FewShotExample], vocabulary: Vocabulary
) -> list[FewShotExample]:
    """The examples whose prompts share most with the subject, the nearest of them last.

    Where nothing is shared, the user's words decide, so that not all see the same ones.
    """
    rng = random.Random(subject.text)

    def kinship(example: FewShotExample) -> tuple[float, float]:
        other = read(example.prompt, vocabulary)
        kinds = 3 * len(other.classes & subject.classes & KINDS)
        shared = 2 * len(other.words & subject.words) + len(other.classes & subject.classes)
        # What only one of the two is of speaks against it.
        return kinds + shared - len(other.classes ^ subject.classes) / 4, rng.random()

    return sorted(examples, key=kinship)[-EXAMPLES_SHOWN:]


def conversation(
    subject: Subject,
    template: Template,
    examples: Sequence[FewShotExample],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[str, str]:
    """The chat up to the user's words, and from there on."""
    turns = []
    for example in examples:
        turns.append({"role": "user", "content": example.prompt})
        turns.append({"role": "assistant", "content": f"{example.answer}."})
    turns.append({"role": "user", "content": MARK})
    instruction = {"role": "system", "content": template.instruction}
    try:
        chat = _render([instruction, *turns], tokenizer)
    except jinja2.TemplateError:
        # Some models' templates refuse a system turn (Gemma's, for one).
        turns[0] = {
            "role": "user",
            "content": f"{template.instruction}\n\n{turns[0]['content']}",
        }
        chat = _render(turns, tokenizer)
    before, after = chat.split(MARK)
    return before, " ".join(subject.text.split()) + after


def _render(turns: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template is None:
        return "\n".join(turn["content"] for turn in turns) + "\n"
    return tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
