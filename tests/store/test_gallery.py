"""The lists of generations: filters, search, positions, months, and how they are found."""

from __future__ import annotations

import pytest

from banatie.errors import ValidationError
from banatie.store.gallery import Filters, Gallery, Month, Position, search_expression

DAY = 86_400_000


@pytest.fixture
def gallery(database):
    return Gallery(database)


def ids(page):
    return [generation.id for generation in page.generations]


def test_pages_neither_repeat_nor_skip_when_times_are_equal(submit, gallery, project_id):
    made = {submit(now=5).id for _ in range(7)}
    seen = []
    for offset in range(0, 8, 2):
        page = gallery.page(project_id, Filters(), limit=2, offset=offset)
        assert (page.total, page.has_more) == (7, offset < 6)
        seen += ids(page)
    assert len(seen) == 7
    assert set(seen) == made
    assert seen == sorted(seen, reverse=True)


def test_positions_read_on_in_both_directions(submit, gallery, project_id):
    for now in (1, 2, 2, 2, 3, 4):
        submit(now=now)
    whole = gallery.page(project_id, Filters(), limit=9).generations
    for index, generation in enumerate(whole):
        place = Position(generation.created_at, generation.id)
        page = gallery.page(project_id, Filters(), limit=2, before=place)
        assert page.generations == whole[index + 1 : index + 3]
        assert (page.total, page.has_more) == (6, index + 3 < 6)
        page = gallery.page(project_id, Filters(), limit=2, after=place)
        assert page.generations == whole[max(0, index - 2) : index]
        assert page.has_more == (index > 2)
    between = gallery.page(project_id, Filters(), limit=9, before=Position(4), after=Position(2))
    assert between.generations == whole[1:5]


def test_the_filters_and_their_combinations(
    submit, claims, generations, gallery, project_id, database
):
    old, new = submit(now=1, auto_enhance=False), submit("a dog", now=2, template="comic")
    claims.claim("paint", 3)
    with database.writing() as connection:
        connection.execute(
            "UPDATE generations SET favourite = 1, model = 'm' WHERE id = ?", [old.id]
        )

    def found(**filters):
        page = gallery.page(project_id, Filters(**filters), limit=9)
        assert page.total == len(page.generations)
        return ids(page)

    assert found() == [new.id, old.id]
    assert found(status="processing") == [old.id]
    assert found(template="comic") == [new.id]
    assert found(favourite=True) == found(model="m") == [old.id]
    assert found(favourite=False) == [new.id]
    assert found(favourite=True, template="comic") == found(model="other") == []
    assert found(search="dog", template="comic") == [new.id]
    assert found(flow_id="00000000-0000-4000-8000-000000000001") == []
    generations.soft_delete(project_id, new.id, 4)
    assert found(search="dog") == []
    assert found(search="dog", include_deleted=True) == [new.id]


def test_a_search_follows_every_change_of_a_prompt(
    submit, claims, generations, gallery, project_id
):
    made = submit("Ein Füchslein, rot")

    def found(text):
        return ids(gallery.page(project_id, Filters(search=text), limit=9))

    assert found("FUCHS") == found('"fuchslein rot"') == found("rot -blau") == [made.id]
    assert found("blau") == found('"rot fuchslein"') == found("ein -rot") == []
    claims.claim("enhance", 2)
    claims.finish_enhancement(made.id, prompt="a red fox, snow", note=None, warning=None, now=3)
    assert found("snow fuchslein") == [made.id]
    generations.delete(project_id, made.id, 4)
    assert found("snow") == []


def test_other_projects_are_not_found(submit, gallery, keys):
    submit("a dog")
    other = keys.authenticate(keys.create("other", 0, project_slug="other")).project.id
    assert gallery.page(other, Filters(search="dog"), limit=9).total == 0
    assert gallery.months(other, Filters()) == []


@pytest.mark.parametrize("text", ["", " ", "🦊", "-dog", '""', "\0", "a" * 201])
def test_a_search_for_nothing_is_refused(text):
    with pytest.raises(ValidationError):
        search_expression(text)


@pytest.mark.parametrize(
    "text",
    ['"', 'dog"', "dog AND", "NEAR(dog cat)", "prompt:dog", "dog*", "^dog", "(dog", "{dog", "a'b"],
)
def test_no_search_is_read_as_syntax(submit, gallery, project_id, text):
    submit("a dog")
    if any(character.isalnum() for character in text):
        assert gallery.page(project_id, Filters(search=text), limit=9).total <= 1


def test_a_long_search_is_not_too_deep(gallery, project_id):
    text = " ".join("a" for _ in range(100))
    assert gallery.page(project_id, Filters(search=text), limit=9).total == 0


def test_months_count_what_the_filters_list(submit, gallery, project_id):
    for day in (0, 30, 31, 31, 365):
        submit(f"day {day}", now=day * DAY)
    assert gallery.months(project_id, Filters()) == [
        Month("1971-01", 1),
        Month("1970-02", 2),
        Month("1970-01", 2),
    ]
    assert gallery.months(project_id, Filters(search="31")) == [Month("1970-02", 2)]


def test_only_generations_with_pictures_are_packed(submit, paint, generations, gallery, project_id):
    bare = submit(auto_enhance=False)
    with pytest.raises(ValidationError, match="has no picture"):
        gallery.with_pictures(project_id, [bare.id])
    painted = paint("00000000-0000-4000-8000-000000000001")
    found = gallery.with_pictures(project_id, [painted.id, painted.id.upper()])
    assert found == [generations.find(painted.id)]
    for unknown in ("x", "00000000-0000-4000-8000-000000000009"):
        with pytest.raises(ValidationError, match=unknown):
            gallery.with_pictures(project_id, [painted.id, unknown])


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        (Filters(), "generations_listed"),
        (Filters(status="success"), "generations_listed_by_status"),
        (Filters(favourite=True), "generations_favourite"),
        (Filters(template="comic"), "generations_by_template"),
        (Filters(model="m"), "generations_by_model"),
        (Filters(search="dog"), "generations_listed"),
        (Filters(search="dog", template="comic"), "generations_by_template"),
    ],
)
def test_each_list_is_read_in_order_from_an_index(database, gallery, project_id, filters, index):
    plans = []

    def explain(statement):
        if statement.startswith("\n    SELECT"):
            plans.append(statement)

    connection = database._connection()
    connection.set_trace_callback(explain)
    gallery.page(project_id, filters, limit=9, before=Position(5, "x"))
    connection.set_trace_callback(None)
    [statement] = plans
    steps = [row["detail"] for row in database.query(f"EXPLAIN QUERY PLAN {statement}")]
    assert any(f" INDEX {index} (" in step for step in steps), steps
    # Only the page itself is sorted, which the inner select has found already.
    assert sum("TEMP B-TREE" in step for step in steps) <= 1, steps
