"""Whether gigatoken gives the ids of the tokenizers library, for one very tokenizer.

In: the content of tokenizer.json.
Out: a verdict: trusted or not, and why.
Promise: trusted only when its components are known ones and every probe gives equal ids: texts made to be hard, and
every Unicode scalar value, alone and between letters.
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

from cpt_core.fingerprint import fingerprint
from cpt_core.storage import Store
from cpt_core.tokenization.engine import Engine, GigatokenEngine, HuggingfaceEngine

PARITY_FOLDER = "parity"
GATE_VERSION = 1
_BATCH_TEXTS = 5_000
_MODELS = {"BPE", None}
_NORMALIZERS = {"Prepend", "Replace", "NFC", "Sequence"}
_PRE_TOKENIZERS = {"ByteLevel", "Split", "Metaspace", "Digits", "Sequence"}


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
    if (unknown := unknown_component(json.loads(tokenizer_json))) is not None:
        return Verdict(False, f"{unknown} is not among the components that it is trusted with")
    reference = HuggingfaceEngine(tokenizer_json)
    try:
        candidate = GigatokenEngine(tokenizer_json)
        for number, texts in enumerate(_batches(part, parts)):
            on_progress(number * _BATCH_TEXTS)
            if (text := first_difference(reference, candidate, texts)) is not None:
                return Verdict(False, f"it gives other ids for the text {text[:20]!a}")
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return Verdict(False, f"it cannot use this tokenizer: {' '.join(str(error).split())[:120]}")
    return Verdict(True, "it gives the ids of the tokenizers library on every probe")


def recall_verdict(store: Store, tokenizer_json_sha256: str) -> Verdict | None:
    """The verdict that the store remembers for this tokenizer and these library versions."""
    try:
        return Verdict(**json.loads(store.read_bytes(_name(tokenizer_json_sha256)))["verdict"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def remember_verdict(store: Store, tokenizer_json_sha256: str, verdict: Verdict) -> None:
    """Keep a verdict; a later one replaces it."""
    content = {"tokenizer_json_sha256": tokenizer_json_sha256, **_versions(), "verdict": asdict(verdict)}
    store.replace(_name(tokenizer_json_sha256), json.dumps(content, indent=1).encode())


def first_difference(reference: Engine, candidate: Engine, texts: list[str]) -> str | None:
    """The first text for which two engines give other ids."""
    right, other = reference.encode(texts), candidate.encode(texts)
    if np.array_equal(right.lengths, other.lengths) and np.array_equal(right.ids, other.ids):
        return None
    return next(text for text in texts if not _same_ids(reference, candidate, text))


def unknown_component(settings: dict[str, Any]) -> str | None:
    """The first part of a tokenizer that is not on the list, or None."""
    model = settings["model"]
    if model.get("type") not in _MODELS:
        return f"the model {model.get('type')}"
    if model.get("dropout"):
        return "dropout"
    for kind, known in (("normalizer", _NORMALIZERS), ("pre_tokenizer", _PRE_TOKENIZERS)):
        for component in components(settings, kind):
            if component["type"] not in known:
                return f"the {kind} {component['type']}"
    return None


def components(settings: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The normalizer or the pre_tokenizer of a tokenizer, and those that it is made of."""
    return _flattened(settings.get(kind), {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}[kind])


def _same_ids(reference: Engine, candidate: Engine, text: str) -> bool:
    return np.array_equal(reference.encode([text]).ids, candidate.encode([text]).ids)


def _flattened(component: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    if component is None:
        return []
    return [component, *(part for member in component.get(members, []) for part in _flattened(member, members))]


def _batches(part: int, parts: int) -> Iterator[list[str]]:
    """The probes of one part; the first one has the hard texts."""
    if part == 0:
        yield golden_texts()
    for scalars in scalar_batches(part, parts):
        yield scalars
        yield [f"a{scalar}b" for scalar in scalars]


def scalar_batches(part: int, parts: int) -> Iterator[list[str]]:
    """Unicode scalar values: those of one part, batch by batch."""
    for first in range(part * _BATCH_TEXTS, 0x110000, parts * _BATCH_TEXTS):
        codes = range(first, min(first + _BATCH_TEXTS, 0x110000))
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
