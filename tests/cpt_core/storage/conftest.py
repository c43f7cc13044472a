"""A place of its own on the S3 server, and proxies before it."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.s3_proxy import Choice, Proxy, s3_proxy
from tests.s3_server import S3Server


@pytest.fixture
def aws(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the variables that botocore reads to the server's, but for those given; None removes one."""

    def set_variables(endpoint: str | None = None, **others: str | None) -> None:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                monkeypatch.delenv(name)
        for name, value in (s3.environment(endpoint) | others).items():
            if value is not None:
                monkeypatch.setenv(name, value)

    set_variables()
    return set_variables


@pytest.fixture
def base(s3: S3Server, aws: Callable[..., None], tmp_path: Path) -> Iterator[str]:
    """A path ``bucket/name`` that no other test uses."""
    base = f"{s3.bucket}/{tmp_path.name}"
    yield base
    client = s3.client()
    if client.find(base):
        client.rm(base, recursive=True)


@pytest.fixture
def through_proxy(s3: S3Server, aws: Callable[..., None]) -> Iterator[Callable[..., Proxy]]:
    """From now on every request passes a proxy with these faults."""
    with ExitStack() as stack:

        def start(choose: Choice, **options: float) -> Proxy:
            proxy = stack.enter_context(s3_proxy(s3, choose, **options))
            aws(endpoint=proxy.endpoint)
            return proxy

        yield start


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few attempts and short timeouts, for faults that stay."""
    monkeypatch.setattr("cpt_core.storage.retrying.ATTEMPTS", 2)
    monkeypatch.setattr("cpt_core.storage.s3.ATTEMPTS_OF_BOTOCORE", 1)
    monkeypatch.setattr("cpt_core.storage.s3.READ_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr("cpt_core.storage.s3.REQUEST_SECONDS", 3)
