"""What can be done with live URLs and their scopes: images that are made when first asked for.

Whatever the protocol, as in `intake`, which accepts the generations. Every method may wait for the
disk, so the API calls them in threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import msgspec

from banatie.checks import SubmissionChecks
from banatie.config import LiveSettings
from banatie.errors import Forbidden, GenerationNotFound, ScopeInvalidFormat
from banatie.intake import Intake
from banatie.limits import MAX_SCOPE_SLUG_LENGTH
from banatie.records import AspectRatio, Generation, Scope, Submission, TemplateName
from banatie.store.live_images import LiveImage, LiveImages, LiveRequest
from banatie.store.projects import Projects
from banatie.store.scopes import Scopes

SCOPE_SLUG = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_SCOPE_SLUG_LENGTH}}}", re.ASCII)


@dataclass(frozen=True)
class LiveQuery:
    """What a live URL asks for; two that are equal have one image."""

    organization_slug: str
    project_slug: str
    scope_slug: str
    prompt: str
    aspect_ratio: AspectRatio = "1:1"
    auto_enhance: bool = True
    template: TemplateName = "general"

    def key(self) -> str:
        """What the image is found by."""
        return hashlib.sha256(msgspec.json.encode(astuple(self))).hexdigest()


class Live:
    """What can be done with live URLs and their scopes."""

    def __init__(
        self,
        intake: Intake,
        checks: SubmissionChecks,
        projects: Projects,
        scopes: Scopes,
        images: LiveImages,
        settings: LiveSettings,
        clock: Callable[[], int],
    ) -> None:
        self._intake = intake
        self._checks = checks
        self._projects = projects
        self._scopes = scopes
        self._images = images
        self._settings = settings
        self._clock = clock

    def find(self, wanted: LiveQuery) -> LiveImage | None:
        """The image, if it is there; one look into the database."""
        return self._images.find(wanted.key())

    def request(
        self, wanted: LiveQuery, admit: Callable[[], None], request_id: str | None = None
    ) -> Generation:
        """The generation that makes the image, submitted if no earlier request has done so.

        `admit` is called before a new one is submitted and may raise to refuse it. Raises
        ScopeInvalidFormat, NotFound (no such project), ScopeNotFound, Forbidden, TooManyNewImages
        and what `Intake.submit` raises.
        """
        check_slug(wanted.scope_slug)
        project = self._projects.called(wanted.organization_slug, wanted.project_slug)

        def admit_new() -> None:
            if not self._settings.generate:
                raise Forbidden("Live URLs make no new images here (the setting is live.generate)")
            admit()

        submission = Submission(
            prompt=wanted.prompt,
            aspect_ratio=wanted.aspect_ratio,
            auto_enhance=wanted.auto_enhance,
            template=wanted.template,
        )
        live = LiveRequest(
            wanted.key(),
            project.id,
            wanted.scope_slug,
            self._settings.new_per_hour_scope,
            admit_new,
        )
        submitted = self._intake.submit(project.id, submission, request_id=request_id, live=live)
        if submitted.generation is None:
            raise GenerationNotFound(wanted.key())
        return submitted.generation

    # Scopes

    def create_scope(
        self,
        project_id: str,
        slug: str,
        *,
        allow_new_generations: bool = True,
        new_generations_limit: int | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Scope:
        """Create a scope. Raises ScopeInvalidFormat, ScopeAlreadyExists and ValidationError."""
        check_slug(slug)
        self._checks.check_meta(meta or {})
        return self._scopes.create(
            project_id,
            slug,
            allow_new_generations=allow_new_generations,
            new_generations_limit=new_generations_limit,
            meta=meta or {},
            now=self._clock(),
        )

    def scope(self, project_id: str, slug: str) -> Scope:
        """The project's scope. Raises ScopeNotFound."""
        return self._scopes.get(project_id, slug)

    def scopes(
        self, project_id: str, *, slug: str | None, limit: int, offset: int
    ) -> tuple[list[Scope], int]:
        """A page of the project's scopes, newest first, and their number in all."""
        return self._scopes.page(project_id, slug=slug, limit=limit, offset=offset)

    def change_scope(self, project_id: str, slug: str, changes: Mapping[str, Any]) -> Scope:
        """Set the given fields of the scope. Raises ScopeNotFound and ValidationError."""
        if "meta" in changes:
            self._checks.check_meta(changes["meta"])
        return self._scopes.change(project_id, slug, self._clock(), changes)

    def regenerate(self, project_id: str, slug: str, image_id: str | None) -> list[Generation]:
        """Make the scope's images again, or one of them; each is served as it is until then.

        Raises ScopeNotFound, ImageNotInScope, and QueueFull when the rest of them has no room.
        """
        scope = self._scopes.get(project_id, slug)
        again = []
        for generation_id in self._scopes.generations(scope, image_id, only_finished=True):
            # It may have been deleted just now, or lie in the bin.
            with contextlib.suppress(GenerationNotFound):
                again.append(self._intake.regenerate(project_id, generation_id))
        return again

    def delete_scope(self, project_id: str, slug: str) -> None:
        """Delete the scope with its generations and their images. Raises ScopeNotFound."""
        scope = self._scopes.get(project_id, slug)
        # The scope last: after a crash in between the request can be repeated.
        for generation_id in self._scopes.generations(scope):
            with contextlib.suppress(GenerationNotFound):
                self._intake.delete(project_id, generation_id)
        self._scopes.delete(project_id, slug)

    def new_limit(self, scope: Scope) -> int:
        """How many new images an hour the scope takes."""
        return scope.new_generations_limit or self._settings.new_per_hour_scope


def check_slug(slug: str) -> None:
    """Raise ScopeInvalidFormat if no scope can be called that."""
    if not SCOPE_SLUG.fullmatch(slug):
        raise ScopeInvalidFormat
