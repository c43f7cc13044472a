"""S3 that does what it says: an s3fs file system behind bounded retries, with errors of one line.

In: paths ``bucket/key``.
Out: what s3fs answers, never from a cache of listings.
Promise: a request that broke is repeated with jitter, inside botocore and, where only the whole operation can be
repeated, here; a body that ends early is never taken for the object; whatever remains is one ``CptError``.
Never: takes credentials from anywhere but botocore's own places, or quotes them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import s3fs
from aiobotocore.session import AioSession
from botocore.handlers import add_expect_header

from cpt_core.errors import CptError, InputChangedError, InputError
from cpt_core.storage.retrying import retried
from cpt_core.storage.s3_errors import explain, is_absence, is_from_library, is_precondition, is_transient

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 30
"""The longest silence in an answer."""
REQUEST_SECONDS = 300
"""The longest time for one request with its repetitions: a peer that stops reading causes no read timeout."""
ATTEMPTS_OF_BOTOCORE = 3
POOL_CONNECTIONS = 32
BLOCK_BYTES = 8 << 20
PART_BYTES = 16 << 20
"""Uploads larger than two parts go in parts."""
PARTS_AT_ONCE = 4
MAX_PARTS = 10_000

Result = TypeVar("Result")


class StrictS3FileSystem(s3fs.S3FileSystem):
    """s3fs in which no request lasts for ever, and a listing that fails is not an empty one."""

    async def _call_s3(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.wait_for(super()._call_s3(*args, **kwargs), REQUEST_SECONDS)

    async def _walk(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        # A glob walks, and a walk leaves out what it could not list: files would be missing without a word.
        async for found in super()._walk(path, maxdepth=maxdepth, **{**kwargs, "on_error": "raise"}):
            yield found


def new_client() -> StrictS3FileSystem:
    """A client with the credentials, the region and the endpoint that botocore finds in its usual places."""
    for library in ("botocore", "aiobotocore"):  # their debug logs quote signed headers and session tokens
        logging.getLogger(library).setLevel(logging.INFO)
    session = AioSession()
    # aiohttp waits without end for the `100 Continue` that some servers and proxies never send.
    session.unregister("before-call.s3", add_expect_header)
    client = StrictS3FileSystem(
        session=session,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "read_timeout": READ_TIMEOUT_SECONDS,
            "max_pool_connections": POOL_CONNECTIONS,
            "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS_OF_BOTOCORE},
        },
    )
    client.retries = 1  # s3fs would repeat without jitter what is repeated here
    return client


class S3:
    """The part of a file system's interface that inputs and stores use."""

    protocol = "s3"

    def __init__(self, system: Any, failure: type[CptError]) -> None:
        self._system = system
        self._failure = failure

    def info(self, path: str) -> dict[str, Any]:
        """Size and version of an object."""
        return self._call(path, lambda: self._system.info(path))

    def ls(self, path: str, detail: bool = True) -> list[Any]:
        """What is directly below a prefix."""
        return self._call(path, lambda: self._system.ls(path, detail=detail))

    def find(self, path: str, detail: bool = False) -> Any:
        """Every object below a prefix."""
        return self._call(path, lambda: self._system.find(path, detail=detail))

    def glob(self, path: str, detail: bool = False) -> Any:
        """Every object that a pattern stands for."""
        return self._call(path, lambda: self._system.glob(path, detail=detail))

    def exists(self, path: str) -> bool:
        """Whether there is an object or a prefix of this name."""
        return self._call(path, lambda: self._system.exists(path))

    def cat_file(self, path: str) -> bytes:
        """A small object, whole."""
        return self._call(path, lambda: self._system.cat_file(path, max_concurrency=1))

    def pipe_file(self, path: str, content: bytes, mode: str = "overwrite") -> None:
        """Put a small object.

        Raises:
            FileExistsError: with the mode ``create``, when there is one of another content.
        """

        def put() -> None:
            try:
                self._system.pipe_file(path, content, mode=mode)
            except OSError as error:
                if not is_precondition(error):
                    raise
                # An answer can be lost after the object was stored; repeated, by aiohttp even without a word, the
                # request then meets its own object. An equal object of another writer does no harm.
                if self._system.cat_file(path) != content:
                    raise FileExistsError(path) from None

        self._call(path, put)

    def put_file(self, local: str, path: str) -> None:
        """Put a file whole; botocore sends a checksum along, so that the server refuses what arrives changed."""
        size_bytes = Path(local).stat().st_size
        part_bytes = max(PART_BYTES, -(-size_bytes // MAX_PARTS))

        def put() -> None:
            self._system.put_file(local, path, chunksize=part_bytes, max_concurrency=PARTS_AT_ONCE)
            if self._system.info(path)["size"] != size_bytes:
                raise ConnectionError(f"{path}: the stored object is not as long as the file")

        self._call(path, put)

    def mv(self, source: str, target: str) -> None:
        """Copy an object, then remove the original."""

        def move() -> None:
            self._system.cp_file(source, target)
            self._system.rm_file(source)

        self._call(source, move)

    def rm_file(self, path: str) -> None:
        """Remove an object."""
        self._call(path, lambda: self._system.rm_file(path))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing: objects need no folders."""

    def open(self, path: str, mode: str) -> Any:
        """A seekable stream of one version of an object; each read is repeated when it breaks."""
        stream = self._call(path, lambda: self._system.open(path, mode, block_size=BLOCK_BYTES))
        fetch = stream.cache.fetcher

        def whole_range(start: int, end: int) -> bytes:
            content: bytes = fetch(start, end)
            if len(content) != end - start:
                raise ConnectionError(f"{path}: {len(content)} bytes came, {end - start} were asked for")
            return content

        stream.cache.fetcher = lambda start, end: self._call(path, lambda: whole_range(start, end))
        return stream

    def unstrip_protocol(self, path: str) -> str:
        """The URI of a path."""
        return str(self._system.unstrip_protocol(path))

    def _call(self, path: str, operation: Callable[[], Result]) -> Result:
        try:
            return retried(operation, is_transient)
        except Exception as error:
            raise self._translated(path, error) from None

    def _translated(self, path: str, error: Exception) -> Exception:
        """Absence and presence as Python says them; the rest as one line; our own mistakes as they are."""
        uri = self.unstrip_protocol(path)
        if is_precondition(error):
            changed = InputChangedError if self._failure is InputError else self._failure
            return changed(f"{uri}: changed while it was read; run again when it is complete")
        if is_absence(error) or isinstance(error, FileExistsError) or not is_from_library(error):
            return error
        return self._failure(f"{uri}: {explain(error)}", is_transient=is_transient(error))
