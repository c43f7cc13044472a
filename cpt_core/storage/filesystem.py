"""From a URI to a file system: the one place that knows fsspec."""

import errno
import functools
import hashlib
import os
from typing import IO, Any

import fsspec

from cpt_core.errors import ConfigError, CptError, StoreError
from cpt_core.redaction import secret_in

CHUNK_BYTES = 1 << 20
_S3_PREFIXES = ("s3://", "s3a://")
_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


def filesystem_of(uri: str, failure: type[CptError] = StoreError) -> tuple[Any, str]:
    """The file system of a URI, and the path in it.

    Args:
        uri: a local path, or any URI that fsspec knows.
        failure: the class of error that this file system raises when it does not answer.

    Raises:
        ConfigError: when the URI carries a password or a signature, which would end up in records and logs.
        StoreError: when no file system knows the URI.
    """
    if not uri or "\0" in uri:
        raise StoreError(f"{uri!r}: is no path; expected a local path or a URI that fsspec knows, such as s3://")
    if problem := secret_in(uri):
        raise ConfigError(problem)
    if uri.startswith(_S3_PREFIXES):
        return _s3_of(uri, failure)
    try:
        system, path = fsspec.url_to_fs(uri, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise StoreError(f"{uri}: {error}; expected a local path or a URI that fsspec knows, such as s3://") from error
    return system, path


def glob_pattern(glob: str) -> str:
    """The regular expression of a glob, in which ``**`` stands for folders at every depth."""
    return str(fsspec.utils.glob_translate(glob))


def _s3_of(uri: str, failure: type[CptError]) -> tuple[Any, str]:
    from cpt_core.storage.s3 import S3  # s3fs takes half a second to import

    system = _s3_client(os.getpid(), tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))
    path = system._strip_protocol(uri)
    if not path:
        raise failure(f"{uri}: names no bucket; expected s3://bucket/folder")
    return S3(system, failure), path


@functools.cache
def _s3_client(pid: int, settings: tuple[tuple[str, str], ...]) -> Any:
    """One client for all threads of a process; botocore reads the settings when the client is made."""
    from cpt_core.storage.s3 import new_client

    return new_client()


def is_local(system: Any) -> bool:
    """Whether the files are paths of this machine."""
    return "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def reason_of(error: OSError) -> str:
    """What went wrong, in words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return error.strerror or str(error) or type(error).__name__


def passes_by_itself(error: Exception) -> bool:
    """Whether a file server or the network may be back a little later."""
    return isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno in _PASSING)


def sha256_of(stream: IO[bytes]) -> str:
    """sha256 of the rest of a stream, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
