"""`banatie images` and `banatie flows`, on a data folder without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from banatie.cli.main import run
from banatie.config import load_config
from banatie.records import Submission
from banatie.services import open_services
from tests.support.api_server import picture_bytes


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "logo.png"
    file.write_bytes(picture_bytes())
    return file


@pytest.fixture
def banatie(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def banatie(*arguments: str) -> tuple[int, str]:
        status = run([*arguments, "--data-dir", str(tmp_path / "data")])
        out, err = capfd.readouterr()
        return status, out + err

    return banatie


def test_an_image_is_uploaded_named_found_and_deleted(banatie, picture, tmp_path):
    status, text = banatie("images", "upload", str(picture), "--alias", "@logo")
    assert status == 0
    image_id = text.strip()
    status, text = banatie("images", "list")
    assert (status, text.split()) == (0, [image_id, "uploaded", "48x32", "@logo"])
    path = Path(banatie("images", "path", "@logo")[1].strip())
    assert path.name == f"{image_id}.png"
    assert path.exists()
    assert banatie("images", "alias", image_id, "@sign") == (0, "")
    status, text = banatie("images", "path", "@logo")
    assert (status, "@logo" in text) == (1, True)
    assert banatie("images", "alias", "@sign") == (0, "")
    assert banatie("images", "delete", image_id) == (0, f"Deleted {image_id}\n")
    assert not path.exists()
    assert banatie("images", "list") == (0, "")


def test_what_is_no_picture_or_takes_a_taken_name_is_one_line(banatie, picture, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for arguments in (
        ("images", "upload", str(tmp_path / "text.png")),
        ("images", "upload", str(picture), "--alias", "logo"),
        ("images", "delete", "@nothing"),
        ("flows", "delete", "nothing"),
    ):
        status, text = banatie(*arguments)
        assert status == 1
        assert text.startswith("banatie: ")
        assert text.count("\n") == 1
    banatie("images", "upload", str(picture), "--alias", "@logo")
    status, text = banatie("images", "upload", str(picture), "--alias", "@logo")
    assert (status, "@logo" in text) == (1, True)


def test_flows_are_listed_and_deleted(banatie, tmp_path):
    config = load_config(None, {}, {"storage.data_dir": str(tmp_path / "data")})
    services = open_services(config, lambda: 5)
    project_id = services.keys.default_project_id(5)
    flow_id = "0b7c4a52-1111-4222-8333-444455556666"
    services.intake.submit(project_id, Submission("a cat", flow_id=flow_id))
    services.close()
    status, text = banatie("flows", "list")
    assert (status, text) == (0, f"{flow_id}  1 generations, 0 images\n")
    assert banatie("flows", "delete", flow_id) == (0, f"Deleted {flow_id}\n")
    assert banatie("flows", "list") == (0, "")


@pytest.mark.parametrize(
    "options",
    [
        ("--size", "99x99"),
        ("--size", "banana"),
        ("--size", "64x64", "--aspect-ratio", "1:1"),
        ("--reference", "nowhere.png"),
        ("--mask", "logo.png"),
        ("--quality", "80"),
        ("--format", "gif"),
    ],
)
def test_generate_refuses_what_cannot_be_painted(banatie, picture, options):
    status, text = banatie("generate", "a cat", *options)
    assert status in (1, 2)
    assert text.startswith("banatie: ")
    assert text.count("\n") == 1
