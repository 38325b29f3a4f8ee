"""The painting model that is chosen at run time: what is accepted, and for how long it holds."""

from __future__ import annotations

import shutil

import pytest

from banatie.config import load_config
from banatie.errors import ValidationError
from banatie.model_choice import (
    PaintingModelChoice,
    choose_for_running_server,
    chosen_config,
    with_chosen_model,
)
from banatie.models.bundled import model_folder
from banatie.models.catalog import Catalog
from banatie.store.database import Database
from banatie.store.model_choices import ModelChoices

BUNDLED = "banatie-small"


@pytest.fixture
def models(tmp_path):
    """A models folder with one painting model, a copy of the bundled one."""
    folder = tmp_path / "models"
    shutil.copytree(model_folder(BUNDLED, folder), folder / "mine")
    (folder / "mine" / "banatie.json").write_text(
        '{"kind": "painting", "name": "mine", "title": "Mine", "licence": "mine", '
        '"source": "here", "files": {}, "settings": {}}'
    )
    return folder


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "banatie.db")
    database.migrate()
    yield database
    database.close()


def choice_of(database: Database, models, configured: str = BUNDLED) -> PaintingModelChoice:
    return PaintingModelChoice(ModelChoices(database), Catalog(models), configured, lambda: 5)


def test_a_choice_holds_until_the_setting_has_another_value(database, models):
    choice = choice_of(database, models)
    assert choice.reference() == BUNDLED
    assert choice.switch("mine").name == "mine"
    assert choice_of(database, models).current().name == "mine"
    assert choice_of(database, models, "sdxl-base-1.0").reference() == "sdxl-base-1.0"
    assert choice.switch(BUNDLED).name == BUNDLED
    assert ModelChoices(database).stored() is None


def test_what_can_be_switched_to_is_listed_once(database, models):
    choice = choice_of(database, models, str(models / "mine"))
    assert [model.name for model in choice.available()] == ["mine", BUNDLED]
    choice.switch(BUNDLED)
    assert choice.switch("mine").name == "mine"
    assert choice.reference() == str(models / "mine")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sdxl-base-1.0", "banatie models pull sdxl-base-1.0"),
        ("smollm2-135m-instruct", "set enhancement.model to it"),
        ("unheard-of", "known models"),
        ("../models/mine", "no model is called"),
        ("", "no model is called"),
    ],
)
def test_what_cannot_paint_is_refused_with_the_reason(database, models, name, reason):
    with pytest.raises(ValidationError, match=reason):
        choice_of(database, models).switch(name)


def test_a_broken_model_is_neither_listed_nor_taken(database, models):
    for weights in (models / "mine" / "unet").glob("*.safetensors"):
        weights.write_bytes(b"\0" * 16)
    choice = choice_of(database, models)
    assert [model.name for model in choice.available()] == [BUNDLED]
    with pytest.raises(ValidationError):
        choice.switch("mine")
    assert choice.refusal(Catalog(models).entry("mine")) != ""


def test_commands_see_the_choice(tmp_path, database, models):
    config = load_config(None, {}, {"storage.data_dir": str(tmp_path)})
    assert chosen_config(config) == config
    choice_of(database, models).switch("mine")
    assert chosen_config(config).painting.model == "mine"
    assert with_chosen_model(config, database).painting.model == "mine"
    assert choose_for_running_server(config, BUNDLED, 6)
    assert chosen_config(config) == config


def test_without_a_database_nothing_is_chosen(tmp_path):
    config = load_config(None, {}, {"storage.data_dir": str(tmp_path / "none")})
    assert not choose_for_running_server(config, "mine", 6)
    assert chosen_config(config) == config
    assert not (tmp_path / "none").exists()
