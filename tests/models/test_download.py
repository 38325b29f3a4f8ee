"""Downloads from a hub that the test itself serves on loopback, with real tiny models."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants
from safetensors.torch import load_file, save

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models import disk_space
from banatie.models.catalog import Catalog
from banatie.models.download import download
from banatie.models.download_plan import DownloadPlan, plan_entry, plan_repository
from banatie.models.huggingface import Hub
from banatie.models.manifest import FileDigest, file_digests, read_manifest
from banatie.models.types import RepositoryFiles
from tests.support.loopback_hub import LARGE, LoopbackHub, Repository, serving
from tests.support.tiny_models import make_tiny_sdxl

BASE, FAST, WRITER = "acme/tiny-sdxl", "acme/fast-unet", "acme/tiny-writer"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pipeline(tiny_sdxl: Path) -> Path:
    return tiny_sdxl


@pytest.fixture(scope="module")
def writer(tiny_language_model: Path) -> Path:
    return tiny_language_model


@pytest.fixture
def served(pipeline: Path, writer: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    # Other tests of this process may have told the library to stay offline, for good.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    repositories = {
        BASE: Repository.from_folder(pipeline),
        FAST: Repository({"fast_unet.safetensors": (pipeline / UNET).read_bytes()[::-1]}),
        WRITER: Repository.from_folder(writer),
    }
    with serving(LoopbackHub(repositories)) as hub:
        yield hub


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def hub(served: LoopbackHub, pauses: list[float]) -> Hub:
    return Hub(served.url, pauses.append)


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def plan(models_dir: Path) -> DownloadPlan:
    """The whole pipeline, as an entry of the catalog would have it."""
    files = ("model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors")
    part = RepositoryFiles(BASE, "main", files)
    return DownloadPlan("painting", "tiny", "Tiny", "MIT", models_dir, (part,), {"steps": 3})


def visible(models_dir: Path) -> list[str]:
    return sorted(path.name for path in models_dir.iterdir() if not path.name.startswith("."))


def test_a_model_comes_whole_with_its_manifest(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, pipeline: Path, models_dir: Path
) -> None:
    lines: list[str] = []
    calls: list[tuple[int, int]] = []
    folder = download(plan, hub, lines.append, lambda _, done, total: calls.append((done, total)))
    assert folder == models_dir / "tiny"
    assert visible(models_dir) == ["tiny"]
    assert file_digests(folder) == file_digests(pipeline)
    manifest = read_manifest(folder)
    assert manifest.files == file_digests(folder)
    assert (manifest.kind, manifest.name, manifest.settings) == ("painting", "tiny", {"steps": 3})
    assert manifest.source == f"{BASE}@{served.repositories[BASE].commit}"
    total = sum(digest.bytes for digest in manifest.files.values())
    assert calls[0] == (0, total)
    assert calls[-1] == (total, total)
    assert lines[0] == f"Asking {served.url} for {BASE}"
    assert lines[-1] == f"tiny is ready: {folder}"


def test_a_model_is_put_together_from_several_repositories(
    plan: DownloadPlan, hub: Hub, pipeline: Path, served: LoopbackHub
) -> None:
    # Another UNet's weights, of the same shapes.
    other = make_tiny_sdxl(plan.folder.parent.parent / "other", seed=1)
    served.repositories[FAST].files["fast_unet.safetensors"] = (other / UNET).read_bytes()
    base = RepositoryFiles(
        BASE, "main", ("model_index.json", "*/*.json", "*/*.txt", "te*/*.s*", "vae/*")
    )
    fast = RepositoryFiles(FAST, "main", destinations={"fast_unet.safetensors": UNET})
    folder = download(replace(plan, repositories=(base, fast)), hub, print)
    assert (folder / UNET).read_bytes() == (other / UNET).read_bytes()
    assert (folder / "unet" / "config.json").is_file()
    assert read_manifest(folder).source.count("@") == 2


def test_what_another_model_has_is_linked_and_not_fetched(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, models_dir: Path
) -> None:
    download(plan, hub, print)
    served.requests.clear()
    lines: list[str] = []
    second = replace(plan, name="second")
    folder = download(second, hub, lines.append)
    assert os.path.samefile(folder / UNET, models_dir / "tiny" / UNET)
    assert served.requests_of(UNET) == []
    assert "are already here" in lines[1]
    shutil.rmtree(models_dir / "tiny")
    assert file_digests(folder) == read_manifest(folder).files


def test_what_other_programs_have_fetched_is_linked(
    plan: DownloadPlan,
    hub: Hub,
    served: LoopbackHub,
    pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blobs = tmp_path / "cache" / "models--acme--tiny-sdxl" / "blobs"
    blobs.mkdir(parents=True)
    blob = blobs / file_digests(pipeline)[UNET].sha256
    shutil.copyfile(pipeline / UNET, blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = download(plan, hub, print)
    assert os.path.samefile(folder / UNET, blob)
    assert served.requests_of(UNET) == []


def test_what_is_linked_is_checked_too(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, models_dir: Path, pipeline: Path
) -> None:
    download(plan, hub, print)
    changed = models_dir / "tiny" / UNET
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    folder = download(replace(plan, name="second"), hub, print)
    assert file_digests(folder) == file_digests(pipeline)
    assert len(served.requests_of(UNET)) == 2


def test_a_lora_becomes_part_of_the_weights_and_of_no_other_model_s(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, models_dir: Path, pipeline: Path
) -> None:
    before = load_file(pipeline / UNET)
    key, change = "lora_unet_conv_in", torch.ones(len(before["conv_in.bias"]), 1)
    learned = {
        f"{key}.lora_up.weight": change[:, :, None, None],
        f"{key}.lora_down.weight": torch.ones(1, *before["conv_in.weight"].shape[1:]),
    }
    content = save(learned)
    served.repositories["acme/lora"] = Repository({"quick.safetensors": content})
    plain = download(plan, hub, print)
    part = RepositoryFiles(
        "acme/lora", "main", destinations={"quick.safetensors": "unet/lora.safetensors"}
    )
    parts = (*plan.repositories, part)
    quick = replace(
        plan,
        name="quick",
        repositories=parts,
        fused_lora="unet/lora.safetensors",
    )
    folder = download(quick, hub, print)
    after = load_file(folder / UNET)
    torch.testing.assert_close(after["conv_in.weight"], before["conv_in.weight"] + 1)
    assert file_digests(plain) == file_digests(pipeline), "it shared its file with the other"
    assert read_manifest(folder).files == file_digests(folder)
    assert not (folder / "unet" / "lora.safetensors").exists()
    assert "acme/lora@" in read_manifest(folder).source


def test_a_connection_that_breaks_is_gone_on_with(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, pauses: list[float], pipeline: Path
) -> None:
    served.cut_after = [1500, 700]
    folder = download(plan, hub, print)
    assert file_digests(folder) == file_digests(pipeline)
    ranges = [request.range for request in served.requests if request.range]
    assert ranges == ["bytes=1500-", "bytes=2200-"]
    assert pauses == [], "as long as something comes, nobody waits"


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_an_interrupted_attempt_is_gone_on_with_by_the_next(
    plan: DownloadPlan,
    hub: Hub,
    served: LoopbackHub,
    models_dir: Path,
    pipeline: Path,
    ignores_ranges: bool,
) -> None:
    served.ignores_ranges = ignores_ranges
    biggest = max((p for p in pipeline.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    half = biggest.stat().st_size // 2

    def interrupt(name: str, done: int, total: int) -> None:
        if total - done <= half:
            raise KeyboardInterrupt

    lines: list[str] = []
    served.cut_after = [10**9] * (len(file_digests(pipeline)) - 1)
    with pytest.raises(KeyboardInterrupt):
        download(plan, hub, lines.append, interrupt)
    assert visible(models_dir) == []
    assert lines[-1] == "Interrupted; run the same command again to resume"
    served.cut_after, before = [], len(served.requests)
    folder = download(plan, hub, lines.append)
    assert file_digests(folder) == file_digests(pipeline)
    files_again = [request for request in served.requests[before:] if "/resolve/" in request.path]
    assert len(files_again) <= 1, "only the one that was not whole"


def test_half_a_file_is_gone_on_with_by_the_next_attempt(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, pipeline: Path
) -> None:
    served.cut_after = [2500, *[0] * 5]
    with pytest.raises(ModelError, match=r"cannot be reached .*"):
        download(plan, hub, print)
    served.cut_after = []
    served.requests.clear()
    assert file_digests(download(plan, hub, print)) == file_digests(pipeline)
    assert [request.range for request in served.requests if request.range] == ["bytes=2500-"]


def test_what_an_attempt_at_another_revision_left_does_not_come_in(
    plan: DownloadPlan, hub: Hub, models_dir: Path, pipeline: Path
) -> None:
    left = models_dir / ".tiny.installing" / "model"
    (left / "unet").mkdir(parents=True)
    (left / "unet" / "old.json").write_text("{}")
    (left / "unet" / "config.json").write_text("{}")
    assert file_digests(download(plan, hub, print)) == file_digests(pipeline)


def test_a_hub_that_is_busy_is_asked_again_a_little_later(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, pauses: list[float], pipeline: Path
) -> None:
    served.refusals = [503, 429, 500]
    assert file_digests(download(plan, hub, print)) == file_digests(pipeline)
    assert pauses == [1.0, 2.0, 4.0]


def test_a_hub_that_stays_busy_is_given_up(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, pauses: list[float], models_dir: Path
) -> None:
    served.refusals = [503] * 9
    with pytest.raises(ModelError, match=r"answers 503 .*; run the command again later to resume"):
        download(plan, hub, print)
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert visible(models_dir) == []


@pytest.mark.parametrize("name", [UNET, "unet/config.json"], ids=["by SHA-256", "by git"])
def test_a_file_that_is_not_what_the_hub_says_is_refused(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, models_dir: Path, pipeline: Path, name: str
) -> None:
    content = bytearray((pipeline / name).read_bytes())
    content[-2] ^= 1
    served.replaced_content[name] = bytes(content)
    with pytest.raises(ModelBroken, match=rf"^{name} of {BASE} is not what .*was deleted"):
        download(plan, hub, print)
    assert visible(models_dir) == []
    served.replaced_content.clear()
    assert file_digests(download(plan, hub, print)) == file_digests(pipeline)


def test_more_than_a_file_should_have_is_not_stored(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, models_dir: Path, pipeline: Path
) -> None:
    served.replaced_content[UNET] = (pipeline / UNET).read_bytes() + bytes(5 * 2**20)
    with pytest.raises(ModelBroken, match="sends more of"):
        download(plan, hub, print)
    assert visible(models_dir) == []


def test_less_than_a_file_should_have_is_an_error(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, models_dir: Path, pipeline: Path
) -> None:
    served.replaced_content[UNET] = (pipeline / UNET).read_bytes()[:-10]
    with pytest.raises(ModelError, match="sends no more than"):
        download(plan, hub, print)
    assert visible(models_dir) == []


def test_another_file_than_the_catalog_knows_is_not_even_fetched(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, models_dir: Path
) -> None:
    known = RepositoryFiles(
        BASE, "main", plan.repositories[0].files, digests={UNET: FileDigest(9, "0" * 64)}
    )
    with pytest.raises(ModelBroken, match="than the catalog "):
        download(replace(plan, repositories=(known,)), hub, print)
    assert [request for request in served.requests if "/resolve/" in request.path] == []


def test_a_redirect_is_followed_and_the_token_stays_with_the_hub(
    plan: DownloadPlan,
    hub: Hub,
    served: LoopbackHub,
    monkeypatch: pytest.MonkeyPatch,
    pipeline: Path,
) -> None:
    served.redirects, served.repositories[BASE].token = True, "hf_secret"
    served.cut_after = [1500]
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert file_digests(download(plan, hub, print)) == file_digests(pipeline)
    elsewhere = [request for request in served.requests if request.path.startswith("/elsewhere/")]
    large = [p for p in pipeline.rglob("*") if p.is_file() and p.stat().st_size >= LARGE]
    assert len(elsewhere) == len(large) + 1
    assert [request.range for request in elsewhere if request.range] == ["bytes=1500-"]
    assert {request.authorization for request in elsewhere} == {""}
    own = {request.authorization for request in served.requests if request not in elsewhere}
    assert own == {"Bearer hf_secret"}


@pytest.mark.parametrize("token", ["", "hf_of_somebody_else"])
def test_a_gated_model_says_what_to_do(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    served.repositories[BASE].token = "hf_secret"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelError, match=rf"accept its licence on .*huggingface\.co/{BASE}, set"):
        download(plan, hub, print)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (RepositoryFiles("acme/nothing", "main", ("*",)), "has no repository acme/nothing"),
        (RepositoryFiles(BASE, "v9", ("*",)), f"{BASE} has no revision v9"),
        (
            RepositoryFiles(BASE, "main", ("unet/nothing.json",)),
            f"{BASE} has no unet/nothing.json at main",
        ),
        (
            RepositoryFiles(BASE, "main", destinations={"no.json": "x.json"}),
            f"{BASE} has no no.json at main",
        ),
        (
            RepositoryFiles("no name at all", "main", ("*",)),
            "'no name at all' is not a repository's name",
        ),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    plan: DownloadPlan, hub: Hub, models_dir: Path, part: RepositoryFiles, message: str
) -> None:
    with pytest.raises(ModelNotFound, match=message):
        download(replace(plan, repositories=(part,)), hub, print)
    assert visible(models_dir) == []


def test_a_wrong_token_is_said_to_be_so(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    served.refusals = [403]
    with pytest.raises(ModelError, match=r"refuses .* \(403\); HF_TOKEN may be wrong"):
        download(plan, hub, print)


def test_no_network_is_said_with_what_else_can_be_done(
    plan: DownloadPlan, pauses: list[float]
) -> None:
    # Nobody listens on port 1.
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:1 cannot be reached .*banatie models exp"):
        download(plan, Hub("http://127.0.0.1:1", pauses.append), print)


def test_an_address_that_is_no_hub_is_said_to_be_none(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub
) -> None:
    served.serves_html = True
    with pytest.raises(ModelError, match="does not answer like a hub; check HF_ENDPOINT"):
        download(plan, hub, print)


def test_offline_is_said(plan: DownloadPlan, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        download(plan, hub, print)


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "SPARE_BYTES", 10**18)
    with pytest.raises(
        ModelError, match=r"tiny needs \d+ kB and the disk of .* GB free; free some"
    ):
        download(plan, hub, print)
    assert [request for request in served.requests if "/resolve/" in request.path] == []


def test_a_model_that_is_there_is_left_alone(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub
) -> None:
    download(plan, hub, print)
    served.requests.clear()
    lines: list[str] = []
    download(plan, hub, lines.append)
    assert lines == [f"tiny is already installed: {plan.folder}"]
    assert served.requests == []


def test_two_at_once_do_not_meet(plan: DownloadPlan, hub: Hub, models_dir: Path) -> None:
    models_dir.mkdir()
    with (
        FileLock(models_dir / ".tiny.lock"),
        pytest.raises(
            ModelError, match="another process is installing or removing tiny; wait for it"
        ),
    ):
        download(plan, hub, print)


def test_a_hub_cannot_write_outside_of_the_folder(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, models_dir: Path
) -> None:
    served.repositories[BASE].files["../../evil.json"] = b"{}"
    part = RepositoryFiles(BASE, "main", ("*/*/*.json",))
    with pytest.raises(ModelBroken, match=r"a file called '\.\./\.\./evil\.json'"):
        download(replace(plan, repositories=(part,)), hub, print)
    assert not (models_dir.parent / "evil.json").exists()


def test_what_does_not_make_a_pipeline_is_not_installed(
    plan: DownloadPlan, hub: Hub, served: LoopbackHub, models_dir: Path, pipeline: Path
) -> None:
    cut = (pipeline / UNET).read_bytes()[:-10]
    served.repositories[BASE].files[UNET] = cut
    with pytest.raises(ModelBroken, match="is incomplete"):
        download(plan, hub, print)
    assert visible(models_dir) == []


# Repositories that the catalog does not know


def test_a_pipeline_of_any_repository_can_be_had(
    hub: Hub, served: LoopbackHub, models_dir: Path
) -> None:
    files = served.repositories[BASE].files
    files[UNET.replace(".safetensors", ".fp16.safetensors")] = files[UNET]
    files |= {"unet/diffusion_pytorch_model.bin": b"pickle", "README.md": b"read", "LICENSE": b"!"}
    plan = plan_repository(hub, BASE, "main", models_dir)
    folder = download(plan, hub, print)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert folder.name == "tiny-sdxl"
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in names
    assert "LICENSE" in names
    assert not names & {UNET, "unet/diffusion_pytorch_model.bin", "README.md"}
    assert read_manifest(folder).licence == "mit"
    model = Catalog(models_dir).painting_model("tiny-sdxl")
    assert (model.steps, model.sizes["1:1"]) == (30, (128, 128))


def test_a_language_model_of_any_repository_can_be_had(
    hub: Hub, served: LoopbackHub, models_dir: Path
) -> None:
    unwanted = {"onnx/model.safetensors": b"-", "pytorch_model.bin": b"-", "tokenizer.py": b"-"}
    served.repositories[WRITER].files |= unwanted
    folder = download(plan_repository(hub, WRITER, "main", models_dir, "mine"), hub, print)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"config.json", "tokenizer.json", "model.safetensors", "banatie.json"} <= names
    assert not names & set(unwanted)
    assert Catalog(models_dir).language_model("mine").mode == "guided"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model_index.json": b'{"_class_name": "FluxPipeline"}'}, "is a FluxPipeline, but"),
        ({"config.json": b'{"architectures": ["BertModel"]}'}, "is a BertModel, not a language"),
        ({"config.json": b"no JSON"}, "is not JSON"),
        (
            {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "pytorch_model.bin": b"-"},
            "holds no safetensors weights, and pickles are never loaded",
        ),
        ({"dream.safetensors": b"-"}, r"neither .*models import dream\.safetensors"),
        ({"README.md": b"-"}, "holds neither a pipeline nor a language model$"),
    ],
)
def test_a_repository_of_something_else_says_what_it_is(
    hub: Hub, served: LoopbackHub, models_dir: Path, files: dict[str, bytes], message: str
) -> None:
    served.repositories["acme/other"] = Repository(files)
    with pytest.raises(ModelBroken, match=message):
        plan_repository(hub, "acme/other", "main", models_dir)


@pytest.mark.parametrize("name", ["../evil", ".hidden", "a/b", "with space", "x" * 101])
def test_a_name_that_is_none_is_refused(hub: Hub, models_dir: Path, name: str) -> None:
    with pytest.raises(ModelError, match="cannot be a model's name"):
        plan_repository(hub, BASE, "main", models_dir, name)


# The catalog's entries


@pytest.mark.parametrize(
    "name",
    [
        *(m.name for m in Catalog(Path("models")).language_models[1:]),
        *(m.name for m in Catalog(Path("models")).painting_models[1:]),
    ],
)
def test_every_entry_of_the_catalog_makes_a_whole_folder(
    hub: Hub,
    served: LoopbackHub,
    models_dir: Path,
    pipeline: Path,
    writer: Path,
    name: str,
) -> None:
    """With files of the entry's names, and tiny contents whose hashes are not the catalog's."""
    entry = Catalog(models_dir).entry(name)
    plan = plan_entry(entry)
    source = pipeline if entry.kind == "painting" else writer
    plain = {path.relative_to(source).as_posix(): path for path in source.rglob("*")}
    stocked = []
    for part in plan.repositories:
        repository = served.repositories.setdefault(part.repository, Repository({}, part.revision))
        for pattern in (*part.files, *part.destinations):
            place = part.destinations.get(pattern, pattern).replace(".fp16", "")
            if pattern.startswith("model-*"):
                shards = ("model-00001-of-00002", "model-00002-of-00002")
                for shard in shards:
                    content = plain["model.safetensors"].read_bytes()
                    repository.files[f"{shard}.safetensors"] = content
                index = {"weight_map": {"a": f"{shards[0]}.safetensors"}}
                repository.files["model.safetensors.index.json"] = json.dumps(index).encode()
            elif place in plain:
                repository.files[pattern] = plain[place].read_bytes()
            elif pattern.endswith("/*"):
                inside = [n for n in plain if n.startswith(pattern[:-1])]
                repository.files |= {n: plain[n].read_bytes() for n in inside}
            elif place == plan.fused_lora:
                ones = {"up": torch.ones(8, 1, 1, 1), "down": torch.ones(1, 4, 3, 3)}
                learned = {f"lora_unet_conv_in.lora_{n}.weight": ones[n] for n in ones}
                repository.files[pattern] = save(learned)
        stocked.append(replace(part, digests={}))
    served.repositories[plan.repositories[0].repository].files["README.md"] = b"not planned"
    folder = download(replace(plan, repositories=tuple(stocked)), hub, print)
    assert not (folder / "README.md").exists()
    found = Catalog(models_dir).entry(name)
    assert (found.installed, found.manifest.settings) == (
        True,
        json.loads(json.dumps(plan.settings)),
    )
    if entry.kind == "painting":
        assert Catalog(models_dir).painting_model(name) == entry.model
    else:
        assert Catalog(models_dir).language_model(name) == entry.model


def test_a_model_without_a_source_cannot_be_ordered(models_dir: Path) -> None:
    with pytest.raises(ModelNotFound, match="does not say where 'banatie-small' comes from"):
        plan_entry(Catalog(models_dir).entry("banatie-small"))


def test_what_the_catalog_says_of_files_is_well_formed(models_dir: Path) -> None:
    catalog = Catalog(models_dir)
    known = (*catalog.language_models[1:], *catalog.painting_models[1:], *catalog.ip_adapters)
    for model in known:
        for part in model.source.repositories:
            assert len(bytes.fromhex(part.revision)) == 20
            for name, digest in part.digests.items():
                assert digest.bytes > 0, name
                assert digest.sha256 == "" or len(bytes.fromhex(digest.sha256)) == 32
        assert 10**8 < model.source.bytes < 10**10
