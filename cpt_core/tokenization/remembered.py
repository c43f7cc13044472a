"""What a tokenizer was found to be, remembered in the store: a run that computes nothing calls no tokenizer.

In: the configuration, the store.
Out: the ``TextTokenizer`` that ``load_tokenizer`` would give.
Promise: remembered for these very bytes of tokenizer.json, this library version and these options alone; a memory that
is absent or damaged only costs loading the tokenizer.
Never: holds the tokenizer's tables: the engine reads tokenizer.json where it encodes, and knows its digest.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cpt_core.config import TokenizationConfig
from cpt_core.fingerprint import fingerprint, sealed_json, unsealed_json
from cpt_core.storage import Store
from cpt_core.tokenization.engine import give_back_freed_memory
from cpt_core.tokenization.tokenizer import (
    TextTokenizer,
    load_tokenizer,
    read_tokenizer_file,
    resolve_tokenizer,
    special_token_settings,
)

MEMORY_FOLDER = "tokenizer_memory"
MEMORY_VERSION = 2
"""To be raised when another tokenizer follows from the same files and options."""
_REMEMBERED = ("bos_id", "eos_id", "pad_id", "num_ids", "identity")


def recall_tokenizer(config: TokenizationConfig, store: Store) -> TextTokenizer:
    """The tokenizer as it was found before, or as it is found now.

    Raises:
        ConfigError: as ``load_tokenizer``.
    """
    folder = resolve_tokenizer(config)
    name = f"{MEMORY_FOLDER}/{fingerprint(_depends_on(config, folder))[:16]}.json"
    try:
        known = unsealed_json(store.read_bytes(name))
        special_tokens = tuple(known["special_tokens"])
        return TextTokenizer(folder, special_tokens=special_tokens, **{field: known[field] for field in _REMEMBERED})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        tokenizer = load_tokenizer(config)
        give_back_freed_memory()
    found = {field: getattr(tokenizer, field) for field in (*_REMEMBERED, "special_tokens")}
    store.replace(name, sealed_json(found))
    return tokenizer


def _depends_on(config: TokenizationConfig, folder: Path) -> dict[str, Any]:
    return {
        "memory_version": MEMORY_VERSION,
        "tokenizer_json_sha256": hashlib.sha256(read_tokenizer_file(folder / "tokenizer.json")).hexdigest(),
        "tokenizers_version": version("tokenizers"),
        "settings": special_token_settings(folder),
        "options": config.model_dump(include={"add_bos", "add_eos", "bos_token", "eos_token"}),
    }
