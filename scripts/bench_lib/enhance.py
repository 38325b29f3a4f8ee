"""The bench of prompt enhancement: every template with forty prompts, judged by checks of its own.

The checks here share no code and no word lists with the enhancement, so that a fault in one shows
in the other. Texts are written to a file: numbers alone don't say whether a text is good.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from banatie.inference.catalog import Catalog
from banatie.inference.enhancer import Enhancement, Enhancer
from banatie.inference.runtime import choose_runtime
from banatie.records import TEMPLATE_NAMES

PROMPTS = Path(__file__).with_name("enhance_prompts.toml")
CLEAN_BAR, SECONDS_BAR, PHRASES_BAR, PHRASES_BAR_DETAILED = 0.95, 2.5, 3, 1

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an the and or of in on at by to with from for over under into while that her his their
        them me my can you please create draw design image picture i want is says behind after""",
    )
)
TALK = re.compile(
    r"\b(?:i|i'm|i'll|me|my|we|us|our|you|you'll|your|he|she|they|it's|it|is|are|was|were|will|can|"
    r"sorry|sure|here's|certainly|please|sticker sale|sell|selling|sold|buy|edited|photoshop|"
    r"viewer|prompt|imagine|story|once upon|perfect for|reminds?|testament|feels?|seems?)\b",
    re.IGNORECASE,
)
CONTRADICTIONS = (
    (
        r"\b(night|noche|ночь|midnight)\b|夜",
        r"\b(sunlight|sunny|golden hour|daylight|noon|morning|afternoon|overcast|blue sky)\b",
    ),
    (
        r"\b(black and white|monochrome)\b",
        r"\b(red|blue|green|yellow|pink|orange|gold|colourful|saturated|vivid|palette of)\b",
    ),
    (
        r"\b(kitchen|library|laboratory)\b",
        r"\b(blue sky|clouds|horizon|mountains?|overcast|golden hour)\b",
    ),
    (r"\bunderwater\b", r"\b(sunset|clouds|blue sky|golden hour|window light)\b"),
    (r"\b(watercolor|pixel art|logo)\b", r"\b(lens|f/\d|depth of field|85mm|film grain)\b"),
    (r"\b(storm|rain)\b", r"\b(sunny|clear sky|blue sky|golden hour|sunshine)\b"),
)
LIVING = re.compile(
    r"\b(man|men|woman|women|girl|boy|child|children|people|person|lady|baby|cat|dog|bird|horse|"
    r"lion|cow|wolf|dragon)s?\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Prompt:
    """A prompt of the bench, with the parts that must survive byte for byte."""

    text: str
    kind: str
    keeps: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench, print its table, write the texts; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="bench enhance", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct", help="catalog name or folder")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--templates", default=",".join(TEMPLATE_NAMES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for all texts")
    arguments = parser.parse_args(argv)

    model = Catalog(arguments.models_dir).language_model(arguments.model)
    before = time.monotonic()
    enhancer = Enhancer.load(model, choose_runtime("cpu", arguments.threads))
    print(f"{model.name}, {model.way}, loaded in {time.monotonic() - before:.1f} s")
    prompts = load_prompts()
    results: dict[str, list[tuple[Prompt, Enhancement]]] = {}
    for template in arguments.templates.split(","):
        # The template's prefix is computed with the first prompt and kept, as in the worker.
        run(enhancer, template, prompts[:1], arguments.seed)
        results[template] = run(enhancer, template, prompts, arguments.seed)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if arguments.out:
        arguments.out.write_text(listing(results), "utf-8")
    print(f"load average {os.getloadavg()[0]:.1f}, {arguments.threads} thread")
    return 0 if report(results) else 1


def load_prompts() -> list[Prompt]:
    """The forty prompts."""
    entries = tomllib.loads(PROMPTS.read_text("utf-8"))["prompts"]
    return [Prompt(e["text"], e["kind"], tuple(e.get("keeps", ()))) for e in entries]


def run(
    enhancer: Enhancer, template: str, prompts: Sequence[Prompt], seed: int
) -> list[tuple[Prompt, Enhancement]]:
    """Every prompt with its enhancement."""
    return [
        (p, enhancer.enhance(p.text, template, seed=seed, count_tokens=count_tokens, time_limit=30))
        for p in prompts
    ]


def count_tokens(text: str) -> int:
    """About what CLIP's tokenizer counts: words in pieces of at most eight letters, and signs."""
    pieces = re.findall(r"[A-Za-z']+|\d|[^\sA-Za-z\d]", text)
    return sum(max(1, -(-len(piece) // 8)) for piece in pieces)


def faults(prompt: Prompt, result: Enhancement) -> list[str]:
    """Everything that is wrong with an enhanced text."""
    text, found = result.text, []
    if result.warning:
        return ["warning"]
    found += [f"lost {part!r}" for part in prompt.keeps if part not in text]
    lower = text.lower()
    found += [f"lost word {word!r}" for word in content_words(prompt.text) if word not in lower]
    phrases = added_phrases(prompt, result)
    added = ", ".join(phrases)
    bar = PHRASES_BAR_DETAILED if prompt.kind == "detailed" else PHRASES_BAR
    if len(phrases) < bar:
        found.append(f"only {len(phrases)} phrases")
    if talk := TALK.search(added):
        found.append(f"talk: {talk[0]}")
    if re.search(r"[\"“”:;*<>{}\[\]\n?!]|\.\.|\s,|,,", added) or re.search(r",\s*$|\s{2}", text):
        found.append("signs")
    if text[:1] in "\"'" and text[-1:] == text[:1]:
        found.append("quoted whole")
    for asked, against in CONTRADICTIONS:
        if re.search(asked, prompt.text, re.IGNORECASE) and (
            clash := re.search(against, added, re.IGNORECASE)
        ):
            found.append(f"contradiction: {clash[0]}")
    for being in LIVING.findall(added):
        if (
            being.lower() not in lower.replace(added.lower(), "")
            and being.lower()[:4] not in prompt.text.lower()
        ):
            found.append(f"somebody new: {being}")
    seen: set[str] = set()
    for phrase in phrases:
        words = [w for w in re.findall(r"[a-z]+", phrase.lower()) if w not in STOP_WORDS]
        if not words or len(phrase.split()) > 12:
            found.append(f"no phrase: {phrase!r}")
        if len(words) != len(set(words)):
            found.append(f"stutter: {phrase!r}")
        if words and len(seen & set(words)) * 2 > len(words):
            found.append(f"repeats: {phrase!r}")
        seen |= set(words)
    chunks = -(-(count_tokens(prompt.text) + 30) // 75)
    if count_tokens(text) > 75 * max(1, chunks):
        found.append(f"{count_tokens(text)} tokens")
    return found


def content_words(text: str) -> list[str]:
    """The words of a prompt that mean something, tags and requests aside."""
    text = re.sub(r"<[^>]*>", " ", text).lower()
    return [w for w in re.findall(r"[^\W_]+", text) if w not in STOP_WORDS]


def added_phrases(prompt: Prompt, result: Enhancement) -> list[str]:
    """The phrases behind the user's words, as they stand in the text."""
    return [p for p in (*result.from_model, *result.from_slots) if p.lower() in result.text.lower()]


def likeness(one: str, other: str) -> float:
    """The share of words that two texts have in common (Jaccard)."""
    a, b = set(re.findall(r"\w+", one.lower())), set(re.findall(r"\w+", other.lower()))
    return len(a & b) / len(a | b) if a | b else 1.0


def report(results: dict[str, list[tuple[Prompt, Enhancement]]]) -> bool:
    """Print the table; whether every bar is reached."""
    print(
        f"{'template':14} {'clean':>6} {'words':>6} {'phrases':>7} {'model':>6} {'slots':>6} "
        f"{'prompts':>8} {'templates':>9} {'median s':>8}"
    )
    passed = True
    everything = []
    for template, pairs in results.items():
        clean = statistics.mean(not faults(p, r) for p, r in pairs)
        kept = statistics.mean(
            all(w in r.text.lower() for w in content_words(p.text)) for p, r in pairs
        )
        added = [", ".join(added_phrases(p, r)) for p, r in pairs]
        between_prompts = 1 - statistics.mean(likeness(a, b) for a, b in combinations(added, 2))
        others = [t for t in results if t != template]
        between_templates = 1 - statistics.mean(
            [
                likeness(a[1].text, b[1].text)
                for t in others
                for a, b in zip(pairs, results[t], strict=True)
            ]
            or [0.0]
        )
        seconds = statistics.median(r.seconds for _, r in pairs)
        from_model = statistics.mean(len(r.from_model) for _, r in pairs)
        from_slots = statistics.mean(len(r.from_slots) for _, r in pairs)
        passed &= clean >= CLEAN_BAR and kept == 1 and seconds < SECONDS_BAR
        everything += [r.seconds for _, r in pairs]
        print(
            f"{template:14} {clean:6.1%} {kept:6.1%} "
            f"{from_model + from_slots:7.1f} {from_model:6.1f} {from_slots:6.1f} "
            f"{between_prompts:8.2f} {between_templates:9.2f} {seconds:8.2f}"
        )
    for template, pairs in results.items():
        for prompt, result in pairs:
            for fault in faults(prompt, result):
                print(f"  {template}: {prompt.text[:40]!r}: {fault}")
    distribution = statistics.quantiles(everything, n=20)
    print(f"median {statistics.median(everything):.2f} s, 95th percentile {distribution[-1]:.2f} s")
    return passed


def listing(results: dict[str, list[tuple[Prompt, Enhancement]]]) -> str:
    """All texts, to be read; what the model wrote stands behind each."""
    by_prompt: dict[str, list[str]] = defaultdict(list)
    for template, pairs in results.items():
        for prompt, result in pairs:
            wrote = " | ".join(result.from_model) or "nothing"
            by_prompt[prompt.text].append(
                f"{template}: {result.text}\n    the model wrote: {wrote} ({result.seconds:.1f} s)"
            )
    return (
        "\n\n".join(f"# {prompt}\n" + "\n".join(lines) for prompt, lines in by_prompt.items())
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
