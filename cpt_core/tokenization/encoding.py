"""Texts -> ids with BOS and EOS, whatever a text does to the engine.

In: a tokenizer; batches of documents.
Out: ids of the documents that have some; the others as rejected lines.
Promise: a text on which the engine breaks down is set aside alone, and the engine is built anew; a giant text is
encoded in pieces, or set aside when there is no place to cut it, so that memory is bounded and time is linear; about
one document in a thousand of gigatoken's is encoded a second time by the reference, and a difference fails the shard.
Which ones follows from content and line, so that it is the same on every machine and another choice in every shard.
Never: lets one document take others with it.
"""

import itertools
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cpt_core.errors import CptError, EngineMismatchError
from cpt_core.permutation import mix64
from cpt_core.tokenization.documents import DocumentBatch
from cpt_core.tokenization.engine import GIGATOKEN, HUGGINGFACE, EncodedTexts
from cpt_core.tokenization.parity import first_difference
from cpt_core.tokenization.parsing import Fault
from cpt_core.tokenization.pieces import PIECE_CHARACTERS, cut_text, longest_unbroken
from cpt_core.tokenization.tokenizer import TextTokenizer, forget_engines

SAMPLED_DOCUMENTS = 1000
"""About one document in so many is encoded by both engines."""
SAMPLED_CHARACTERS = 1 << 16
"""How much of it, so that one giant document does not take the time of all: a window of this length, anywhere in it."""
_BROKEN = -1
"""Length of a text on which the engine broke down."""


class DocumentEncoder:
    """Encodes the documents of one shard.

    Args:
        tokenizer: with its engine chosen.
        max_unbroken_characters: a text with more than these in one piece is set aside.
        seed: of the choice of the documents that both engines encode; 64 bits that belong to the shard's content.
    """

    def __init__(self, tokenizer: TextTokenizer, max_unbroken_characters: int, seed: int) -> None:
        self._tokenizer = tokenizer
        self._max_unbroken_characters = max_unbroken_characters
        self._seed = seed

    def encode(self, batch: DocumentBatch) -> tuple[EncodedTexts, DocumentBatch]:
        """Ids with BOS and EOS, and the batch without the documents that have none.

        Raises:
            EngineMismatchError: when the fast engine and the reference differ.
        """
        if unbroken := self._unbroken(batch.texts):
            batch = batch.without(unbroken)
        if not batch.texts:
            return EncodedTexts(np.empty(0, np.int32), np.empty(0, np.int64)), batch
        bare, broken = self._encode(batch.texts)
        self._compare(batch, broken)
        faults = {position: Fault("tokenizer_panic", "the tokenizer broke down on this text") for position in broken}
        for position in np.flatnonzero(bare.lengths == 0).tolist():
            faults.setdefault(position, Fault("zero_tokens", "the text has no tokens"))
        if faults:
            bare = EncodedTexts(bare.ids, np.delete(bare.lengths, list(faults)))  # those have no ids to take away
            batch = batch.without(faults)
        return self._tokenizer.with_borders(bare), batch

    def _unbroken(self, texts: list[str]) -> dict[int, Fault]:
        """Faults by position of the texts that no engine can be given in pieces."""
        limit = self._max_unbroken_characters
        giants = [(n, longest_unbroken(text)) for n, text in enumerate(texts) if len(text) > limit]
        return {
            n: Fault(
                "unbroken_text",
                f"{unbroken:,} characters without a space or line break between two letters, more than "
                "tokenization.max_unbroken_characters allows",
            )
            for n, unbroken in giants
            if unbroken > limit
        }

    def _encode(self, texts: list[str]) -> tuple[EncodedTexts, list[int]]:
        """Ids without borders, and positions of texts that break the engine, which have none."""
        parts = [
            part
            for is_giant, run in itertools.groupby(texts, _is_giant)
            for part in (self._encode_alone(run) if is_giant else self._encode_together(list(run)))
        ]
        lengths = np.concatenate([part.lengths for part in parts])
        broken = np.flatnonzero(lengths == _BROKEN).tolist()
        lengths[broken] = 0
        return EncodedTexts(np.concatenate([part.ids for part in parts]), lengths), broken

    def _encode_together(self, texts: list[str]) -> list[EncodedTexts]:
        try:
            return [self._tokenizer.engine().encode(texts)]
        except BaseException as error:  # a panic of the library is no Exception
            self._give_up_engine(error)
            return self._encode_alone(texts)

    def _encode_alone(self, texts: Iterable[str]) -> list[EncodedTexts]:
        return [self._encode_one(text) for text in texts]

    def _encode_one(self, text: str) -> EncodedTexts:
        pieces = cut_text(text) if _is_giant(text) and self._tokenizer.may_be_cut() else [text]
        engine = self._tokenizer.engine()
        try:
            ids = np.concatenate([engine.encode([piece]).ids for piece in pieces])
        except BaseException as error:  # a panic of the library is no Exception
            self._give_up_engine(error)
            return EncodedTexts(np.empty(0, np.int32), np.array([_BROKEN]))
        return EncodedTexts(ids, np.array([len(ids)]))

    def _give_up_engine(self, error: BaseException) -> None:
        """The next text gets a new engine: a panic may have left locks and caches of the old one in any state."""
        _require_breakdown(error)
        forget_engines()

    def _compare(self, batch: DocumentBatch, broken: list[int]) -> None:
        if self._tokenizer.backend != GIGATOKEN:
            return
        sampled = [(position, drawn) for position, drawn in sample(batch.lines, self._seed) if position not in broken]
        if not sampled:
            return
        reference = replace(self._tokenizer, backend=HUGGINGFACE).engine()
        texts = [window(batch.texts[position], drawn) for position, drawn in sampled]
        if (text := first_difference(reference, self._tokenizer.engine(), texts)) is not None:
            raise EngineMismatchError(
                f"gigatoken and tokenizers give other ids for line {batch.lines[sampled[texts.index(text)][0]]}; "
                "gigatoken is not used for this tokenizer from now on: run again"
            )


def sample(lines: NDArray[np.int64], seed: int) -> list[tuple[int, int]]:
    """Positions of the documents that both engines encode, each with a large number drawn for it.

    Args:
        lines: int64[documents], their numbers in the file.
        seed: another one in every shard: else files that are shorter than the first line chosen would have none.
    """
    drawn = mix64(lines.astype(np.uint64) ^ np.uint64(seed))
    positions = np.flatnonzero(drawn % np.uint64(SAMPLED_DOCUMENTS) == 0).tolist()
    return [(position, int(drawn[position]) // SAMPLED_DOCUMENTS) for position in positions]


def window(text: str, drawn: int) -> str:
    """SAMPLED_CHARACTERS of a text, from a place that follows from a large number."""
    first = drawn % max(1, len(text) - SAMPLED_CHARACTERS + 1)
    return text[first : first + SAMPLED_CHARACTERS]


def _is_giant(text: str) -> bool:
    return len(text) > 2 * PIECE_CHARACTERS


def _require_breakdown(error: BaseException) -> None:
    """Raise again what is not the library's breakdown on a text."""
    is_breakdown = isinstance(error, Exception) or type(error).__name__ == "PanicException"
    if not is_breakdown or isinstance(error, CptError | MemoryError | OSError):
        raise error
