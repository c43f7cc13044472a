"""A giant text in pieces that have the ids of the whole.

In: a text; the content of tokenizer.json.
Out: pieces; whether this tokenizer may be given them one by one.
Promise: a cut lies before a space or line break between two letters, where every tokenizer that is trusted with pieces
begins a new word whatever stands around: ids, and so memory and time, of one piece do not depend on another.
Never: cuts for a tokenizer whose components are not known ones, or that was not seen to begin a word at every cut.
"""

import json
import re
from itertools import pairwise
from typing import Any

import numpy as np

from cpt_core.tokenization.components import components
from cpt_core.tokenization.engine import HuggingfaceEngine
from cpt_core.tokenization.parity import golden_texts

PIECE_CHARACTERS = 500_000
"""Aimed at; what is unbroken beyond that belongs to the piece, and decides about the document: part of its content."""
_CUT = re.compile(r"[ \n](?<=[^\W\d_][ \n])(?=[^\W\d_])")
_LOOKBEHIND = "(?<"
_KNOWN = {"model": {"BPE"}, "normalizer": {"NFC"}, "pre_tokenizer": {"ByteLevel", "Split", "Digits"}}


def cut_text(text: str) -> list[str]:
    """Pieces of about PIECE_CHARACTERS, which together are the text."""
    pieces = []
    first = 0
    while (found := _CUT.search(text, first + PIECE_CHARACTERS)) is not None:
        pieces.append(text[first : found.start()])
        first = found.start()
    return [*pieces, text[first:]]


def longest_unbroken(text: str) -> int:
    """How many characters at most one piece has beyond PIECE_CHARACTERS, because there is no place to cut it."""
    return max(0, max(map(len, cut_text(text))) - PIECE_CHARACTERS)


def may_be_cut(tokenizer_json: bytes) -> bool:
    """Whether this tokenizer gives the pieces of a text the ids of the whole."""
    settings = json.loads(tokenizer_json)
    is_known = (
        all({part.get("type") for part in components(settings, kind)} <= known for kind, known in _KNOWN.items())
        and settings.get("pre_tokenizer") is not None
        and _LOOKBEHIND not in json.dumps(settings["pre_tokenizer"])
        and not any(map(_may_span_a_cut, settings.get("added_tokens") or []))
    )
    return is_known and _words_begin_at_cuts(tokenizer_json)


def _may_span_a_cut(token: dict[str, Any]) -> bool:
    """Whether a token that is looked for in text may reach over a cut."""
    return not token.get("special") and (token.get("rstrip") or _CUT.search(token["content"] + "x") is not None)


def _words_begin_at_cuts(tokenizer_json: bytes) -> bool:
    """Whether a word begins at every cut of texts that surround it with what is hard, and the ids are the same."""
    engine = HuggingfaceEngine(tokenizer_json)
    short = [text for text in golden_texts() if len(text) < 100]
    texts = [f"{text}x{gap}y{text} z{gap}{text}" for text in short for gap in (" ", "\n")]
    cuts = [[cut.start() for cut in _CUT.finditer(text)] for text in texts]
    for text, places in zip(texts, cuts, strict=True):
        starts = {start for _, (start, _) in engine.tokenizer.pre_tokenizer.pre_tokenize_str(text)}
        if not starts.issuperset(places):
            return False
    pieces = [text[i:j] for text, places in zip(texts, cuts, strict=True) for i, j in pairwise([0, *places, len(text)])]
    return np.array_equal(engine.encode(texts).ids, engine.encode(pieces).ids)
