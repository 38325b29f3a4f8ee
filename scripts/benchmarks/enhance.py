"""Prompt enhancement: three sets of prompts, and independent checks of the enhanced texts.

`rules`: every template with the forty prompts for which the rules were developed. `held-out`: the
prompts of the few-shot examples that are left out of training. `new`: forty written after the
rules. The last two, together `unseen`, each belong to one template; both were read before the last
phrases were added.

The checks share no code and no word lists with the enhancement, so that a fault in one shows in the
other. The texts are written to a file, because numbers alone don't say whether a text is good.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from banatie.devices.runtime import choose_runtime
from banatie.enhancement.enhancer import Enhancement, Enhancer
from banatie.models.catalog import Catalog
from banatie.records import TEMPLATE_NAMES

PROMPTS = Path(__file__).with_name("enhance_prompts.toml")
NEW_PROMPTS = Path(__file__).with_name("enhance_new.toml")
EXAMPLES = Path(__file__).parents[2] / "banatie" / "enhancement" / "examples"
CLEAN_BAR, SECONDS_BAR, PHRASES_BAR, PHRASES_BAR_DETAILED = 0.98, 2.0, 3, 1
SHARE_BAR = 0.15
"""The largest share of one template's texts that may contain the same phrase."""
DETAILED_WORDS, DETAILED_COMMAS = 18, 3

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an the and or of in on at by to with from for over under into while that her his their
        them me my can you please create draw design image picture i want is says behind after""",
    )
)
COMMENTARY = re.compile(
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
    """A prompt with the parts that must be preserved byte for byte."""

    text: str
    kind: str
    keeps: tuple[str, ...] = ()


Results = dict[str, list[tuple[Prompt, Enhancement]]]
"""By template."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table, write the texts; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="bench enhance", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct", help="catalog name or folder")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--set", choices=("rules", "held-out", "new", "unseen"), default="rules")
    parser.add_argument("--templates", default=",".join(TEMPLATE_NAMES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for all texts")
    parser.add_argument("--table", type=Path, help="a file for a hundred texts as a table")
    arguments = parser.parse_args(argv)

    model = Catalog(arguments.models_dir).language_model(arguments.model)
    before = time.monotonic()
    enhancer = Enhancer.load(model, choose_runtime("cpu", arguments.threads))
    print(f"{model.name}, {model.mode}, loaded in {time.monotonic() - before:.1f} s")
    results: Results = {}
    computed = time.process_time()
    for template in arguments.templates.split(","):
        prompts = prompts_of(arguments.set, template)
        # The first prompt fills the prefix cache, as in the worker.
        run(enhancer, template, prompts[:1], arguments.seed)
        results[template] = run(enhancer, template, prompts, arguments.seed)
        print(".", end="", file=sys.stderr, flush=True)
    computed = time.process_time() - computed
    print(file=sys.stderr)
    if arguments.out:
        arguments.out.write_text(listing(results), "utf-8")
    if arguments.table:
        arguments.table.write_text(table(results), "utf-8")
    number = sum(len(pairs) + 1 for pairs in results.values())
    print(
        f"load average {os.getloadavg()[0]:.1f}, {arguments.threads} thread, "
        f"{computed / number:.2f} s of processor time per prompt"
    )
    return 0 if report(results) else 1


def prompts_of(chosen: str, template: str) -> list[Prompt]:
    """The prompts of a set for a template; `unseen` are the held-out and the new ones."""
    if chosen == "rules":
        return load_prompts()
    examples = tomllib.loads((EXAMPLES / f"{template}.toml").read_text("utf-8"))["example"]
    held_out = [e["prompt"] for e in examples if e["held_out"]]
    found = [] if chosen == "new" else [Prompt(text, kind_of(text)) for text in held_out]
    if chosen != "held-out":
        for entry in tomllib.loads(NEW_PROMPTS.read_text("utf-8"))["prompts"]:
            if entry["template"] == template:
                keeps = tuple(entry.get("keeps", ()))
                found.append(Prompt(entry["text"], kind_of(entry["text"]), keeps))
    return found


def kind_of(text: str) -> str:
    """Whether a prompt is so detailed that little needs to be added."""
    long = len(text.split()) > DETAILED_WORDS or text.count(",") >= DETAILED_COMMAS
    return "detailed" if long else "short"


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
    """An estimate of CLIP's token count: pieces of at most eight letters, digits, punctuation."""
    pieces = re.findall(r"[A-Za-z']+|\d|[^\sA-Za-z\d]", text)
    return sum(max(1, -(-len(piece) // 8)) for piece in pieces)


def faults(prompt: Prompt, result: Enhancement) -> list[str]:
    """All faults of an enhanced text."""
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
    if commentary := COMMENTARY.search(added):
        found.append(f"commentary: {commentary[0]}")
    if re.search(r"[\"“”:;*<>{}\[\]\n?!]|\.\.|\s,|,,", added) or re.search(r",\s*$|\s{2}", text):
        found.append("punctuation")
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
            found.append(f"new person or animal: {being}")
    seen: set[str] = set()
    for phrase in phrases:
        words = [w for w in re.findall(r"[a-z]+", phrase.lower()) if w not in STOP_WORDS]
        if not words or len(phrase.split()) > 12:
            found.append(f"no phrase: {phrase!r}")
        if len(words) != len(set(words)):
            found.append(f"repeated word: {phrase!r}")
        if words and len(seen & set(words)) * 2 > len(words):
            found.append(f"repeats: {phrase!r}")
        seen |= set(words)
    chunks = -(-(count_tokens(prompt.text) + 30) // 75)
    if count_tokens(text) > 75 * max(1, chunks):
        found.append(f"{count_tokens(text)} tokens")
    return found


def content_words(text: str) -> list[str]:
    """The content words of a prompt, without tags."""
    text = re.sub(r"<[^>]*>", " ", text).lower()
    return [w for w in re.findall(r"[^\W_]+", text) if w not in STOP_WORDS]


def added_phrases(prompt: Prompt, result: Enhancement) -> list[str]:
    """The phrases that were added to the user's words."""
    phrases = (*result.from_lexicon, *result.from_model, *result.from_slots)
    return [phrase for phrase in phrases if phrase.lower() in result.text.lower()]


def without_slots(result: Enhancement) -> Enhancement:
    """The enhancement without the phrases of the template's slots."""
    text = result.text
    for phrase in result.from_slots:
        capital = f"{phrase[0].upper()}{phrase[1:]}"
        text = text.replace(f", {phrase}", "").replace(f" {capital}", "")
    return replace(result, text=text, from_slots=())


def most_common_phrase(pairs: list[tuple[Prompt, Enhancement]]) -> tuple[str, float]:
    """The phrase in most of a template's texts, and the share of texts that contain it."""
    counted = Counter(
        phrase.lower() for pair in pairs for phrase in set(added_phrases(*pair))
    ).most_common(1)
    return (counted[0][0], counted[0][1] / len(pairs)) if counted else ("", 0.0)


def jaccard(one: str, other: str) -> float:
    """The Jaccard similarity of two texts' words."""
    a, b = set(re.findall(r"\w+", one.lower())), set(re.findall(r"\w+", other.lower()))
    return len(a & b) / len(a | b) if a | b else 1.0


def report(results: Results) -> bool:
    """Print the table; returns whether every bar is met."""
    print(
        "template       texts  clean  words    own own ok phrases lexicon model slots by lexicon "
        "openings commonest "
        "prompts templates median s"
    )
    passed = True
    everything = []
    for template, pairs in results.items():
        clean = statistics.mean(not faults(p, r) for p, r in pairs)
        kept = statistics.mean(
            all(w in r.text.lower() for w in content_words(p.text)) for p, r in pairs
        )
        own = [faults(p, without_slots(r)) for p, r in pairs]
        own_clean = statistics.mean(not found for found in own)
        own_right = statistics.mean(all(f.startswith("only") for f in found) for found in own)
        firsts = [next(iter(added_phrases(p, r)), "").lower() for p, r in pairs]
        _, share = most_common_phrase(pairs)
        added = [", ".join(added_phrases(p, r)) for p, r in pairs]
        between_prompts = 1 - statistics.mean(jaccard(a, b) for a, b in combinations(added, 2))
        others = [t for t in results if t != template]
        between_templates = 1 - statistics.mean(
            [
                jaccard(a[1].text, b[1].text)
                for t in others
                for a, b in zip(pairs, results[t], strict=False)
                if a[0] == b[0]
            ]
            or [0.0]
        )
        seconds = statistics.median(r.seconds for _, r in pairs)
        from_model = statistics.mean(len(r.from_model) for _, r in pairs)
        from_slots = statistics.mean(len(r.from_slots) for _, r in pairs)
        from_lexicon = statistics.mean(len(r.from_lexicon) for _, r in pairs)
        lexicon = statistics.mean(r.mode == "lexicon" for _, r in pairs)
        passed &= clean >= CLEAN_BAR and kept == 1 and seconds < SECONDS_BAR
        passed &= own_clean >= CLEAN_BAR and share <= SHARE_BAR
        everything += [r.seconds for _, r in pairs]
        print(
            f"{template:14} {len(pairs):5} {clean:6.1%} {kept:6.1%} {own_clean:6.1%} "
            f"{own_right:6.1%} {from_lexicon + from_model + from_slots:7.1f} "
            f"{from_lexicon:7.1f} {from_model:5.1f} "
            f"{from_slots:5.1f} {lexicon:7.0%} "
            f"{len(set(firsts)) / len(firsts):8.1%} {share:9.1%} "
            f"{between_prompts:7.2f} {between_templates:9.2f} {seconds:8.2f}"
        )
    for template, pairs in results.items():
        phrase, share = most_common_phrase(pairs)
        print(f"  {template}: {phrase!r} in {share:.1%}")
        for prompt, result in pairs:
            for fault in faults(prompt, result):
                print(f"  {template}: {prompt.text[:40]!r}: {fault}")
    distribution = statistics.quantiles(everything, n=20)
    print(f"median {statistics.median(everything):.2f} s, 95th percentile {distribution[-1]:.2f} s")
    return passed


def table(results: Results, number: int = 100) -> str:
    """A Markdown table of a hundred texts, evenly over the templates.

    The model's phrases are in italics.
    """
    rows = ["| template | prompt | becomes |", "|---|---|---|"]
    longest = max(len(pairs) for pairs in results.values())
    for place in reversed(range(longest)):
        for template, pairs in results.items():
            if place < len(pairs) and len(rows) < number + 2:
                prompt, result = pairs[place]
                text = result.text
                for phrase in result.from_model:
                    text = text.replace(phrase, f"*{phrase}*")
                cells = (template, prompt.text, text)
                rows.append(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |")
    return "\n".join(rows) + "\n"


def listing(results: Results) -> str:
    """All texts by prompt, each with the model's phrases."""
    by_prompt: dict[str, list[str]] = defaultdict(list)
    for template, pairs in results.items():
        for prompt, result in pairs:
            wrote = " | ".join(result.from_model) or "nothing"
            by_prompt[prompt.text].append(
                f"{template}: {result.text}\n    {result.mode}; the model wrote: {wrote} "
                f"({result.seconds:.1f} s)"
            )
    return (
        "\n\n".join(f"# {prompt}\n" + "\n".join(lines) for prompt, lines in by_prompt.items())
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
