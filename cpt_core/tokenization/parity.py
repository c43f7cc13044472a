"""Whether gigatoken gives the ids of the tokenizers library, for one very tokenizer.

In: the content of tokenizer.json.
Out: a verdict: trusted or not, and why.
Promise: trusted only when its components are known ones and every probe gives equal ids: texts made to be hard, its
added tokens, and every Unicode scalar value, alone and between letters. A damaged memory of a verdict is none.
Never: guesses from the name of a tokenizer.
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpt_core.fingerprint import fingerprint, sealed_json, unsealed_json
from cpt_core.storage import Store
from cpt_core.tokenization.components import added_token_texts, unknown_component
from cpt_core.tokenization.engine import EncodedTexts, Engine, GigatokenEngine, HuggingfaceEngine

PARITY_FOLDER = "parity"
GATE_VERSION = 2
"""To be raised when more is probed, or other components are known."""
BATCH_TEXTS = 5_000


@dataclass(frozen=True)
class Verdict:
    """What the comparison of the engines gave.

    Attributes:
        is_trusted: gigatoken may encode.
        reason: in a few words.
    """

    is_trusted: bool
    reason: str


def check_parity(
    tokenizer_json: bytes, part: int = 0, parts: int = 1, on_progress: Callable[[int], None] = lambda _: None
) -> Verdict:
    """Compare the engines; takes some twenty seconds.

    Args:
        tokenizer_json: the tokenizer.
        part: which of the parts of the probes.
        parts: so many make a check together.
        on_progress: called now and then with the number of probes that were equal.
    """
    settings = json.loads(tokenizer_json)
    if (unknown := unknown_component(settings)) is not None:
        return Verdict(False, f"{unknown} is not among the components that it is trusted with")
    reference = HuggingfaceEngine(tokenizer_json)
    try:
        candidate = GigatokenEngine(tokenizer_json)
        for number, texts in enumerate(_batches(settings, part, parts)):
            on_progress(number * BATCH_TEXTS)
            if (text := first_difference(reference, candidate, texts)) is not None:
                return Verdict(False, f"it gives other ids for the text {text[:20]!a}")
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return Verdict(False, f"it cannot use this tokenizer: {' '.join(str(error).split())[:120]}")
    return Verdict(True, "it gives the ids of the tokenizers library on every probe")


def recall_verdict(store: Store, tokenizer_json_sha256: str) -> Verdict | None:
    """The verdict that the store remembers for this tokenizer and these library versions; a damaged one is none."""
    try:
        return Verdict(**unsealed_json(store.read_bytes(_name(tokenizer_json_sha256)))["verdict"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def remember_verdict(store: Store, tokenizer_json_sha256: str, verdict: Verdict) -> None:
    """Keep a verdict; a later one replaces it."""
    content = {"tokenizer_json_sha256": tokenizer_json_sha256, **_versions(), "verdict": asdict(verdict)}
    store.replace(_name(tokenizer_json_sha256), sealed_json(content))


def first_difference(reference: Engine, candidate: Engine, texts: list[str]) -> str | None:
    """The first text for which two engines give other ids."""
    right, other = reference.encode(texts), candidate.encode(texts)
    if np.array_equal(right.lengths, other.lengths) and np.array_equal(right.ids, other.ids):
        return None
    pairs = zip(_each(right), _each(other), strict=True)
    return next(text for text, pair in zip(texts, pairs, strict=True) if not np.array_equal(*pair))


def _each(encoded: EncodedTexts) -> list[NDArray[np.int32]]:
    """The ids of each text."""
    return np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])


def _batches(settings: dict[str, Any], part: int, parts: int) -> Iterator[list[str]]:
    """The probes of one part; the first one has the hard texts."""
    if part == 0:
        yield golden_texts() + added_token_texts(settings)
    for scalars in scalar_batches(part, parts):
        yield scalars
        yield [f"a{scalar}b" for scalar in scalars]


def scalar_batches(part: int, parts: int) -> Iterator[list[str]]:
    """Unicode scalar values: those of one part, batch by batch."""
    for first in range(part * BATCH_TEXTS, 0x110000, parts * BATCH_TEXTS):
        codes = range(first, min(first + BATCH_TEXTS, 0x110000))
        if batch := [chr(code) for code in codes if not 0xD800 <= code <= 0xDFFF]:
            yield batch


@cache
def golden_texts() -> list[str]:
    """Texts made to be hard: white space, digits, marks, scripts, special tokens, long runs."""
    by_category: dict[str, list[str]] = {}
    for code in range(0x110000):
        members = by_category.setdefault(unicodedata.category(chr(code)), [])
        if len(members) < 40 and not 0xD800 <= code <= 0xDFFF:
            members.append(chr(code))
    samples = [character for members in by_category.values() for character in members]
    spaces = [" ", "\t", "\n", "\r", "\r\n", "\u00a0", "\u2028", "\u3000", "\x00", "\x0b", "\u200b", "\ufeff"]
    specials = ["<|endoftext|>", "<|end_of_text|>", "<|im_start|>", "<s>", "</s>", "<unk>", "[INST]", "<|", "|>", "</"]
    texts = [first + second for first in spaces for second in spaces]
    texts += [f"word{space * count}word" for space in spaces for count in (1, 2, 3, 7, 16)]
    texts += ["9" * count for count in range(1, 21)] + [f"x{special}y {special}" for special in specials]
    texts += [f"{mark}e{mark}{mark} é{mark}" for mark in by_category["Mn"]]
    texts += [f"{first}{second}'ll {first} don't{second}" for first, second in zip(samples, samples[7:], strict=False)]
    texts += [
        "".join(samples),
        "🧑\u200d🔬👩\u200d👩\u200d👧\u200d👦🇩🇪",
        "x = {'a': [1, 2]}  # π ≈ 3.14159\n\n\n",
        "a" * 1_000_000,
    ]
    texts += [space * 100_000 for space in (" ", "\n")] + ["ab " * 50_000, "日本語" * 10_000, "\u0301" * 10_000]
    return texts


def _name(tokenizer_json_sha256: str) -> str:
    digest = hashlib.sha256(f"{tokenizer_json_sha256}{fingerprint(_versions())}".encode()).hexdigest()
    return f"{PARITY_FOLDER}/{digest[:16]}.json"


def _versions() -> dict[str, Any]:
    return {"gate": GATE_VERSION, "gigatoken": version("gigatoken"), "tokenizers": version("tokenizers")}
