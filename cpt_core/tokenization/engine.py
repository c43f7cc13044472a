"""Encoding engines: texts -> flat ids, without BOS and EOS.

In: the content of tokenizer.json; batches of texts.
Out: ids and lengths as arrays.
Promise: text that looks like a special token is encoded as text; nothing is truncated; one thread, the caller's;
memory is bounded by the longest text and REBUILD_AFTER_GROWTH_BYTES.
Never: reads a file of the corpus: gigatoken's own reader ends silently at the first malformed line.
"""

import ctypes
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

HUGGINGFACE = "huggingface"
GIGATOKEN = "gigatoken"
REBUILD_AFTER_GROWTH_BYTES = 250_000_000
"""How much the process may grow while gigatoken encodes, before it is built anew, which takes about a second. It
remembers every word it has met, without a bound: 0.15 bytes a byte of C code, but 10 of words that never come again."""
ENCODED_AT_ONCE_CHARACTERS = 500_000
"""Texts given to tokenizers together: it holds a hundred bytes a character until it has encoded the last of them."""


@dataclass(frozen=True)
class EncodedTexts:
    """Ids of a batch of texts.

    Attributes:
        ids: int32[sum of lengths], texts one after the other.
        lengths: int64[number of texts], in tokens.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]


class Engine(Protocol):
    """Turns texts into ids."""

    def encode(self, texts: list[str]) -> EncodedTexts:
        """Ids of a batch."""


class HuggingfaceEngine:
    """The ``tokenizers`` library: the one whose ids are right by definition."""

    def __init__(self, tokenizer_json: bytes) -> None:
        from tokenizers import Tokenizer  # most runs find everything in the store

        self.tokenizer = Tokenizer.from_str(tokenizer_json.decode())
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        give_back_freed_memory()

    def encode(self, texts: list[str]) -> EncodedTexts:
        """Ids of a batch."""
        parts = [self._encode_at_once(part) for part in _parts(texts)]
        if not parts:
            return EncodedTexts(np.empty(0, np.int32), np.empty(0, np.int64))
        return EncodedTexts(*map(np.concatenate, zip(*parts, strict=True)))

    def _encode_at_once(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        all_ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, all_ids), dtype=np.int64, count=len(all_ids))
        return np.fromiter(chain.from_iterable(all_ids), dtype=np.int32, count=int(lengths.sum())), lengths


class GigatokenEngine:
    """The gigatoken library: many times faster; used only for tokenizers for which it gives the same ids."""

    def __init__(self, tokenizer_json: bytes) -> None:
        self._tokenizer_json = without_special_tokens(tokenizer_json)
        self._build()

    def encode(self, texts: list[str]) -> EncodedTexts:
        """Ids of a batch."""
        if self._grown_bytes > REBUILD_AFTER_GROWTH_BYTES:
            self._build()
        before = _rss_bytes()
        layout = self._encoder.encode_batch(texts, parallel=False).layout
        ids, ends = layout.content.data.view(np.int32), layout.offsets.data
        self._grown_bytes += max(0, _rss_bytes() - before - ids.nbytes - ends.nbytes)
        return EncodedTexts(ids, np.diff(ends))

    def _build(self) -> None:
        import gigatoken  # takes half a second to import, and most runs find everything in the store

        self._encoder: Any = None  # the old one goes before the new one comes
        self._encoder = gigatoken.Tokenizer.from_json(self._tokenizer_json).backend
        give_back_freed_memory()
        self._grown_bytes = 0  # by what it remembers; the rest of the process grows for reasons of its own


def _parts(texts: list[str]) -> Iterator[list[str]]:
    """Consecutive texts of about ENCODED_AT_ONCE_CHARACTERS together."""
    part, characters = [], 0
    for text in texts:
        part.append(text)
        characters += len(text)
        if characters >= ENCODED_AT_ONCE_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def give_back_freed_memory() -> None:
    """Loading a tokenizer frees twice what it keeps, which the C library would hold for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others need none
    if trim is not None:
        trim(0)


def _rss_bytes() -> int:
    return psutil.Process().memory_info().rss


def without_special_tokens(tokenizer_json: bytes) -> str:
    """A tokenizer that does not look for special tokens in text, which gigatoken cannot be told otherwise."""
    settings = json.loads(tokenizer_json)
    settings["added_tokens"] = [token for token in settings.get("added_tokens") or [] if not token.get("special")]
    return json.dumps(settings)


def build_engine(backend: str, tokenizer_json: bytes) -> Engine:
    """The engine of this name."""
    return GigatokenEngine(tokenizer_json) if backend == GIGATOKEN else HuggingfaceEngine(tokenizer_json)
