"""The bundled model: found wherever the package is installed, and behind one of the same name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from banatie.models.bundled import BUNDLED_MODELS, bundled_models_dir, model_folder
from banatie.models.catalog import Catalog
from banatie.models.validate import check_pipeline

ROOT = Path(__file__).parents[2]
FIND = """
from pathlib import Path
import banatie
from banatie.models.catalog import Catalog
print(banatie.__file__)
print(Catalog(Path("models")).painting_model("banatie-small").folder)
"""


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_a_bundled_model_is_complete_and_in_the_catalog(name: str, tmp_path: Path) -> None:
    model = Catalog(tmp_path).painting_model(name)
    assert model.folder == bundled_models_dir() / name
    assert set(check_pipeline(model.folder)) == {"unet", "vae", "text_encoder", "text_encoder_2"}


def test_a_folder_of_the_same_name_takes_precedence(tmp_path: Path) -> None:
    models, bundled = tmp_path / "models", tmp_path / "bundled"
    assert model_folder("banatie-small", models, bundled) == bundled / "banatie-small"
    (models / "banatie-small").mkdir(parents=True)
    assert model_folder("banatie-small", models, bundled) == models / "banatie-small"
    assert model_folder("another", models, bundled) == models / "another"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed by pip into a folder of its own, as `pip install --target` does."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "banatie", source / "banatie")
    target = tmp_path_factory.mktemp("target") / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    # The build backend's own warnings are none of ours.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([*command, str(source)], check=True, env=environment)
    return target


@pytest.mark.end_to_end
def test_the_bundled_model_is_found_after_an_installation_into_any_folder(
    installed: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", FIND],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    model = installed / "banatie" / "models" / "bundled" / "banatie-small"
    assert found == [str(installed / "banatie" / "__init__.py"), str(model)]
    bundled = bundled_models_dir() / "banatie-small"
    relative = {path.relative_to(bundled) for path in bundled.rglob("*") if path.is_file()}
    for path in relative:
        assert (model / path).read_bytes() == (bundled / path).read_bytes(), path
