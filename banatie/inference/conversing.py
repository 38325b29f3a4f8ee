"""What a larger language model is asked, as the chat that its tokenizer's template makes.

Instruction, worked examples, the user's words. What becomes of the answer is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

import jinja2
from transformers import PreTrainedTokenizerBase

from banatie.inference.phrasing import Subject
from banatie.inference.templates import Template, Worked

MARK = "\u2042 what the user asks for \u2042"


def conversation(
    subject: Subject,
    template: Template,
    examples: Sequence[Worked],
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
