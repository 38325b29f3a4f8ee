"""A Hugging Face hub, or a mirror of it, that is asked over HTTP: what it has, and file by file.

A file goes on where an interruption left it, and a connection that breaks is tried again; what goes
wrong for good becomes one line that says what to do. HF_ENDPOINT, HF_TOKEN and the environment's
proxies are respected. Knows no model, and not where a file goes: that is for `bring`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

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
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

import banatie
from banatie.errors import ModelBroken, ModelError, ModelNotFound

ATTEMPTS = 5
"""So often a file is asked for while not one more byte of it comes."""
LONGEST_PAUSE = 8.0
"""Seconds between two attempts."""
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""What a server answers that may answer better in a moment."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub, and by what it is known there."""

    repository: str
    commit: str
    name: str
    bytes: int
    sha256: str = ""
    """Of a large file (LFS, Xet)."""
    git_blob: str = ""
    """Of a file that git itself keeps: its SHA-1 there."""


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    repository: str
    commit: str
    licence: str
    files: Mapping[str, RemoteFile]


class Hub:
    """A hub; `endpoint` None: HF_ENDPOINT's, or huggingface.co."""

    def __init__(
        self, endpoint: str | None = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._pause = pause
        self._listings: dict[tuple[str, str], Listing] = {}

    def look(self, repository: str, revision: str) -> Listing:
        """What the repository holds at this revision. Raises ModelError, with the remedy."""
        asked = (repository, revision)
        if asked not in self._listings:
            self._listings[asked] = self._look(repository, revision)
        return self._listings[asked]

    def _look(self, repository: str, revision: str) -> Listing:
        with self._explained(repository, revision):
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

    def read_json(self, file: RemoteFile) -> dict:
        """A small file's content. Raises ModelError, with the remedy."""
        with self._explained(file.repository, file.commit, file.name):
            answer = get_session().get(
                self._url(file), headers=_headers(), timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
            hf_raise_for_status(answer)
        try:
            content = answer.json()
        except ValueError as error:
            raise ModelBroken(f"{file.name} of {file.repository} is not JSON ({error})") from error
        return content if isinstance(content, dict) else {}

    def fetch(self, file: RemoteFile, into: Path, advance: Callable[[int], None]) -> None:
        """Bring `into` to the file's full length, from where it stands.

        `advance` is told how many bytes came, or how many were lost (below zero). Raises
        ModelError, with the remedy, when no more of it can be had; what came is kept.
        """
        into.touch()
        have = most = into.stat().st_size
        failures = 0
        while have != file.bytes:
            with self._explained(file.repository, file.commit, file.name):
                try:
                    self._stream(file, into, have, advance)
                except (httpx2.TransportError, HfHubHTTPError) as error:
                    stuck = into.stat().st_size <= most and failures + 1 == ATTEMPTS
                    if stuck or not _may_pass(error):
                        raise
            have = into.stat().st_size
            # More than ever: a server may begin anew again and again.
            failures = 0 if have > most else failures + 1
            most = max(most, have)
            if failures == ATTEMPTS:
                raise ModelError(
                    f"{self.endpoint} sends no more of {file.name} than {most} of {file.bytes} "
                    "bytes; run the command again later"
                )
            if failures:
                self._pause(min(2.0 ** (failures - 1), LONGEST_PAUSE))

    def _stream(
        self, file: RemoteFile, into: Path, have: int, advance: Callable[[int], None]
    ) -> None:
        def begin_anew() -> None:
            advance(-have)
            into.write_bytes(b"")

        if have > file.bytes:
            begin_anew()
            have = 0
        headers = _headers() | ({"Range": f"bytes={have}-"} if have else {})
        with get_session().stream(
            "GET", self._url(file), headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as answer:
            if answer.status_code != 416:
                hf_raise_for_status(answer)
            sent_from = answer.headers.get("Content-Range", "bytes 0-")
            if answer.status_code == 416 or not sent_from.startswith(f"bytes {have}-"):
                begin_anew()
                if answer.status_code != 200:
                    return
                have = 0
            with into.open("ab") as opened:
                for chunk in answer.iter_bytes():
                    have += len(chunk)
                    if have > file.bytes:
                        raise ModelBroken(
                            f"{self.endpoint} sends more of {file.name} than the {file.bytes} "
                            "bytes that it should have; nothing was installed"
                        )
                    opened.write(chunk)
                    # What has come is kept, even if this process is killed now.
                    opened.flush()
                    advance(len(chunk))

    def _url(self, file: RemoteFile) -> str:
        return hf_hub_url(file.repository, file.name, revision=file.commit, endpoint=self.endpoint)

    @contextlib.contextmanager
    def _explained(self, repository: str, revision: str, name: str = "") -> Iterator[None]:
        """Turns what goes wrong with the hub into one line that says what to do."""
        what = f"{name} of {repository}" if name else repository
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise ModelError(
                "HF_HUB_OFFLINE is set, so nothing may be fetched; unset it for this command"
            ) from error
        except GatedRepoError as error:
            raise ModelError(
                f"{repository} is given only to those who have accepted its licence: do so on "
                f"https://huggingface.co/{repository}, set HF_TOKEN to a token of that account "
                "(https://huggingface.co/settings/tokens), and run the command again"
            ) from error
        except RepositoryNotFoundError as error:
            raise ModelNotFound(
                f"{self.endpoint} has no repository {repository}, or shows it only to those who "
                "may see it (then set HF_TOKEN)"
            ) from error
        except RevisionNotFoundError as error:
            raise ModelNotFound(f"{repository} has no revision {revision}") from error
        except RemoteEntryNotFoundError as error:
            raise ModelNotFound(f"{repository} has no {name} at {revision}") from error
        except HFValidationError as error:
            raise ModelNotFound(f"{repository!r} is not a repository's name") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                hint = (
                    "HF_TOKEN may be wrong or lack the right to read"
                    if get_token()
                    else ("set HF_TOKEN")
                )
                raise ModelError(f"{self.endpoint} refuses {what} ({status}); {hint}") from error
            remedy = (
                "run the command again later: it goes on where it stopped"
                if status in BUSY
                else "look whether HF_ENDPOINT is a hub"
            )
            raise ModelError(
                f"{self.endpoint} answers {status} when asked for {what}; {remedy}"
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ModelError(
                f"{self.endpoint} cannot be reached ({_reason(error)}); look at the network and "
                "the proxy, set HF_ENDPOINT to a mirror, or carry the model over from another "
                "machine: banatie models export, banatie models import"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{self.endpoint} does not answer like a hub; look at HF_ENDPOINT"
            ) from error


def _headers() -> dict[str, str]:
    headers = build_hf_headers(library_name="banatie", library_version=banatie.__version__)
    # Compressed, a file could not be gone on with in the middle.
    return {**headers, "Accept-Encoding": "identity"}


def _may_pass(error: httpx2.TransportError | HfHubHTTPError) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in BUSY
    return not isinstance(error, httpx2.UnsupportedProtocol | httpx2.ProxyError)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
