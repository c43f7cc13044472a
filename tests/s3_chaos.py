"""The data stages on S3 while a fifth of all requests fail: nothing wrong, nothing twice, nothing stuck."""

import gzip
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fsspec

from cpt_core.config import PipelineConfig
from cpt_core.storage import s3
from cpt_core.storage.object_store import PROBE_NAME
from tests.conftest import save_byte_tokenizer, write_jsonl
from tests.pipeline import packed
from tests.s3_proxy import Proxy, random_faults, s3_proxy
from tests.s3_server import S3Server

FAULTY_FRACTION = 0.2
LEAST_FAULTY_FRACTION = 0.1
"""With fewer than these, whatever chance does, the proxy did not disturb."""
READ_TIMEOUT_SECONDS = 1
REQUEST_SECONDS = 20
DELAY_SECONDS = 1.5
"""Longer than the timeout, so that a delayed answer comes too late."""
LONGEST_RUN_SECONDS = 180
WRITERS = 2
"""Runs at once on one store."""


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Only these of the variables that botocore reads."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with patch.dict(os.environ, others | variables, clear=True):
        yield


def write_corpus(folder: Path) -> Path:
    """Plain, cut, compressed and broken input: every way in which the stages read."""
    write_jsonl(folder / "a.jsonl", [f"document {n} " + "x" * (n % 50) for n in range(400)])
    write_jsonl(folder / "sub" / "b.jsonl", ["short", "ünïcödé", "a longer document " * 9])
    with (folder / "sub" / "b.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress((folder / "a.jsonl").read_bytes()[:3000].rpartition(b"\n")[0]))
    return folder


def upload(folder: Path, client: Any, prefix: str) -> None:
    """A folder's files as objects."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.pipe_file(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def config_of(corpus_uri: str, store_uri: str, tokenizer: Path) -> PipelineConfig:
    """The same for every place."""
    return PipelineConfig.model_validate(
        {
            "name": "s3",
            "store_uri": store_uri,
            "discovery": {"sources": [{"name": "a", "uris": [corpus_uri]}]},
            "tokenization": {"tokenizer": str(tokenizer), "shard_size_bytes": 12_000, "max_bad_fraction": 0.5},
            "packing": {"row_len_tokens": 64},
        }
    )


def contents_of(system: Any, root: str) -> dict[str, Any]:
    """Everything a store holds by name: files by sha256, records whole but for the time that was needed.

    The memory of input files is left out: it names places. So is what shows that the first of two writers wins.
    """
    root = system._strip_protocol(root)
    contents: dict[str, Any] = {}
    for path in system.find(root):
        name = path.removeprefix(f"{root}/")
        content = system.cat_file(path)
        if name.endswith("artifact.json"):
            contents[name] = {**json.loads(content), "seconds": None, "record_sha256": None}
        elif not name.startswith(("inputs/", PROBE_NAME)):
            contents[name] = hashlib.sha256(content).hexdigest()
    return contents


def disturbed(
    server: S3Server, corpus: Path, tokenizer: Path, expected: dict[str, Any], stores: list[str]
) -> tuple[dict[str, str], Proxy]:
    """Runs on new stores at once, through one proxy: what is wrong with each store, empty when nothing is.

    Most of a run's time are waits, so that several stores take hardly longer than one.

    Args:
        server: behind the proxy.
        corpus: folder of the input files.
        tokenizer: its folder.
        expected: contents of each store.
        stores: their names; the first one is the seed of the faults.
    """
    client = server.client()
    bases = {name: f"s3://{server.bucket}/chaos/{name}" for name in stores}
    for base in bases.values():
        upload(corpus, client, f"{base}/corpus")
    configs = {name: config_of(f"{base}/corpus", f"{base}/store", tokenizer) for name, base in bases.items()}
    with (
        s3_proxy(server, random_faults(stores[0], FAULTY_FRACTION), delay_seconds=DELAY_SECONDS) as proxy,
        environment(server.environment(proxy.endpoint)),
        patch.object(s3, "READ_TIMEOUT_SECONDS", READ_TIMEOUT_SECONDS),
        patch.object(s3, "REQUEST_SECONDS", REQUEST_SECONDS),
    ):
        problems = _run_at_once(configs)
    for name, base in bases.items():
        twice = {path: count for path, count in proxy.created.items() if count > 1 and f"/chaos/{name}/" in path}
        if contents_of(client, f"{base}/store") != expected:
            problems[name].append("another content than a local run's")
        if twice:
            problems[name].append(f"committed more than once: {twice}")
        client.rm(base, recursive=True)
    return {name: "; ".join(found) for name, found in problems.items()}, proxy


def _run_at_once(configs: dict[str, PipelineConfig]) -> dict[str, list[str]]:
    """The errors of the runs, by store."""
    errors: dict[str, list[str]] = {name: [] for name in configs}

    def run(name: str) -> None:
        try:
            packed(configs[name])
        except Exception as error:
            errors[name].append(repr(error))

    threads = [(name, threading.Thread(target=run, args=(name,), daemon=True)) for name in list(configs) * WRITERS]
    for _, thread in threads:
        thread.start()
    for name, thread in threads:
        thread.join(LONGEST_RUN_SECONDS)
        errors[name] += ["a run does not end"] if thread.is_alive() else []
    return errors


def local_contents(folder: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Corpus, tokenizer, and what a run on local folders makes of them."""
    corpus, tokenizer = write_corpus(folder / "corpus"), save_byte_tokenizer(folder / "tokenizer")
    packed(config_of(str(corpus), str(folder / "store"), tokenizer))
    return corpus, tokenizer, contents_of(fsspec.filesystem("file"), str(folder / "store"))
