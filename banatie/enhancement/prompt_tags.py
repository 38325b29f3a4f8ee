"""What other programs' prompt syntax asks for: `<lora:…>` tags become LoRAs, the rest a warning.

The prompt itself stays as the user wrote it; which part of it is read as words is up to
`enhancement.prompt_syntax`. How a LoRA is applied is unknown here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from banatie.enhancement.prompt_syntax import Tag, find_tags, unsupported_syntax
from banatie.limits import MAX_LORA_WEIGHT, MAX_LORAS
from banatie.models.catalog import Catalog
from banatie.records import LoraUse, Submission

MAX_WARNINGS = 8
"""For more tags than that, one warning counts the others."""


def apply_tags(submission: Submission, catalog: Catalog) -> tuple[Submission, tuple[str, ...]]:
    """The submission with the LoRAs that its prompt's tags name, and a warning for what is left.

    A tag that cannot be applied is left out, and never an error: other programs' prompts are
    pasted with tags of what is installed there.
    """
    left_out: list[str] = []
    if tags := find_tags(submission.prompt):
        loras = list(submission.loras)
        installed = catalog.loras()
        for tag in tags:
            use = _lora_of(tag, installed, loras)
            if isinstance(use, LoraUse):
                loras.append(use)
            else:
                left_out.append(f"The tag {tag.text} was left out: {use}.")
        submission = replace(submission, loras=tuple(loras))
    left_out += [
        f"The tag {tag.text} was left out: a negative prompt takes none."
        for tag in find_tags(submission.negative_prompt)
    ]
    warnings = list(dict.fromkeys(left_out))
    if (more := len(warnings) - MAX_WARNINGS) > 0:
        warnings = [*warnings[:MAX_WARNINGS], f"{more} more tags were left out."]
    prompts = (submission.prompt, submission.negative_prompt)
    weights = submission.prompt_syntax == "webui"
    if examples := [
        example for prompt in prompts for example in unsupported_syntax(prompt, weights=weights)
    ]:
        what = "Wildcards, alternatives" if weights else "Weights, wildcards"
        warnings.append(
            f"{what} and other syntax of other programs is not supported, and was read "
            f"as words: {' '.join(dict.fromkeys(examples))}"
        )
    return submission, tuple(warnings)


def _lora_of(tag: Tag, installed: Collection[str], used: list[LoraUse]) -> LoraUse | str:
    """The LoRA that a tag asks for, or why it is left out."""
    if tag.kind != "lora":
        return "only tags of LoRAs are supported"
    name, *numbers = tag.arguments
    found = _installed_name(name, installed)
    if found is None:
        return f"no LoRA called {name!r} is installed"
    if len(numbers) > 1:
        return "one weight is supported, not several"
    try:
        weight = float(numbers[0]) if numbers else 1.0
    except ValueError:
        return f"the weight {numbers[0]!r} is not a number"
    # The comparison is false for what is not a number, too.
    if not -MAX_LORA_WEIGHT <= weight <= MAX_LORA_WEIGHT:
        return f"the weight must be from {-MAX_LORA_WEIGHT} to {MAX_LORA_WEIGHT}"
    if any(use.name == found for use in used):
        return "this LoRA is applied already"
    if len(used) >= MAX_LORAS:
        return f"at most {MAX_LORAS} LoRAs can be used at once"
    return LoraUse(found, weight)


def _installed_name(name: str, installed: Collection[str]) -> str | None:
    """The LoRA of this name; else the only one whose name differs in case and signs alone."""
    if name in installed:
        return name
    alike = [each for each in installed if _plain(each) == _plain(name)]
    return alike[0] if len(alike) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[^\w]|_", "", name).lower()
