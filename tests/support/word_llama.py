"""A tiny Llama whose tokens are whole words, so that it learns a text within a second.

Real transformers classes with random weights, made on the spot, and what tests of the enhancement
do with them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from banatie.devices.runtime import Runtime
from banatie.enhancement.chat_prompt import build_chat, nearest_examples
from banatie.enhancement.enhancer import Enhancement, Enhancer
from banatie.enhancement.guided import few_shot_prefix
from banatie.enhancement.prompt import parse_prompt
from banatie.enhancement.templates import load_few_shot_examples, load_templates
from banatie.models.types import LanguageModel, Mode

RUNTIME = Runtime("cpu", torch.float32, torch.float32)
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|> {{ message.content }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT_WITHOUT_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHAT
)
SPECIAL = ["<|start|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<unk>"]
GUIDED_TEXT = " lit by warm light, and we sell stickers.\n"
FINE_TUNED_TEXT = " weathered stone walls, two red doors, wet tiled roof, soft shadows.\n"
NEUTRAL_TEXT = " soft shadows, pale colours.\n"
FREE_TEXT = " A detailed picture of a guest house, wet slate roof, lit by a lantern, you love it"
PROMPT = "a guest house"
"""Nothing that the lexicon knows."""


def build(folder: Path, chat: str = CHAT) -> Path:
    """Write the model and its tokenizer as a Hugging Face folder, which is returned."""
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [
        GUIDED_TEXT,
        FINE_TUNED_TEXT,
        NEUTRAL_TEXT,
        FREE_TEXT,
        PROMPT,
        "A detailed picture of something,",
        "A detailed picture of 1 cat 2 dogs",
    ]
    for template in load_templates().values():
        texts += [few_shot_prefix(template), template.instruction]
        texts += [f" {slot.stem.text}" for slot in template.slots if slot.stem]
    pieces = {piece: None for text in texts for piece, _ in pre_tokenizer.pre_tokenize_str(text)}
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *pieces])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizer, decoders.ByteLevel()
    words.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<|start|>",
        eos_token="<|end|>",
        unk_token="<unk>",
        chat_template=chat,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, mode: Mode = "guided") -> Enhancer:
    """The enhancer with the folder's model."""
    return Enhancer.load(LanguageModel("tiny", "Tiny", "MIT", mode, folder), RUNTIME)


def train(enhancer: Enhancer, answers: dict[str, str], exact: bool = True) -> None:
    """Train the enhancer's model until it gives each answer to its context.

    If not `exact`, half the steps suffice, and other texts change more.
    """
    model, encode = enhancer._model, enhancer._decoder.encode
    pairs = [(encode(context), encode(answer)) for context, answer in answers.items()]
    optimizer = torch.optim.Adam(
        model.parameters(), lr=1e-2, betas=(0.9, 0.999) if exact else (0.8, 0.95)
    )
    for _ in range(150):
        losses = []
        for before, after in pairs:
            ids = torch.tensor([before + after])
            labels = ids.clone()
            labels[:, : len(before)] = -100
            losses.append(model(ids, labels=labels).loss)
        optimizer.zero_grad()
        sum(losses).backward()
        if not exact:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if max(losses) < (0.01 if exact else 0.02):
            break
    assert max(losses) < 0.1
    model.eval()


def chat_for(enhancer: Enhancer, prompt: str, template: str = "general") -> str:
    """The chat that the free mode builds for a prompt."""
    subject = parse_prompt(prompt, enhancer._vocabulary)
    examples = nearest_examples(subject, load_few_shot_examples()[template], enhancer._vocabulary)
    chat = build_chat(
        subject,
        load_templates()[template],
        examples,
        enhancer._decoder.tokenizer,
        facts=enhancer._lexicon.facts(subject),
    )
    return "".join(chat)


def count_words(text: str) -> int:
    """What stands for the painting model's token count."""
    return len(text.split())


def enhance(enhancer: Enhancer, prompt: str, template: str = "general", **given) -> Enhancement:
    """Enhance with seed 1 and a minute's time, unless given otherwise."""
    settings = {"seed": 1, "count_tokens": count_words, "time_limit": 60.0} | given
    return enhancer.enhance(prompt, template, **settings)
