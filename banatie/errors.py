"""The error tree: every failure Banatie raises on purpose, drawn at the top.

    BanatieError
    ├── ConfigError             a setting is wrong; the message names it and the remedy
    ├── ValidationError         a request's parameter is wrong (`details` lists the fields)
    ├── Unauthorized            the API key is missing or invalid
    ├── Forbidden               the API key, or the caller, may not do this
    ├── GenerationNotFound      no such generation in this project
    ├── ImageNotFound           no such image in this project
    ├── FlowNotFound            no such flow in this project
    ├── AliasNotFound           no image has this alias
    ├── AliasConflict           another image has this alias
    ├── PayloadTooLarge         an uploaded file is too large
    ├── NotFound                no such resource
    ├── ScopeNotFound           no such scope in this project
    ├── ScopeAlreadyExists      the project has a scope of that name
    ├── ScopeInvalidFormat      a scope cannot be called that
    ├── ImageNotInScope         the image is not one of that scope
    ├── RateLimitExceeded       the key's requests for this hour are used up
    ├── TooManyNewImages        live URLs have made too many new images in this hour
    ├── TooManyFailedKeys        too many unknown keys were tried from one address
    ├── RequestTimeout          the request's body did not arrive in time
    ├── UnsupportedMediaType    the request's body is not JSON
    ├── QueueFull               as many generations wait as the configuration allows
    ├── GenerationFailed        a generation that was waited for has failed
    ├── RequestFailed           the server has refused a request of `client`
    ├── ServerUnreachable       no server answers `client`
    ├── ServiceUnavailable      the worker or the database is gone
    │   ├── StillGenerating     a live URL's image is not finished yet
    │   ├── DiskFull            the data folder's disk has no room
    │   └── DatabaseGone        the database's file was deleted or replaced while in use
    ├── DataFolderBusy          another process holds the data folder
    ├── DataFolderUnusable      the data folder cannot be written, or holds what must not be lost
    ├── DatabaseUnusable        not a Banatie database
    │   └── DatabaseDamaged     the file is damaged
    ├── BackupUnusable          not a Banatie backup, or incomplete
    ├── ModelError              a model cannot be found, loaded or used
    │   ├── ModelNotFound       no such folder or catalog name
    │   └── ModelBroken         the files are there, but not what they should be
    └── PaintingError           the pipeline ran and gave no usable picture
        ├── OutOfMemory         the device's memory did not suffice
        └── UnusablePicture     not a number came out, even in full precision

An error carries a stable `code` (see docs/api.md) and its facts. It knows nothing of HTTP:
`api/error_codes` alone maps codes to statuses.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one parameter of a request."""

    field: str
    message: str


class BanatieError(Exception):
    """An expected failure; its message can be shown to the user."""

    code = "INTERNAL_ERROR"


class ConfigError(BanatieError):
    """A setting is missing, unknown or of the wrong kind."""

    code = "CONFIG_ERROR"


class ValidationError(BanatieError):
    """A parameter is missing, of the wrong type, out of range or unknown in an enumeration."""

    code = "VALIDATION_ERROR"

    def __init__(self, message: str, details: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.details = details

    @classmethod
    def of(cls, field: str, message: str) -> ValidationError:
        """The error of one field: `field: message`."""
        return cls(f"{field}: {message}", (FieldError(field, message),))


class Unauthorized(BanatieError):
    """No key was given, or it is unknown, revoked or expired."""

    code = "UNAUTHORIZED"


class Forbidden(BanatieError):
    """The API key, or whoever asks without one, may not do this."""

    code = "FORBIDDEN"


class NotFound(BanatieError):
    """Nothing by that name or id."""

    code = "NOT_FOUND"


class GenerationNotFound(BanatieError):
    """No such generation in this project."""

    code = "GENERATION_NOT_FOUND"

    def __init__(self, generation_id: str) -> None:
        super().__init__(f"No generation with the id {generation_id!r}")
        self.generation_id = generation_id


class ImageNotFound(BanatieError):
    """No such image in this project."""

    code = "IMAGE_NOT_FOUND"

    def __init__(self, image_id: str) -> None:
        super().__init__(f"No image with the id {image_id!r}")


class FlowNotFound(BanatieError):
    """No such flow in this project."""

    code = "FLOW_NOT_FOUND"

    def __init__(self, flow_id: str) -> None:
        super().__init__(
            f"No flow with the id {flow_id!r}; a flow is made when its id is used a second time"
        )


class AliasNotFound(BanatieError):
    """No image has this alias."""

    code = "ALIAS_NOT_FOUND"

    def __init__(self, alias: str) -> None:
        super().__init__(f"No image has the alias {alias!r} here")


class AliasConflict(BanatieError):
    """Another image has this alias."""

    code = "ALIAS_CONFLICT"

    def __init__(self, alias: str) -> None:
        super().__init__(
            f"Another image of this project has the alias {alias!r}; remove it there first, or "
            "choose another one"
        )


class PayloadTooLarge(BanatieError):
    """An uploaded file is too large."""

    code = "PAYLOAD_TOO_LARGE"


class ScopeNotFound(BanatieError):
    """No such scope in this project."""

    code = "SCOPE_NOT_FOUND"

    def __init__(self, slug: str) -> None:
        super().__init__(f"No scope {slug!r} in this project")


class ScopeAlreadyExists(BanatieError):
    """The project has a scope of that name."""

    code = "SCOPE_ALREADY_EXISTS"

    def __init__(self, slug: str) -> None:
        super().__init__(f"There is a scope {slug!r} in this project already")


class ScopeInvalidFormat(BanatieError):
    """A scope cannot be called that."""

    code = "SCOPE_INVALID_FORMAT"

    def __init__(self) -> None:
        super().__init__("A scope's slug takes letters A to Z, digits, _ and -, up to 100")


class ImageNotInScope(BanatieError):
    """The image is not one of that scope."""

    code = "IMAGE_NOT_IN_SCOPE"

    def __init__(self, image_id: str, slug: str) -> None:
        super().__init__(f"No image {image_id!r} in the scope {slug!r}")


class RateLimitExceeded(BanatieError):
    """The key's requests for this hour are used up."""

    code = "RATE_LIMIT_EXCEEDED"

    def __init__(self, limit: int, retry_after: int) -> None:
        super().__init__(
            f"More than {limit} requests in this hour; try again in {retry_after} seconds. The "
            "setting is limits.requests_per_hour; `banatie keys create --name NAME "
            "--requests-per-hour 0` makes a key without a limit"
        )
        self.retry_after = retry_after


class TooManyNewImages(BanatieError):
    """Live URLs have made as many new images in this hour as may be."""

    code = "RATE_LIMIT_EXCEEDED"

    def __init__(self, where: str, limit: int, milliseconds: int) -> None:
        self.retry_after = -(-milliseconds // 1000)
        super().__init__(
            f"More than {limit} new images {where} in this hour; try again in {self.retry_after} "
            "seconds. Images that exist are still served"
        )


class TooManyFailedKeys(BanatieError):
    """Too many unknown keys were tried from one address."""

    code = "RATE_LIMIT_EXCEEDED"

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many unknown API keys; try again in {retry_after} seconds")
        self.retry_after = retry_after


class RequestTimeout(BanatieError):
    """The request's body did not arrive in time."""

    code = "REQUEST_TIMEOUT"


class UnsupportedMediaType(BanatieError):
    """The request's body is not declared as JSON."""

    code = "UNSUPPORTED_MEDIA_TYPE"


class QueueFull(BanatieError):
    """As many generations wait as the configuration allows."""

    code = "QUEUE_FULL"

    def __init__(self, queue_size: int, retry_after: int) -> None:
        super().__init__(
            f"{queue_size} generations are waiting already; try again in {retry_after} seconds"
        )
        self.retry_after = retry_after


class GenerationFailed(BanatieError):
    """A generation that the client waited for has failed; `details` is its record."""

    code = "GENERATION_FAILED"

    def __init__(self, message: str, details: object) -> None:
        super().__init__(message)
        self.details = details


class RequestFailed(BanatieError):
    """The server has refused a request of `client`; the code is the answer's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServerUnreachable(BanatieError):
    """No server answers at the address that `client` was given."""

    code = "SERVER_UNREACHABLE"


class ServiceUnavailable(BanatieError):
    """The worker or the database is gone."""

    code = "SERVICE_UNAVAILABLE"


class StillGenerating(ServiceUnavailable):
    """The image of a live URL is not finished yet."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("The image is still being made; ask again in a few seconds")
        self.retry_after = retry_after


class DiskFull(ServiceUnavailable):
    """The disk of the data folder has no room."""

    def __init__(self) -> None:
        super().__init__("The disk of the data folder is full; delete pictures or free disk space")


class DatabaseGone(ServiceUnavailable):
    """The database's file was deleted or replaced while it was in use."""

    def __init__(self) -> None:
        super().__init__(
            "The database was deleted or replaced while it was in use; put it back, or restart the "
            "server"
        )


class DataFolderBusy(BanatieError):
    """Another process holds the data folder."""

    code = "DATA_FOLDER_BUSY"


class DataFolderUnusable(BanatieError):
    """The data folder cannot be written, or holds what must not be lost."""

    code = "DATA_FOLDER_UNUSABLE"


class DatabaseUnusable(BanatieError):
    """The database's file is no database, or not one of Banatie's."""

    code = "DATABASE_UNUSABLE"


class DatabaseDamaged(DatabaseUnusable):
    """The database's file has been damaged."""


class BackupUnusable(BanatieError):
    """The file is no backup of Banatie's, or it is damaged or incomplete."""

    code = "BACKUP_UNUSABLE"


class ModelError(BanatieError):
    """A model cannot be found, loaded or used."""

    code = "MODEL_ERROR"


class ModelNotFound(ModelError):
    """Neither a folder nor a name in the catalog, or the catalog's model is not here yet."""


class ModelBroken(ModelError):
    """The files are there, but they are not what they should be."""


class PaintingError(BanatieError):
    """The pipeline ran and gave no usable picture."""

    code = "PAINTING_ERROR"


class OutOfMemory(PaintingError):
    """The device's memory did not suffice."""

    code = "OUT_OF_MEMORY"


class UnusablePicture(PaintingError):
    """Not a number came out of the decoder, even in full precision."""

    code = "UNUSABLE_PICTURE"
