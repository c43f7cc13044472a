"""A tokenizer that was found on another machine, made usable on this one.

In: a ``TextTokenizer`` as it was sent, the store that keeps its tokenizer.json.
Out: the same with a file of this machine.
Promise: exactly the bytes and the library version that the sender had, or an error: the keys of the token shards name
both.
Never: needs the sender's folders.
"""

import hashlib
import os
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from cpt_core.errors import ConfigError, StoreError
from cpt_core.storage import Store
from cpt_core.tokenization.tokenizer import TextTokenizer, remembered_name


def tokenizer_here(tokenizer: TextTokenizer, store: Store) -> TextTokenizer:
    """The tokenizer on this machine.

    Raises:
        ConfigError: when this machine has another version of the tokenizers library.
        StoreError: when the store does not hold its file.
    """
    sent, here = tokenizer.identity["tokenizers_version"], version("tokenizers")
    if sent != here:
        raise ConfigError(
            f"{os.uname().nodename}: this worker has tokenizers {here}, but the run has {sent}, and its keys say so; "
            "install the same release of cpt on every worker"
        )
    digest = tokenizer.identity["tokenizer_json_sha256"]
    kept = Path(tempfile.gettempdir()) / f"cpt-{os.getuid()}-tokenizers" / digest[:16] / "tokenizer.json"
    for file in (tokenizer.file, kept):
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest:
            return replace(tokenizer, folder=file.parent)
    _keep(_fetched(digest, store), kept)
    return replace(tokenizer, folder=kept.parent)


def _fetched(digest: str, store: Store) -> bytes:
    name = remembered_name(digest)
    try:
        content = store.read_bytes(name)
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise StoreError(f"{store.uri(name)}: is absent or damaged; the next run puts it there again")
    return content


def _keep(content: bytes, file: Path) -> None:
    """For the next batch, whichever process of this user computes it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:
        stream.write(content)
    Path(stream.name).replace(file)
