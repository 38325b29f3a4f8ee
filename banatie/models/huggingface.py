"""A client for a Hugging Face hub or a mirror of it: repository listings and file downloads.

Downloads resume with range requests and are retried with exponential backoff; a permanent failure
becomes one line that says what to do. HF_ENDPOINT, HF_TOKEN and the environment's proxies are
respected. Knows no models, and not where a file belongs: that is for `download`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, get_session, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# Documented as public, but not declared as re-exports.
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)

import banatie
from banatie.errors import ModelBroken, ModelError, ModelNotFound

MAX_ATTEMPTS = 5
"""Attempts at a file without receiving one more byte of it."""
MAX_BACKOFF = 8.0
"""Seconds between two attempts."""
TRANSIENT_STATUSES = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which a request is retried."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub, with its size and hashes there."""

    repository: str
    commit: str
    name: str
    bytes: int
    sha256: str = ""
    """Of a large file (LFS, Xet); else empty."""
    git_blob: str = ""
    """The SHA-1 of a file that is stored in git itself; else empty."""


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    repository: str
    commit: str
    licence: str
    files: Mapping[str, RemoteFile]


class Hub:
    """A hub. `endpoint` None: HF_ENDPOINT, or huggingface.co. `pause` sleeps between attempts."""

    def __init__(
        self, endpoint: str | None = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._pause = pause
        self._listings: dict[tuple[str, str], Listing] = {}

    def listing(self, repository: str, revision: str) -> Listing:
        """The files of a repository at a revision. Raises ModelError, with the remedy."""
        key = (repository, revision)
        if key not in self._listings:
            self._listings[key] = self._fetch_listing(repository, revision)
        return self._listings[key]

    def _fetch_listing(self, repository: str, revision: str) -> Listing:
        with self._translate_errors(repository, revision):
            info = HfApi(endpoint=self.endpoint).model_info(
                repository,
                revision=revision,
                files_metadata=True,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            )
            card = info.card_data.to_dict() if info.card_data else {}
            licence = str(card.get("license_name") or card.get("license") or "unknown")
            commit = info.sha or revision
            files = {}
            for sibling in info.siblings or ():
                name, large = sibling.rfilename, sibling.lfs
                size = large.size if large else sibling.size
                if size is None:
                    raise ValueError(f"no size of {name}")
                sha256, blob = (large.sha256, "") if large else ("", sibling.blob_id or "")
                files[name] = RemoteFile(repository, commit, name, size, sha256, blob)
        return Listing(repository, commit, licence, files)

    def read_json(self, file: RemoteFile) -> dict[str, Any]:
        """A small file's content. Raises ModelError, with the remedy."""
        with self._translate_errors(file.repository, file.commit, file.name):
            response = get_session().get(
                self._url(file), headers=_headers(), timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
            hf_raise_for_status(response)
        try:
            content = response.json()
        except ValueError as error:
            raise ModelBroken(f"{file.name} of {file.repository} is not JSON ({error})") from error
        return content if isinstance(content, dict) else {}

    def fetch(self, file: RemoteFile, path: Path, advance: Callable[[int], None]) -> None:
        """Download a file to `path`, resuming after the bytes that are there.

        `advance` is called with each number of bytes received, negative for bytes that had to be
        discarded. Raises ModelError, with the remedy; received bytes are kept.
        """
        path.touch()
        size = largest = path.stat().st_size
        failures = 0
        while size != file.bytes:
            with self._translate_errors(file.repository, file.commit, file.name):
                try:
                    self._stream(file, path, size, advance)
                except (httpx2.TransportError, HfHubHTTPError) as error:
                    last = path.stat().st_size <= largest and failures + 1 == MAX_ATTEMPTS
                    if last or not _is_transient(error):
                        raise
            size = path.stat().st_size
            # Progress is measured by the largest size: a server may restart again and again.
            failures = 0 if size > largest else failures + 1
            largest = max(largest, size)
            if failures == MAX_ATTEMPTS:
                raise ModelError(
                    f"{self.endpoint} sends no more than {largest} of the {file.bytes} bytes of "
                    f"{file.name}; run the command again later"
                )
            if failures:
                self._pause(min(2.0 ** (failures - 1), MAX_BACKOFF))

    def _stream(
        self, file: RemoteFile, path: Path, size: int, advance: Callable[[int], None]
    ) -> None:
        """Append to `path`, which has `size` bytes, what one response brings."""

        def discard() -> None:
            advance(-size)
            path.write_bytes(b"")

        if size > file.bytes:
            discard()
            size = 0
        headers = _headers() | ({"Range": f"bytes={size}-"} if size else {})
        with get_session().stream(
            "GET", self._url(file), headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as response:
            if response.status_code != 416:
                hf_raise_for_status(response)
            content_range = response.headers.get("Content-Range", "bytes 0-")
            if response.status_code == 416 or not content_range.startswith(f"bytes {size}-"):
                discard()
                if response.status_code != 200:
                    return
                size = 0
            with path.open("ab") as opened:
                for chunk in response.iter_bytes():
                    size += len(chunk)
                    if size > file.bytes:
                        raise ModelBroken(
                            f"{self.endpoint} sends more of {file.name} than the {file.bytes} "
                            "bytes that it should have; nothing was installed"
                        )
                    opened.write(chunk)
                    # Received bytes survive a kill of this process.
                    opened.flush()
                    advance(len(chunk))

    def _url(self, file: RemoteFile) -> str:
        return hf_hub_url(file.repository, file.name, revision=file.commit, endpoint=self.endpoint)

    @contextlib.contextmanager
    def _translate_errors(self, repository: str, revision: str, name: str = "") -> Iterator[None]:
        """Turns the hub's failures into ModelErrors: one line that says what to do."""
        what = f"{name} of {repository}" if name else repository
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise ModelError(
                "HF_HUB_OFFLINE is set, which forbids downloads; unset it for this command"
            ) from error
        except GatedRepoError as error:
            raise ModelError(
                f"{repository} is gated: accept its licence on "
                f"https://huggingface.co/{repository}, set HF_TOKEN to a token of that account "
                "(https://huggingface.co/settings/tokens), and run the command again"
            ) from error
        except RepositoryNotFoundError as error:
            raise ModelNotFound(
                f"{self.endpoint} has no repository {repository}, or it is private (then set "
                "HF_TOKEN)"
            ) from error
        except RevisionNotFoundError as error:
            raise ModelNotFound(f"{repository} has no revision {revision}") from error
        except RemoteEntryNotFoundError as error:
            raise ModelNotFound(f"{repository} has no {name} at {revision}") from error
        except HFValidationError as error:
            raise ModelNotFound(
                f"{repository!r} is not a repository's name; use OWNER/REPOSITORY"
            ) from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                hint = (
                    "HF_TOKEN may be wrong or lack read access" if get_token() else "set HF_TOKEN"
                )
                raise ModelError(f"{self.endpoint} refuses {what} ({status}); {hint}") from error
            remedy = (
                "run the command again later to resume"
                if status in TRANSIENT_STATUSES
                else "check whether HF_ENDPOINT is a hub"
            )
            raise ModelError(f"{self.endpoint} answers {status} for {what}; {remedy}") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ModelError(
                f"{self.endpoint} cannot be reached ({_reason(error)}); check the network and "
                "the proxy, set HF_ENDPOINT to a mirror, or copy the model from another machine "
                "with: banatie models export, banatie models import"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{self.endpoint} does not answer like a hub; check HF_ENDPOINT"
            ) from error


def _headers() -> dict[str, str]:
    headers = build_hf_headers(library_name="banatie", library_version=banatie.__version__)
    # A compressed transfer could not be resumed in the middle.
    return {**headers, "Accept-Encoding": "identity"}


def _is_transient(error: httpx2.TransportError | HfHubHTTPError) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT_STATUSES
    return not isinstance(error, httpx2.UnsupportedProtocol | httpx2.ProxyError)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
