"""The chat with a larger language model: the request, and the sentence in its reply.

The chat consists of the template's instruction, few-shot examples and the user's words, in the form
of the tokenizer's chat template. Knows no model, and does not judge the sentence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence

import jinja2
from transformers import PreTrainedTokenizerBase

from banatie.enhancement.prompt import Subject, parse_prompt
from banatie.enhancement.templates import FewShotExample, Template
from banatie.enhancement.vocabulary import Vocabulary

EXAMPLES_SHOWN = 3
TOPIC_CLASSES = frozenset(
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
"""The classes that decide what kind of subject a prompt has."""
PLACEHOLDER = "\u2042 what the user asks for \u2042"


def nearest_examples(
    subject: Subject, examples: Iterable[FewShotExample], vocabulary: Vocabulary
) -> list[FewShotExample]:
    """The few-shot examples whose prompts are most similar to the subject, the nearest last.

    Ties are broken at random, seeded by the user's words.
    """
    rng = random.Random(subject.text)

    def similarity(example: FewShotExample) -> tuple[float, float]:
        other = parse_prompt(example.prompt, vocabulary)
        topics = 3 * len(other.classes & subject.classes & TOPIC_CLASSES)
        shared = 2 * len(other.words & subject.words) + len(other.classes & subject.classes)
        # Classes of only one of the two count against the example.
        return topics + shared - len(other.classes ^ subject.classes) / 4, rng.random()

    return sorted(examples, key=similarity)[-EXAMPLES_SHOWN:]


def build_chat(
    subject: Subject,
    template: Template,
    examples: Sequence[FewShotExample],
    tokenizer: PreTrainedTokenizerBase,
    *,
    facts: str = "",
) -> tuple[str, str]:
    """The chat up to the user's words, and the rest from there on.

    `facts` are what is known of the subject; they stand right before the user's words.
    """
    messages = []
    for example in examples:
        messages.append({"role": "user", "content": example.prompt})
        messages.append({"role": "assistant", "content": f"{example.answer}."})
    known = f"{facts}\n\n" if facts else ""
    messages.append({"role": "user", "content": known + PLACEHOLDER})
    instruction = {"role": "system", "content": template.instruction}
    try:
        chat = _render([instruction, *messages], tokenizer)
    except jinja2.TemplateError:
        # Some models' chat templates refuse a system message (Gemma's, for one).
        messages[0] = {
            "role": "user",
            "content": f"{template.instruction}\n\n{messages[0]['content']}",
        }
        chat = _render(messages, tokenizer)
    before, after = chat.split(PLACEHOLDER)
    return before, " ".join(subject.text.split()) + after


def extract_sentence(reply: str) -> str:
    """The one descriptive sentence of a model's reply, without preamble, markup and quotes."""
    reply = re.sub(r"<think>.*?(?:</think>|$)", "", reply, flags=re.DOTALL).strip()
    paragraphs = [part.strip() for part in reply.splitlines() if part.strip()]
    if len(paragraphs) > 1 and paragraphs[0].endswith(":"):
        paragraphs.pop(0)
    line = paragraphs[0] if paragraphs else ""
    line = re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", line)
    preamble = (
        r"^(?:sure|certainly|of course|okay|ok|absolutely|here(?:'s| is| are))\b[^:!]{0,80}[:!]\s*"
    )
    line = re.sub(preamble, "", line, flags=re.IGNORECASE)
    line = re.sub(preamble, "", line, flags=re.IGNORECASE)
    line = re.sub(
        r"^\W*(?:enhanced |image |final )?(?:prompt|picture|description)\W*:\s*",
        "",
        line,
        flags=re.IGNORECASE,
    )
    line = line.strip("*_ ")
    if len(line) > 1 and line[0] in "\"“'" and line[-1] in "\"”'" and line.count('"') <= 2:
        line = line[1:-1]
    return line.strip().rstrip(".")


def _render(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template is None:
        return "\n".join(message["content"] for message in messages) + "\n"
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
