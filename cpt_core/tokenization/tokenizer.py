"""What a tokenizer is: its file, its BOS and EOS, and what identifies it.

In: a folder with tokenizer.json, or a hub id and a revision.
Out: ``TextTokenizer``, which turns texts into flat ids with BOS and EOS put in by array arithmetic.
Promise: BOS and EOS stand exactly once around a document, whatever the tokenizer adds by itself; text that looks
like a special token is encoded as text; nothing is truncated; a tokenizer.json that changes during a run is noticed.
Never: trusts vocab_size (added tokens lie above it), runs code of the tokenizer's folder, or guesses a token.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpt_core.config import TokenizationConfig
from cpt_core.errors import ConfigError, InputChangedError, InputError
from cpt_core.storage import Store
from cpt_core.storage.filesystem import passes_by_itself, reason_of
from cpt_core.tokenization.engine import HUGGINGFACE, EncodedTexts, Engine, HuggingfaceEngine, build_engine
from cpt_core.tokenization.pieces import may_be_cut
from cpt_core.tokenization.probe import PROBE

if TYPE_CHECKING:  # a run that finds everything in the store needs none
    from tokenizers import Tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer with its policy for BOS and EOS.

    Attributes:
        folder: where its files lie.
        bos_id: id put before each document, or None.
        eos_id: id put after each document, or None.
        pad_id: id that fills rows: its own pad token, else EOS, else 0.
        num_ids: ids that exist, added tokens included.
        special_tokens: what text may look like without being it.
        identity: what the ids depend on: file digest, library version, and the digest of the ids of a probe text.
        backend: name of the engine that encodes; no part of the identity, since all give the same ids.
        backend_reason: why this one, in a few words.
    """

    folder: Path
    bos_id: int | None
    eos_id: int | None
    pad_id: int
    num_ids: int
    special_tokens: tuple[str, ...]
    identity: dict[str, Any]
    backend: str = HUGGINGFACE
    backend_reason: str = "the reference"

    @property
    def file(self) -> Path:
        """Its tokenizer.json."""
        return self.folder / "tokenizer.json"

    def engine(self) -> Engine:
        """The engine, built once in a process.

        Raises:
            InputChangedError: when tokenizer.json is no longer what the run began with.
        """
        return _engine(self.file, self.identity["tokenizer_json_sha256"], self.backend)

    def may_be_cut(self) -> bool:
        """Whether the pieces of ``cut_text`` have the ids of the whole text; found out once in a process."""
        return _may_be_cut(self.file, self.identity["tokenizer_json_sha256"])

    def encode(self, texts: list[str]) -> EncodedTexts:
        """Ids of a batch, with BOS and EOS."""
        return self.with_borders(self.engine().encode(texts))

    def with_borders(self, bare: EncodedTexts) -> EncodedTexts:
        """The same with BOS and EOS."""
        return with_borders(bare.ids, bare.lengths, self.bos_id, self.eos_id)


@lru_cache(maxsize=2)
def _engine(file: Path, sha256: str, backend: str) -> Engine:
    return build_engine(backend, _content(file, sha256))


def forget_engines() -> None:
    """Build each engine anew when it is asked for again."""
    _engine.cache_clear()


@lru_cache(maxsize=2)
def _may_be_cut(file: Path, sha256: str) -> bool:
    return may_be_cut(_content(file, sha256))


def _content(file: Path, sha256: str) -> bytes:
    content = read_tokenizer_file(file)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputChangedError(
            f"{file}: changed since this run began; run again, so that it counts as another tokenizer"
        )
    return content


def read_tokenizer_file(file: Path) -> bytes:
    """Its content.

    Raises:
        InputError: when the system does not give it.
    """
    with _reading(file):
        return file.read_bytes()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {reason_of(error)}; check the disk and its permissions, then run again",
            is_transient=passes_by_itself(error),
        ) from error


def remember_tokenizer(tokenizer: TextTokenizer, store: Store) -> None:
    """Keep tokenizer.json in the store under its digest, to decode token shards without a configuration."""
    name = remembered_name(tokenizer.identity["tokenizer_json_sha256"])
    if store.size_bytes(name) is None:
        store.replace(name, read_tokenizer_file(tokenizer.file))


def remembered_name(tokenizer_json_sha256: str) -> str:
    """Where the store keeps a tokenizer.json."""
    return f"tokenizers/{tokenizer_json_sha256}.json"


def with_borders(
    bare: NDArray[np.int32], lengths: NDArray[np.int64], bos_id: int | None, eos_id: int | None
) -> EncodedTexts:
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
    return EncodedTexts(ids, bordered)


def load_tokenizer(config: TokenizationConfig) -> TextTokenizer:
    """Find the tokenizer and settle its special tokens.

    Raises:
        ConfigError: when there is no tokenizer.json, a token that is needed is not named, or is unknown.
    """
    folder = resolve_tokenizer(config)
    settings = _settings(folder)
    content, reference = _read(folder / "tokenizer.json")
    engine = reference.tokenizer
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
        special_tokens=_special_tokens(engine),
        identity=_identity(content, reference, bos_id, eos_id),
    )


def _read(file: Path) -> tuple[bytes, HuggingfaceEngine]:
    content = read_tokenizer_file(file)
    try:
        return content, HuggingfaceEngine(content)
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"{file}: cannot be loaded: {error}") from None


def _special_tokens(engine: "Tokenizer") -> tuple[str, ...]:
    added = engine.get_added_tokens_decoder()
    return tuple(token.content for _, token in sorted(added.items()) if token.special)


def _identity(
    tokenizer_json: bytes, reference: HuggingfaceEngine, bos_id: int | None, eos_id: int | None
) -> dict[str, Any]:
    bare = reference.encode([PROBE])
    probe = with_borders(bare.ids, bare.lengths, bos_id, eos_id)
    return {
        "tokenizer_json_sha256": hashlib.sha256(tokenizer_json).hexdigest(),
        "tokenizers_version": version("tokenizers"),
        "probe_ids_sha256": hashlib.sha256(probe.ids.astype("<i4").tobytes()).hexdigest(),
        "bos_id": bos_id,
        "eos_id": eos_id,
    }


def resolve_tokenizer(config: TokenizationConfig) -> Path:
    """The tokenizer's folder, downloaded from the hub if need be.

    Raises:
        ConfigError: when there is no tokenizer.json.
        InputError: when the system does not say whether there is one.
    """
    folder = Path(config.tokenizer)
    with _reading(folder):
        is_folder, is_complete = folder.is_dir(), (folder / "tokenizer.json").is_file()
    if not is_folder:
        return _download(config)
    if not is_complete:
        raise ConfigError(
            f"tokenization.tokenizer: {folder} has no tokenizer.json; save the fast tokenizer there. A lone "
            "tokenizer.model is refused because its conversion changes ids"
        )
    return folder


def _download(config: TokenizationConfig) -> Path:
    if config.revision is None:
        raise ConfigError(
            f"tokenization.tokenizer: {config.tokenizer} is no folder; expected a folder with tokenizer.json, or a "
            "hub id together with tokenization.revision, a commit of the hub repository"
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


def special_token_settings(folder: Path) -> dict[str, Any]:
    """What the small JSON files say about the tokens that ``load_tokenizer`` settles."""
    settings = _settings(folder)
    names = [f"{kind}_{what}" for kind in ("bos", "eos", "pad") for what in ("token", "token_id")]
    return {name: settings[name] for name in names if name in settings}


def _settings(folder: Path) -> dict[str, Any]:
    """Everything that the small JSON files say, the tokenizer's own having the last word."""
    settings: dict[str, Any] = {}
    for name in ("config.json", "special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        with _reading(path):
            if not path.is_file():
                continue
            content = path.read_bytes()
        try:
            settings |= json.loads(content.decode())
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path}: not valid JSON, or no object: {error}") from None
    return settings


def _token_id(engine: "Tokenizer", settings: dict[str, Any], kind: str, override: str | None) -> int | None:
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


def _numeric_token_id(engine: "Tokenizer", settings: dict[str, Any], kind: str) -> int | None:
    number = settings.get(f"{kind}_token_id")
    if number is None:
        return None
    if type(number) is not int or not 0 <= number < engine.get_vocab_size(with_added_tokens=True):
        raise ConfigError(
            f"tokenization.{kind}_token: config.json says {kind}_token_id is {number!r}, which is not one id of the "
            f"tokenizer; set tokenization.{kind}_token"
        )
    return number
