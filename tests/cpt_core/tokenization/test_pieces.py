"""Giant texts in pieces: the ids of the whole, or none at all."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_core.config import TokenizationConfig
from cpt_core.tokenization import load_tokenizer, tokenize_shard
from cpt_core.tokenization.engine import GigatokenEngine, HuggingfaceEngine
from cpt_core.tokenization.pieces import cut_text, longest_unbroken, may_be_cut
from tests.conftest import SHARED, write_jsonl
from tests.cpt_core.tokenization.test_lines import said_by, shard_of
from tests.cpt_core.tokenization.test_shard import read

DEMO_TOKENIZER = Path("deployments/models/demo-base")
DEMO_CONTENT = (DEMO_TOKENIZER / "tokenizer.json").read_bytes()
ENGINES = [HuggingfaceEngine(DEMO_CONTENT), GigatokenEngine(DEMO_CONTENT)]


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of three characters, so that a short text is a giant."""
    for room in ("pieces", "encoding"):
        monkeypatch.setattr(f"cpt_core.tokenization.{room}.PIECE_CHARACTERS", 3)


def test_a_cut_lies_before_a_space_or_line_break_between_two_letters(small_pieces):
    """And nowhere else; what cannot be cut stays whole."""
    assert cut_text("ab cd") == ["ab cd"]
    assert cut_text("abc de\nf. g h1 i  j\u00e9 \u65e5 \u672c") == [
        "abc",
        " de",
        "\nf. g",
        " h1 i  j\u00e9",
        " \u65e5 \u672c",
    ]
    assert (longest_unbroken("abc de"), longest_unbroken("abc. def"), longest_unbroken("")) == (0, 5, 0)


LETTERS_AND_GAPS = st.text(alphabet="ab\u00e9\u65e5 \n\t.'1\r\u0301\u2028", max_size=60)


@settings(deadline=None)
@given(LETTERS_AND_GAPS)
def test_pieces_have_the_ids_of_the_whole(text):
    """By either engine, cut at every place there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cpt_core.tokenization.pieces.PIECE_CHARACTERS", 1)
        pieces = cut_text(text)
    assert "".join(pieces) == text
    for engine in ENGINES:
        assert engine.encode(pieces).ids.tolist() == engine.encode([text]).ids.tolist()


def changed(**parts: object) -> bytes:
    """The demo's tokenizer with other parts."""
    return json.dumps(json.loads(DEMO_CONTENT) | parts).encode()


@pytest.mark.parametrize(
    "content",
    [
        changed(normalizer={"type": "Prepend", "prepend": "_"}),
        changed(pre_tokenizer=None),
        changed(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "use_regex": False, "trim_offsets": True}),
        changed(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "(?<=a) "}, "behavior": "Isolated", "invert": False}
        ),
        changed(pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}),
        changed(
            added_tokens=[
                {"id": 0, "content": "San Jose", "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": False}
            ]
        ),
    ],
    ids=["prepends", "no words", "words with spaces", "lookbehind", "space before", "token over a cut"],
)  # fmt: skip
def test_a_tokenizer_to_which_a_cut_may_matter_is_given_whole_texts(content):
    """Whatever a cut would do to its ids."""
    assert may_be_cut(DEMO_CONTENT)
    assert not may_be_cut(content)


@pytest.mark.parametrize(
    ("text", "handed"),
    [
        ("ab cd ef gh", [["ab cd"], [" ef"], [" gh"]]),
        ("ab cd ef gh" * 20, [["ab cd"], *[[" ef"], [" ghab"], [" cd"]] * 19, [" ef"], [" gh"]]),
        ("a" * 12, [["a" * 12]]),
        ("a" * 43, [["a" * 43]]),
        ("a" * 44, []),
        ("a", [["a"]]),
    ],
    ids=["words", "20 times the words", "one letter", "as many as allowed", "one more", "short"],
)
@pytest.mark.parametrize("engine", [HuggingfaceEngine, GigatokenEngine])
def test_an_engine_is_handed_every_character_once_in_pieces_of_bounded_length(
    tmp_path, store, small_pieces, monkeypatch, engine, text, handed
):
    """So its work is in proportion to the length of a text, if its work on one bounded piece is bounded."""
    seen = []
    encode = engine.encode
    monkeypatch.setattr(engine, "encode", lambda self, texts: seen.append(texts) or encode(self, texts))
    backend = "gigatoken" if engine is GigatokenEngine else "huggingface"
    config = TokenizationConfig(tokenizer=str(DEMO_TOKENIZER), max_unbroken_characters=40)
    tokenizer = replace(load_tokenizer(config), backend=backend)
    assert tokenizer.may_be_cut()
    seen.clear()
    shard = shard_of(write_jsonl(tmp_path / "f.jsonl", [text]), store)
    tokenize_shard(shard, config, tokenizer=tokenizer, store=store)
    assert seen == handed


@pytest.mark.parametrize("backend", ["huggingface", "gigatoken"])
def test_a_giant_document_has_the_ids_of_the_whole_and_an_unbroken_one_is_set_aside(
    tmp_path, store, small_pieces, backend
):
    """The documents around them are kept."""
    texts = ["def f(x): return the sum of all of them", "0123456789" * 5, "x = 1", "a" * 24]
    path = write_jsonl(tmp_path / "f.jsonl", texts)
    config = TokenizationConfig(tokenizer=str(DEMO_TOKENIZER), max_unbroken_characters=40)
    tokenizer = replace(load_tokenizer(config), backend=backend)
    tokens = tokenize_shard(shard_of(path, store), config, tokenizer=tokenizer, store=store)
    kept = [texts[number] for number in (0, 2, 3)]
    whole = tokenizer.with_borders(ENGINES[0].encode(kept))
    ids = [whole.ids[first:end].tolist() for first, end in pairwise([0, *np.cumsum(whole.lengths).tolist()])]
    assert [row["input_ids"] for row in read(tokens, "tokens")] == ids
    assert [(row["line"], row["reason"], row["detail"]) for row in read(tokens, "quarantine")] == [
        (
            2,
            "unbroken_text",
            "47 characters without a space or line break between two letters, more than "
            "tokenization.max_unbroken_characters allows",
        )
    ]


def test_an_unbroken_row_of_parquet_is_set_aside_with_its_text(tmp_path, store, small_pieces):
    """As a line is."""
    pq.write_table(pa.table({"text": ["x = 1", "0123456789" * 5]}), tmp_path / "f.parquet")
    config = TokenizationConfig(tokenizer=str(DEMO_TOKENIZER), max_unbroken_characters=40)
    shard = shard_of(tmp_path / "f.parquet", store)
    tokens = tokenize_shard(shard, config, tokenizer=load_tokenizer(config), store=store)
    assert [(row["line"], row["raw"]) for row in read(tokens, "quarantine")] == [(2, b"0123456789" * 5)]


@pytest.mark.matrix
def test_a_document_of_100_megabytes_takes_memory_in_proportion(tmp_path):
    """Through the stage, in a process of its own: about ten times its size, most of it for 30 million ids."""
    text = "the sum of all of them " * 4_347_827
    write_jsonl(tmp_path / "f.jsonl", ["before", text, "after"])
    counts, megabytes = said_by(
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from cpt_core.config import TokenizationConfig\n"
        "from cpt_core.storage import Store\n"
        "from cpt_core.tokenization import load_tokenizer, tokenize_shard\n"
        "from tests.cpt_core.tokenization.test_lines import shard_of\n"
        "from tests.memory import peak_rss_bytes\n"
        f"config = TokenizationConfig(tokenizer={str(DEMO_TOKENIZER.resolve())!r})\n"
        "store, tokenizer = Store('store'), replace(load_tokenizer(config), backend='gigatoken')\n"
        "shard = shard_of(Path('f.jsonl').resolve(), store)\n"
        "before = peak_rss_bytes()\n"
        "counts = tokenize_shard(shard, config, tokenizer=tokenizer, store=store).counts\n"
        "print([counts[name] for name in ('documents_out', 'documents_quarantined', 'tokens')])\n"
        "print((peak_rss_bytes() - before) >> 20)\n",
        tmp_path,
    )
    assert counts == "[3, 0, 30434799]"
    assert int(megabytes) < 1200


@pytest.mark.skipif(not SHARED.is_dir(), reason="real tokenizers are not at hand")
@pytest.mark.parametrize(("name", "expected"), [("gpt2", True), ("llama2", False), ("mistral01", False)])
def test_real_tokenizers_with_words_may_be_cut(name, expected):
    """Those of the SentencePiece kind put a space before whatever they are given."""
    assert may_be_cut((SHARED / "tokenizers" / name / "tokenizer.json").read_bytes()) is expected
