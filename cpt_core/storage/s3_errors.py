"""What went wrong on S3: whether it passes by itself, and what to tell the user.

In: an exception of s3fs, botocore or aiohttp.
Out: a code, a judgement, a sentence.
Never: repeats a secret.
"""

from typing import Any

from aiohttp import ClientError as BrokenHttp
from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

from cpt_core.redaction import redacted

_BROKEN = (
    BrokenHttp,
    ChecksumError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoConnection,
    ResponseParserError,
    TimeoutError,
)
_PASSING_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "NoSuchUpload",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "XAmzContentSHA256Mismatch",
}
_PASSING_STATUSES = {408, 409, 429}
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)
_NAME_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_WRONG = ("the credentials are wrong", f"check {_NAME_CREDENTIALS}")
_EXPIRED = ("the credentials have expired", "renew them and run again; what is committed is kept")
_DENIED = (
    "access is denied",
    f"check {_NAME_CREDENTIALS}, and that they permit to list and read, and for a store to write, there",
)
_EXPLAINED = {
    "InvalidAccessKeyId": _WRONG,
    "SignatureDoesNotMatch": _WRONG,
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestTimeTooSkewed": ("this machine's clock differs from the server's", "set the clock and run again"),
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "403": _DENIED,
    "NoSuchBucket": ("the bucket does not exist", "create it, or correct the URI or AWS_ENDPOINT_URL"),
}


def code_of(error: BaseException) -> str:
    """The service's own code of an error, such as ``NoSuchBucket``; empty when the error is not the service's."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def is_from_library(error: Exception) -> bool:
    """Whether this is the service's or the network's failure and not our own mistake."""
    libraries = OSError | BotoCoreError | BrokenHttp | ResponseParserError
    return isinstance(error, libraries) or bool(code_of(error)) or _is_bad_endpoint(error)


def is_absence(error: Exception) -> bool:
    """Whether there is no such object, in a bucket that exists."""
    return isinstance(error, FileNotFoundError) and code_of(error) in ("", "404", "NoSuchKey", "NoSuchVersion")


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status:
        return status >= 500 or status in _PASSING_STATUSES or code_of(error) in _PASSING_CODES
    return isinstance(error, _BROKEN)


def is_precondition(error: Exception) -> bool:
    """Whether the object is not, or no longer, what the request supposed."""
    return code_of(error) in ("PreconditionFailed", "412")


def explain(error: Exception) -> str:
    """Reason and remedy as one clause."""
    reason, remedy = _EXPLAINED.get(code_of(error)) or _explain_library(error)
    code = f" ({code_of(error)})" if code_of(error) else ""
    return f"{reason}{code}; {remedy}"


def _explain_library(error: Exception) -> tuple[str, str]:
    text = " ".join(redacted(str(error)).split()).rstrip(".") or type(error).__name__
    if isinstance(error, _NO_CREDENTIALS):
        return text, f"set {_NAME_CREDENTIALS}"
    if isinstance(error, ParamValidationError):
        return text, "correct the URI"
    if isinstance(error, NoConnection) or _is_bad_endpoint(error):
        return text, "check AWS_ENDPOINT_URL and the network, then run again"
    return text, "check the service and the network, then run again"


def _is_bad_endpoint(error: Exception) -> bool:
    return isinstance(error, ValueError) and str(error).startswith("Invalid endpoint")  # botocore has no class for it


def _answer(error: BaseException | None) -> dict[str, Any]:
    """The service's answer, from the error itself or from what it was made of."""
    while error is not None:
        if isinstance(answer := getattr(error, "response", None), dict):
            return answer
        error = error.__cause__
    return {}
