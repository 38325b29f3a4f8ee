"""The walk of docs/api.md through images, references, aliases and flows, by nothing but HTTP."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx
import pytest
from PIL import Image

from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.images import Images
from tests.support.service import ROOT, Service

PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")
[WALK] = re.findall(r"## A walk\n.*?```sh\n(.*?)```", PAGE, re.DOTALL)


def test_the_walk_of_the_documentation_leads_through(service: Service, tmp_path: Path) -> None:
    picture = Image.effect_noise((96, 64), 60).convert("RGB")
    picture.paste((255, 255, 255), (0, 0, 48, 64))
    picture.save(tmp_path / "room.png")
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", WALK],
        cwd=tmp_path,
        env={**service.environment, "URL": service.url, "KEY": service.key},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    with Image.open(tmp_path / "chair.png") as chair:
        assert chair.format == "PNG"
    database = Database(service.data / "banatie.db")
    known = Images(database).storage_keys()
    database.close()
    assert Files(service.data / "storage").stored() == known


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_picture_is_stored_in_the_format_and_size_that_was_asked_for(
    service: Service, tmp_path: Path, form: str
) -> None:
    record = service.paint("a red cat", outputFormat=form, size="64x128")
    image = record["outputImage"]
    content = httpx.get(image["storageUrl"], trust_env=False).content
    (tmp_path / "picture").write_bytes(content)
    with Image.open(tmp_path / "picture") as opened:
        assert (opened.format or "").lower() == form
        assert opened.size == (image["width"], image["height"]) == (64, 128)
    assert image["mimeType"] == f"image/{form}"
    assert len(content) == image["fileSize"]
