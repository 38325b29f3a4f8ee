"""The enhancer's machinery with real transformers classes: tiny Llamas, taught a sentence or none.

Its words are whole tokens here, so that a model of 100 kB can learn a text within a second.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from banatie.devices.runtime import Runtime
from banatie.enhancement import prompt as phrasing
from banatie.enhancement import sampling
from banatie.enhancement.chat_prompt import conversation, nearest
from banatie.enhancement.enhancer import Enhancement, Enhancer, Stopped
from banatie.enhancement.templates import load_few_shot_examples, load_templates
from banatie.errors import ModelBroken
from banatie.models.catalog import Catalog
from banatie.models.types import LanguageModel, Mode
from banatie.records import TEMPLATE_NAMES
from tests.support.tiny_models import edit_json

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
OTHER_TEXT = " soft shadows, pale colours.\n"
FREE_TEXT = " A detailed picture of a house, wet slate roof, lit by a lantern, you love it"
PROMPT = "a house"


def build(folder: Path, chat: str = CHAT) -> Path:
    """A Llama with random weights and a tokenizer of whole words, as a Hugging Face folder."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [
        GUIDED_TEXT,
        FINE_TUNED_TEXT,
        OTHER_TEXT,
        FREE_TEXT,
        PROMPT,
        "A detailed picture of something,",
        "A detailed picture of 1 cat 2 dogs",
    ]
    for template in load_templates().values():
        texts += [phrasing.showing(template), template.instruction]
        texts += [f" {slot.stem.text}" for slot in template.slots if slot.stem]
    pieces = {piece: None for text in texts for piece, _ in split.pre_tokenize_str(text)}
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *pieces])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = split, decoders.ByteLevel()
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
    return Enhancer.load(LanguageModel("tiny", "Tiny", "MIT", mode, folder), RUNTIME)


def teach(enhancer: Enhancer, lessons: dict[str, str]) -> None:
    """Let the enhancer's model learn each answer to its context."""
    model = enhancer._model
    pairs = [(enhancer._encode(c), enhancer._encode(a)) for c, a in lessons.items()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        losses = []
        for before, after in pairs:
            ids = torch.tensor([before + after])
            labels = ids.clone()
            labels[:, : len(before)] = -100
            losses.append(model(ids, labels=labels).loss)
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        if max(losses) < 0.01:
            break
    assert max(losses) < 0.1
    model.eval()


def asked(enhancer: Enhancer, prompt: str, template: str = "general") -> str:
    """The chat that the free mode makes of a prompt."""
    subject = phrasing.read(prompt, enhancer._vocabulary)
    shown = nearest(subject, load_few_shot_examples()[template], enhancer._vocabulary)
    chat = conversation(subject, load_templates()[template], shown, enhancer._tokenizer)
    return "".join(chat)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def untaught(folder: Path) -> Enhancer:
    return load(folder)


def words(text: str) -> int:
    return len(text.split())


def enhance(enhancer: Enhancer, prompt: str, template: str = "general", **given) -> Enhancement:
    settings = {"seed": 1, "count_tokens": words, "time_limit": 60.0} | given
    return enhancer.enhance(prompt, template, **settings)


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_even_a_model_that_knows_nothing_gives_a_clean_prompt(
    untaught: Enhancer, template: str
) -> None:
    result = enhance(untaught, "Marie Curie with 3 cats", template)
    assert result.warning is None
    assert result.template == template
    assert (result.model, result.mode) == ("tiny", "guided")
    assert "Marie Curie with 3 cats" in result.text
    assert result.text.count(", ") >= 3
    assert result.seconds > 0


def test_the_same_seed_gives_the_same_text_and_others_differ(
    untaught: Enhancer, folder: Path
) -> None:
    texts = [enhance(untaught, "a cat", seed=seed).text for seed in range(4)]
    assert [enhance(untaught, "a cat", seed=seed).text for seed in range(4)] == texts
    assert enhance(load(folder), "a cat", seed=3).text == texts[3]
    assert len(set(texts)) > 2


def test_a_kept_prefix_gives_the_logits_of_reading_everything(untaught: Enhancer) -> None:
    text = phrasing.showing(load_templates()["comic"])
    rest = untaught._encode("A comic book panel of a cat,")
    for _ in range(2):
        prefix = untaught._prefix(text, _NeverStops())
        with torch.inference_mode():
            kept = untaught._forward([rest], copy.deepcopy(prefix.cache))
            whole = untaught._model(torch.tensor([[*prefix.ids, *rest]])).logits[:, -1]
        torch.testing.assert_close(kept, whole, atol=1e-4, rtol=1e-4)
    assert prefix.cache.get_seq_length() == len(prefix.ids)


class _NeverStops:
    def look(self) -> None:
        """Go on."""


def test_the_kept_prefixes_stay_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enhancer = load(folder)
    enhance(enhancer, "a cat", "comic")
    [only] = enhancer._prefixes.values()
    monkeypatch.setattr("banatie.enhancement.enhancer.KEPT_PREFIX_BYTES", only.bytes * 2.5)
    for template in TEMPLATE_NAMES:
        enhance(enhancer, "a cat", template)
    assert 1 <= len(enhancer._prefixes) < 4


def test_led_lets_the_model_finish_a_stem_and_no_more(folder: Path) -> None:
    enhancer = load(folder)
    template = load_templates()["general"]
    teach(enhancer, {f"{phrasing.showing(template)}A detailed picture of a house,": GUIDED_TEXT})
    results = [enhance(enhancer, PROMPT, seed=seed) for seed in range(8)]
    heard = [result for result in results if "lit by warm light" in result.from_model]
    assert 0 < len(heard) < len(results), "one choice among the template's phrases"
    for result in results:
        assert result.text.startswith("A detailed picture of a house, ")
        assert "sell" not in result.text


def test_of_a_taught_model_the_clauses_stay_that_tell_of_the_subject(
    folder: Path, tmp_path: Path
) -> None:
    """What it would say of anything, it need not say; what it counts, nobody has counted."""
    taught = shutil.copytree(folder, tmp_path / "taught")
    edit_json(taught / "config.json", merged_adapter="9e0a")
    enhancer = load(taught)
    lessons = {PROMPT: FINE_TUNED_TEXT, "something": OTHER_TEXT}
    teach(
        enhancer,
        {f"General pictures:\nA detailed picture of {p},": text for p, text in lessons.items()},
    )
    result = enhance(enhancer, PROMPT)
    assert result.from_model == ("weathered stone walls",)
    assert "doors" not in result.text
    assert enhance(enhancer, "something").from_model == ()


def test_log_probs_are_those_of_reading_each_row_alone(untaught: Enhancer) -> None:
    rows = [untaught._encode(t) for t in (" wet slate roof", " lit by a lantern", " roof")]
    with torch.inference_mode():
        prefix = untaught._prefix("A detailed picture", _NeverStops())
        seen = untaught._encode(" of a house,")
        texts = [" wet slate roof", " lit by a lantern", " roof"]
        found = untaught._log_probs(prefix, seen, [text.strip() for text in texts])
        for row, likelihoods in zip(rows, found, strict=True):
            ids = torch.tensor([[*prefix.ids, *seen, *row]])
            chances = untaught._model(ids).logits[0].log_softmax(-1)
            expected = [float(chances[place - len(row) - 1, t]) for place, t in enumerate(row)]
            assert likelihoods.tolist() == pytest.approx(expected, abs=1e-3)


def test_the_most_telling_comes_first_and_the_rest_falls() -> None:
    def nats(*values: float) -> torch.Tensor:
        return torch.tensor(values)

    here = [nats(-1.0, -1.0), nats(-2.0), nats(-1.0)]
    anywhere = [nats(-3.5, -3.5), nats(-9.0), nats(-1.5)]
    assert sampling.rank_by_pmi(["walls", "roof", "colours"], here, anywhere) == ["roof", "walls"]


@pytest.mark.parametrize("chat", [CHAT, CHAT_WITHOUT_SYSTEM])
def test_free_takes_the_sentence_and_cuts_the_talk(tmp_path: Path, chat: str) -> None:
    enhancer = load(build(tmp_path, chat), "free")
    chat_text = asked(enhancer, PROMPT)
    assert enhancer._encode(chat_text).count(0) == 1, "one token begins the text"
    teach(enhancer, {chat_text: FREE_TEXT + "<|end|>"})
    result = enhance(enhancer, PROMPT)
    assert result.text == "A detailed picture of a house, wet slate roof, lit by a lantern"
    assert (result.mode, result.warning) == ("free", None)


def test_free_puts_the_medium_before_a_text_that_has_none(tmp_path: Path) -> None:
    enhancer = load(build(tmp_path), "free")
    answer = " a house, wet slate roof, lit by a lantern<|end|>"
    teach(enhancer, {asked(enhancer, PROMPT, "comic"): answer})
    text = enhance(enhancer, PROMPT, "comic").text
    assert text == "A comic book panel of a house, wet slate roof, lit by a lantern"


def test_free_puts_back_what_the_model_left_out(tmp_path: Path) -> None:
    enhancer = load(build(tmp_path), "free")
    teach(enhancer, {asked(enhancer, "1 cat"): FREE_TEXT + "<|end|>"})
    result = enhance(enhancer, "1 cat")
    assert result.text.startswith("A detailed picture of 1 cat, ")
    assert "wet slate roof" in result.text


def test_nonsense_in_the_free_way_gives_the_original_and_a_warning(tmp_path: Path) -> None:
    enhancer = load(build(tmp_path), "free")
    teach(enhancer, {asked(enhancer, PROMPT): " you love it<|end|>"})
    result = enhance(enhancer, PROMPT)
    assert result.text == PROMPT
    assert "nothing usable" in result.warning


def test_broken_weights_give_the_original_and_a_warning(folder: Path) -> None:
    enhancer = load(folder)
    torch.nn.init.constant_(enhancer._model.model.norm.weight, torch.nan)
    result = enhance(enhancer, "draw me a cat <lora:fur:1>")
    assert result.text == "draw me a cat <lora:fur:1>"
    assert "nothing usable" in result.warning


def test_without_time_the_original_is_used(untaught: Enhancer) -> None:
    result = enhance(untaught, "draw me a cat", time_limit=0.0)
    assert result.text == "draw me a cat"
    assert "more than 0 seconds" in result.warning


def test_the_time_is_looked_at_between_tokens(untaught: Enhancer) -> None:
    enhance(untaught, "a cat")
    asked = 0

    def slow() -> bool:
        nonlocal asked
        asked += 1
        time.sleep(0.02)
        return False

    result = enhance(untaught, "a cat", time_limit=0.05, stop=slow)
    assert result.warning
    assert 1 <= asked <= 5


@pytest.mark.parametrize("mode", ["guided", "free"])
def test_stop_is_asked_between_tokens(folder: Path, mode: Mode) -> None:
    enhancer = load(folder, mode)
    answers = iter([False, False, False, True])
    with pytest.raises(Stopped):
        enhance(enhancer, "a cat", stop=lambda: next(answers))
    assert next(answers, None) is None


def test_the_result_fits_the_encoders_chunk(untaught: Enhancer) -> None:
    own = " ".join(f"thing{n}" for n in range(56))
    text = enhance(untaught, own).text
    assert own in text
    assert words(own) < words(text) <= 75
    long = own + " " + own
    text = enhance(untaught, long).text
    assert long in text
    assert words(long) < words(text) <= 150


def test_a_very_long_prompt_is_read_at_its_end_only(untaught: Enhancer) -> None:
    own = " ".join(["leaf"] * 3000)
    assert enhance(untaught, own).text.count("leaf") >= 3000


@pytest.mark.parametrize(
    "prompt",
    [
        "un gato negro de noche",
        "夜の森で眠る狐",
        'a sign that says "OPEN 24/7"',
        "@mascot and @last in Tokyo",
        "a dog, soft light, 85mm lens, (sharp:1.3), blurred background",
        "Line one.\nLine two!",
        "?!",
        "🙂🙂",
    ],
)
def test_the_user_s_words_stay_byte_for_byte(untaught: Enhancer, prompt: str) -> None:
    result = enhance(untaught, prompt)
    assert prompt in result.text
    assert len(result.text) > len(prompt)


def test_tags_stand_behind_everything(untaught: Enhancer) -> None:
    assert enhance(untaught, "a cat <lora:fur:0.8>").text.endswith(" <lora:fur:0.8>")


def test_a_folder_without_weights_is_named_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelBroken, match=rf"(?s){broken}.*put it there anew"):
        load(broken)


def test_weights_in_a_format_that_can_run_code_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    file = broken / "model.safetensors"
    torch.save(load_file(file), broken / "pytorch_model.bin")
    file.unlink()
    with pytest.raises(ModelBroken, match=rf"{broken} holds no weights in the safetensors format"):
        load(broken)


def test_beside_a_pickle_only_the_safetensors_are_read(folder: Path, tmp_path: Path) -> None:
    both = shutil.copytree(folder, tmp_path / "both")
    (both / "pytorch_model.bin").write_bytes(b"whoever opens this fails")
    assert isinstance(load(both), Enhancer)


def test_code_that_comes_with_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    foreign, ran = shutil.copytree(folder, tmp_path / "foreign"), tmp_path / "ran"
    (foreign / "modeling_foreign.py").write_text(f"open({str(ran)!r}, 'w')\n")
    edit_json(
        foreign / "config.json",
        model_type="foreign",
        auto_map={
            "AutoConfig": "modeling_foreign.Config",
            "AutoModelForCausalLM": "modeling_foreign.Model",
        },
    )
    with pytest.raises(ModelBroken, match=rf"(?s){foreign}.*put it there anew"):
        load(foreign)
    assert not ran.exists()


def test_damaged_weights_are_named_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    source = Catalog(tmp_path).language_models[0].source
    model = LanguageModel("tiny", "Tiny", "MIT", "guided", broken, source)
    with pytest.raises(ModelBroken, match="banatie models pull tiny"):
        Enhancer.load(model, RUNTIME)


@pytest.mark.needs_models
def test_the_embedded_model_writes_of_its_own() -> None:
    models_dir = Path(__file__).parents[2] / "models"
    if not (models_dir / "smollm2-135m-instruct" / "config.json").is_file():
        pytest.skip("the embedded language model is not here: run scripts/start once")
    model = Catalog(models_dir).language_model("smollm2-135m-instruct")
    enhancer = Enhancer.load(model, Runtime("cpu", torch.float32, torch.bfloat16))
    results = [enhance(enhancer, "a castle at night", seed=seed) for seed in range(4)]
    assert any(result.from_model for result in results)
    for result in results:
        assert result.warning is None
        assert "a castle at night" in result.text
