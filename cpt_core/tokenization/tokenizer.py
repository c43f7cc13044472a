"""What a tokenizer is: its file, its BOS and EOS, and what identifies it.

In: a folder with tokenizer.json, or a hub id and a revision.
Out: ``TextTokenizer``, which turns texts into flat ids with BOS and EOS put in by array arithmetic.
Promise: BOS and EOS stand exactly once around a document, whatever the tokenizer adds by itself; text that looks
like a special token is encoded as text; nothing is truncated.
Never: trusts vocab_size (added tokens lie above it), runs code of the tokenizer's folder, or guesses a token.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cpt_core.config import TokenizationConfig
from cpt_core.errors import ConfigError
from cpt_core.storage import Store

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")
_PROBE = (
    "The quick brown fox.\r\n\tdef f(x):\n    return x ** 2  # naïve café ﬁ 12345 "
    "日本語 한국어 العربية 🧑\u200d🔬 e\u0301 <|end_of_text|> <s> </s>\u00a0\u2028\x00"
)


@dataclass(frozen=True)
class TokenizedTexts:
    """Ids of a batch of documents.

    Attributes:
        ids: int32[sum of lengths], documents one after the other, BOS and EOS included.
        lengths: int64[number of documents], in tokens.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer with its policy for BOS and EOS.

    Attributes:
        folder: where its files lie.
        bos_id: id put before each document, or None.
        eos_id: id put after each document, or None.
        pad_id: id that fills rows: its own pad token, else EOS, else 0.
        num_ids: ids that exist, added tokens included.
    """

    folder: Path
    bos_id: int | None
    eos_id: int | None
    pad_id: int
    num_ids: int

    @cached_property
    def _engine(self) -> Tokenizer:
        engine = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        engine.encode_special_tokens = True
        engine.no_truncation()
        engine.no_padding()
        return engine

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the ids depend on: file digest, library version, and the digest of the ids of a probe text."""
        digest = hashlib.sha256((self.folder / "tokenizer.json").read_bytes()).hexdigest()
        probe = self.encode([_PROBE]).ids.astype("<i4").tobytes()
        return {
            "tokenizer_json_sha256": digest,
            "tokenizers_version": version("tokenizers"),
            "probe_ids_sha256": hashlib.sha256(probe).hexdigest(),
            "bos_id": self.bos_id,
            "eos_id": self.eos_id,
        }

    def encode(self, texts: list[str]) -> TokenizedTexts:
        """Ids of a batch, with BOS and EOS."""
        encodings = self._engine.encode_batch_fast(texts, add_special_tokens=False)
        lengths = np.fromiter((len(encoding) for encoding in encodings), dtype=np.int64, count=len(encodings))
        bare = np.empty(int(lengths.sum()), dtype=np.int32)
        end = 0
        for encoding, length in zip(encodings, lengths.tolist(), strict=True):
            bare[end : end + length] = encoding.ids
            end += length
        return with_borders(bare, lengths, self.bos_id, self.eos_id)


def remember_tokenizer(tokenizer: TextTokenizer, store: Store) -> None:
    """Keep tokenizer.json in the store under its digest, to decode token shards without a configuration."""
    name = f"tokenizers/{tokenizer.identity['tokenizer_json_sha256']}.json"
    if store.size_bytes(name) is None:
        store.replace(name, (tokenizer.folder / "tokenizer.json").read_bytes())


def with_borders(
    bare: NDArray[np.int32], lengths: NDArray[np.int64], bos_id: int | None, eos_id: int | None
) -> TokenizedTexts:
    """Put BOS before and EOS after each document by array arithmetic.

    Args:
        bare: int32[sum of lengths], ids of the texts alone.
        lengths: int64[number of documents].
        bos_id: id before each document, or None for none.
        eos_id: id after each document, or None for none.
    """
    added_before, added_after = int(bos_id is not None), int(eos_id is not None)
    bordered = lengths + added_before + added_after
    ends = np.cumsum(bordered)
    starts = ends - bordered
    ids = np.empty(int(bordered.sum()), dtype=np.int32)
    is_text = np.ones(len(ids), dtype=bool)
    if bos_id is not None:
        ids[starts] = bos_id
        is_text[starts] = False
    if eos_id is not None:
        ids[ends - 1] = eos_id
        is_text[ends - 1] = False
    ids[is_text] = bare
    return TokenizedTexts(ids=ids, lengths=bordered)


def load_tokenizer(config: TokenizationConfig) -> TextTokenizer:
    """Find the tokenizer and settle its special tokens.

    Raises:
        ConfigError: when there is no tokenizer.json, a token that is needed is not named, or is unknown.
    """
    folder = _resolve(config)
    settings = _settings(folder)
    try:
        engine = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"{folder / 'tokenizer.json'}: cannot be loaded: {error}") from None
    bos_id = _token_id(engine, settings, "bos", config.bos_token) if config.add_bos else None
    eos_id = _token_id(engine, settings, "eos", config.eos_token) if config.add_eos else None
    if config.add_eos and eos_id is None:
        raise ConfigError(
            f"tokenization.add_eos: {folder} names no EOS token; set tokenization.eos_token, or add_eos: false"
        )
    pad_id = next(id_ for id_ in (_token_id(engine, settings, "pad", None), eos_id, 0) if id_ is not None)
    return TextTokenizer(
        folder=folder,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=pad_id,
        num_ids=engine.get_vocab_size(with_added_tokens=True),
    )


def _resolve(config: TokenizationConfig) -> Path:
    folder = Path(config.tokenizer)
    if not folder.is_dir():
        return _download(config)
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"tokenization.tokenizer: {folder} has no tokenizer.json; save the fast tokenizer there. A lone "
            "tokenizer.model is refused because its conversion changes ids"
        )
    return folder


def _download(config: TokenizationConfig) -> Path:
    if config.revision is None:
        raise ConfigError(
            f"tokenization.tokenizer: {config.tokenizer} is no folder; expected a folder with tokenizer.json, or a "
            "hub id together with tokenization.revision"
        )
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(config.tokenizer, revision=config.revision, allow_patterns=list(TOKENIZER_FILES))
    except Exception as error:  # every failure of the hub ends here: absent, forbidden, offline
        raise ConfigError(
            f"tokenization.tokenizer: {config.tokenizer} at {config.revision} cannot be fetched from the hub: "
            f"{str(error).splitlines()[0]}. Download it elsewhere and give the folder"
        ) from None
    return Path(found)


def _settings(folder: Path) -> dict[str, Any]:
    """Everything that the small JSON files say, the tokenizer's own having the last word."""
    settings: dict[str, Any] = {}
    for name in ("config.json", "special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            try:
                settings |= json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, TypeError, RecursionError) as error:
                raise ConfigError(f"{path}: not valid JSON, or no object: {error}") from None
    return settings


def _token_id(engine: Tokenizer, settings: dict[str, Any], kind: str, override: str | None) -> int | None:
    """Id of the bos, eos or pad token: the override, the named token, or the id in config.json."""
    token = override if override is not None else settings.get(f"{kind}_token")
    if isinstance(token, dict):
        token = token.get("content")
    if token is None:
        return _numeric_token_id(engine, settings, kind)
    found = engine.token_to_id(token) if isinstance(token, str) else None
    if found is None:
        raise ConfigError(f"tokenization.{kind}_token: {token!r} is not in the tokenizer's vocabulary")
    return int(found)


def _numeric_token_id(engine: Tokenizer, settings: dict[str, Any], kind: str) -> int | None:
    number = settings.get(f"{kind}_token_id")
    if number is None:
        return None
    if type(number) is not int or not 0 <= number < engine.get_vocab_size(with_added_tokens=True):
        raise ConfigError(
            f"tokenization.{kind}_token: config.json says {kind}_token_id is {number!r}, which is not one id of the "
            f"tokenizer; set tokenization.{kind}_token"
        )
    return number
