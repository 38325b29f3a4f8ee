"""The lists of a project's generations: filtered, searched, paged by offset or by position.

Only reads. Every list is newest first, ties broken by id, so that pages neither repeat nor skip.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from banatie.errors import ValidationError
from banatie.limits import MAX_SEARCH_LENGTH
from banatie.records import Generation, Status, TemplateName
from banatie.store.aliases import as_uuid
from banatie.store.database import Database
from banatie.store.generation_rows import SELECT, to_generation

_PHRASE = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))')


@dataclass(frozen=True)
class Filters:
    """Which generations are listed; None: whatever they are."""

    status: Status | None = None
    flow_id: str | None = None
    template: TemplateName | None = None
    model: str | None = None
    favourite: bool | None = None
    search: str | None = None
    """Words of the prompt or of the original prompt."""
    include_deleted: bool = False


@dataclass(frozen=True)
class Position:
    """A place in the list: that of a generation, or the one before all of a millisecond."""

    created_at: int
    generation_id: str | None = None


@dataclass(frozen=True)
class GalleryPage:
    """Some generations of a list, newest first."""

    generations: list[Generation]
    total: int
    """Of the whole list."""
    has_more: bool
    """Whether the list goes on in the direction of reading."""


@dataclass(frozen=True)
class Month:
    """How many generations of a list were created in a month of UTC, such as 2026-11."""

    month: str
    count: int


class Gallery:
    """The lists of generations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        project_id: str,
        filters: Filters,
        *,
        limit: int,
        offset: int = 0,
        before: Position | None = None,
        after: Position | None = None,
    ) -> GalleryPage:
        """A page of the list: from its beginning, or the generations next to a position.

        `before` reads on from there to older ones. `after` alone reads from there to newer ones,
        those next to it first. Raises ValidationError for a search without a word.
        """
        where, parameters = _where(project_id, filters)
        total = self._total(project_id, filters, where, parameters)
        for position, sign in ((before, "<"), (after, ">")):
            if position is not None:
                where, parameters = _bounded(where, parameters, position, sign)
        is_rising = after is not None and before is None
        order = "ASC" if is_rising else "DESC"
        # The inner select is answered by an index alone, so skipped rows are not read.
        rows = self._database.query(
            f"{SELECT} WHERE number IN (SELECT number FROM generations WHERE {where} "
            f"ORDER BY created_at {order}, id {order} LIMIT ? OFFSET ?) "
            f"ORDER BY generations.created_at {order}, generations.id {order}",
            (*parameters, limit + 1, offset),
        )
        found = [to_generation(row) for row in rows[:limit]]
        return GalleryPage(found[::-1] if is_rising else found, total, len(rows) > limit)

    def months(self, project_id: str, filters: Filters) -> list[Month]:
        """How many generations of the list each month has, newest first.

        Raises ValidationError for a search without a word.
        """
        where, parameters = _where(project_id, filters)
        rows = self._database.query(
            "SELECT strftime('%Y-%m', created_at / 1000, 'unixepoch') AS month, count(*) "
            f"FROM generations WHERE {where} GROUP BY month ORDER BY month DESC",
            parameters,
        )
        return [Month(*row) for row in rows]

    def with_pictures(self, project_id: str, ids: Sequence[str]) -> list[Generation]:
        """The project's generations with these ids, in their order, each once.

        Raises ValidationError naming the first that does not exist or has no picture.
        """
        wanted = {as_uuid(each): each for each in ids}
        marks = ", ".join("?" for _ in wanted)
        rows = self._database.query(
            f"{SELECT} WHERE generations.project_id = ? AND generations.id IN ({marks})",
            (project_id, *wanted),
        )
        found = {row["id"]: to_generation(row) for row in rows}
        for known, given in wanted.items():
            if known not in found:
                raise ValidationError.of("ids", f"no generation {given!r}")
            if found[known].image is None:
                raise ValidationError.of("ids", f"{given} has no picture; leave it out")
        return [found[each] for each in wanted if each is not None]

    def _total(
        self, project_id: str, filters: Filters, where: str, parameters: Sequence[object]
    ) -> int:
        counted = Filters(status=filters.status, include_deleted=filters.include_deleted)
        if filters != counted:
            return self._database.scalar(
                f"SELECT count(*) FROM generations WHERE {where}", parameters
            )
        where, values = "project_id = ?", [project_id]
        if filters.status is not None:
            where, values = f"{where} AND status = ?", [*values, filters.status]
        if not filters.include_deleted:
            where = f"{where} AND deleted = 0"
        return self._database.scalar(
            f"SELECT coalesce(sum(generations), 0) FROM generation_counts WHERE {where}", values
        )


def search_expression(text: str) -> str:
    """The FTS5 expression of a search as people type it.

    All words must occur, each as the beginning of a word; "words in quotes" next to each other; a
    -word must not. Raises ValidationError.
    """
    if len(text) > MAX_SEARCH_LENGTH:
        raise ValidationError.of("q", f"has more than {MAX_SEARCH_LENGTH} characters")
    wanted: list[str] = []
    unwanted: list[str] = []
    for minus, quoted, word in _PHRASE.findall(text.replace("\0", " ")):
        phrase = quoted or word
        # What holds no letter or digit is no word to FTS5, and would match nothing.
        if any(character.isalnum() for character in phrase):
            expression = f'"{phrase}"' if quoted else f'"{phrase}"*'
            (unwanted if minus else wanted).append(expression)
    if not wanted:
        raise ValidationError.of("q", "needs a word to look for: letters or digits, without a -")
    return "".join([" AND ".join(wanted), *(f" NOT {each}" for each in unwanted)])


def _where(project_id: str, filters: Filters) -> tuple[str, list[object]]:
    """The condition of the list, with its parameters."""
    conditions = ["project_id = ?"]
    values: list[object] = [project_id]
    for column, value in (
        ("status", filters.status),
        ("flow_id", filters.flow_id),
        ("template", filters.template),
        ("model", filters.model),
    ):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    if filters.favourite is not None:
        # No parameter, so that SQLite sees that the index of favourites will do.
        conditions.append(f"favourite = {int(filters.favourite)}")
    if not filters.include_deleted:
        conditions.append("deleted_at IS NULL")
    if filters.search is not None:
        # The plus keeps SQLite from reading all matches first to sort them: it goes through the
        # list in order instead, and asks of each whether it is among them.
        conditions.append(
            "+number IN (SELECT rowid FROM generation_search WHERE generation_search MATCH ?)"
        )
        values.append(search_expression(filters.search))
    return " AND ".join(conditions), values


def _bounded(
    where: str, parameters: list[object], position: Position, sign: str
) -> tuple[str, list[object]]:
    """The condition with only what is on this side of the position."""
    if position.generation_id is None:
        # A moment stands before all generations of its millisecond.
        sign = ">=" if sign == ">" else sign
        return f"{where} AND created_at {sign} ?", [*parameters, position.created_at]
    return (
        f"{where} AND (created_at, id) {sign} (?, ?)",
        [*parameters, position.created_at, position.generation_id],
    )
