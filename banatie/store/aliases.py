"""Aliases: names of images, in a project or in a flow, and what a reference to an image means.

A reference is an image's id or an alias: a technical one, one of the flow, or one of the project,
in this order. The functions take the connection of the transaction that uses the image, or the
database where nothing is changed.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from uuid import UUID

from banatie.errors import AliasConflict, AliasNotFound, ImageNotFound, ValidationError
from banatie.limits import MAX_ALIAS_LENGTH, MAX_REFERENCES
from banatie.records import Generation, Image, Reference
from banatie.store.database import Database
from banatie.store.images import SELECT, to_image

Reader = Database | sqlite3.Connection

_NEWEST, _OLDEST = "images.created_at DESC, images.id DESC", "images.created_at, images.id"
TECHNICAL = {
    "@last": ("generated", _NEWEST),
    "@first": ("generated", _OLDEST),
    "@upload": ("uploaded", _NEWEST),
}
"""The aliases that nobody can give: each is the first image of this source in this order."""
_ALIAS = re.compile(r"@[A-Za-z0-9_-]+")
_IN_PROMPT = re.compile(r"(?:^|\s)(@[\w-]+)", re.ASCII)


def check_alias(field: str, alias: str) -> None:
    """Raise ValidationError if no image can have this alias."""
    if not _ALIAS.fullmatch(alias):
        raise ValidationError.of(
            field, "must be @ and then letters, digits, underscores or hyphens"
        )
    if len(alias) > MAX_ALIAS_LENGTH:
        raise ValidationError.of(field, f"must have at most {MAX_ALIAS_LENGTH} characters")
    if alias.lower() in TECHNICAL:
        raise ValidationError.of(field, f"{alias!r} is reserved; choose another name")


def find_image(
    reader: Reader, project_id: str, reference: str, flow_id: str | None = None
) -> Image:
    """The project's image that `reference` means. Raises ImageNotFound and AliasNotFound."""
    if not reference.startswith("@"):
        where, values = "images.id = :reference", {"reference": as_uuid(reference)}
        image = _first(reader, where, project_id, values)
        if image is None:
            raise ImageNotFound(reference)
        return image
    image = _named(reader, project_id, reference, flow_id)
    if image is None:
        raise AliasNotFound(reference)
    return image


def find_references(
    connection: sqlite3.Connection,
    project_id: str,
    flow_id: str | None,
    listed: Sequence[str],
    prompt: str,
) -> tuple[tuple[Reference, ...], list[str]]:
    """The images that are listed or that the prompt names, each once; and warnings.

    Raises ValidationError naming a listed reference that means no image.
    """
    found: dict[str, Reference] = {}
    for reference in listed:
        try:
            image = find_image(connection, project_id, reference, flow_id)
        except (ImageNotFound, AliasNotFound) as error:
            raise ValidationError.of("referenceImages", str(error)) from error
        alias = reference if reference.startswith("@") else None
        found.setdefault(image.id, Reference(image.id, alias, image.storage_key))
    left_out = []
    for alias in dict.fromkeys(_IN_PROMPT.findall(prompt)):
        named = _named(connection, project_id, alias, flow_id)
        if named is None or named.id in found:
            continue
        if len(found) < MAX_REFERENCES:
            found[named.id] = Reference(named.id, alias, named.storage_key)
        else:
            left_out.append(alias)
    warnings = [
        f"{alias} in the prompt is not used as a reference: {MAX_REFERENCES} images are used at "
        "most."
        for alias in left_out
    ]
    return tuple(found.values()), warnings


def rename_references(
    connection: sqlite3.Connection, generation: Generation, prompt: str
) -> tuple[tuple[Reference, ...], list[str]]:
    """The generation's references with another prompt, and warnings.

    Those that only the prompt of before names are left out.
    """
    named = _IN_PROMPT.findall(generation.original_prompt)
    kept = {each.image_id: each for each in generation.reference_images if each.alias not in named}
    flow = connection.execute(
        "SELECT id FROM flows WHERE project_id = ? AND id = ?",
        (generation.project_id, generation.flow_id),
    ).fetchone()
    found, warnings = find_references(
        connection, generation.project_id, flow and flow["id"], tuple(kept), prompt
    )
    return tuple(kept.get(each.image_id, each) for each in found), warnings


def require_free(
    connection: sqlite3.Connection, project_id: str, alias: str, image_id: str | None = None
) -> None:
    """Raise AliasConflict if another image than `image_id` has the alias in the project."""
    taken = connection.execute(
        "SELECT 1 FROM images WHERE project_id = ? AND alias = ? AND id IS NOT ?",
        (project_id, alias, image_id),
    ).fetchone()
    if taken is not None:
        raise AliasConflict(alias)


def as_uuid(text: str) -> str | None:
    """The id in lower case, as it is stored; None for what is no UUID with hyphens."""
    try:
        well_formed = str(UUID(text)) == text.lower()
    except ValueError:
        return None
    return text.lower() if well_formed else None


def _named(reader: Reader, project_id: str, alias: str, flow_id: str | None) -> Image | None:
    if alias in TECHNICAL:
        source, order = TECHNICAL[alias]
        where = "images.source = :source"
        # Without a flow they mean the whole project.
        if flow_id is not None:
            where += " AND images.flow_id = :flow"
        values = {"flow": flow_id, "source": source}
        return _first(reader, f"{where} ORDER BY {order}", project_id, values)
    values = {"flow": flow_id, "alias": alias}
    in_flow = (
        "images.id = (SELECT image_id FROM flow_aliases "
        "WHERE project_id = :project AND flow_id = :flow AND alias = :alias)"
    )
    image = _first(reader, in_flow, project_id, values) if flow_id is not None else None
    return image or _first(reader, "images.alias = :alias", project_id, values)


def _first(
    reader: Reader, where: str, project_id: str, values: dict[str, str | None]
) -> Image | None:
    sql = f"{SELECT} WHERE images.project_id = :project AND {where} LIMIT 1"
    values = {**values, "project": project_id}
    if isinstance(reader, Database):
        row = reader.first(sql, values)
    else:
        row = reader.execute(sql, values).fetchone()
    return to_image(row) if row else None
