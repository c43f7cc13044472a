"""Encoding whatever a text does to the engine, and the engines beside each other."""

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path

import gigatoken
import numpy as np
import pytest
import zstandard
from tokenizers import Tokenizer, normalizers

from cpt_core.config import TokenizationConfig
from cpt_core.errors import EngineMismatchError, InputChangedError
from cpt_core.permutation import mix64
from cpt_core.storage import Store
from cpt_core.tokenization import choose_backend, load_tokenizer, tokenize_shard
from cpt_core.tokenization import tokenizer as tokenizer_module
from cpt_core.tokenization.encoding import sample, window
from cpt_core.tokenization.engine import EncodedTexts, GigatokenEngine, HuggingfaceEngine
from cpt_core.tokenization.parity import first_difference
from tests.benchmarks.materials import LLAMA, QWEN, tokenizer_folder
from tests.conftest import SHARED, save_byte_tokenizer, write_jsonl
from tests.cpt_core.tokenization.test_lines import shard_of
from tests.cpt_core.tokenization.test_shard import read as read_rows

DEMO_TOKENIZER = Path("deployments/models/demo-base")


def loaded(folder: Path, **options: object):
    """A tokenizer without BOS and EOS of its own accord."""
    return load_tokenizer(TokenizationConfig(tokenizer=str(folder), **options))


class PanicException(BaseException):
    """What a panic of a Rust library looks like: no Exception."""


class FragileEngine:
    """One id a character; an exclamation mark breaks it down, for later texts too; has no ids for a hyphen."""

    is_poisoned = False

    def encode(self, texts: list[str]) -> EncodedTexts:
        """Ids of a batch."""
        self.is_poisoned = self.is_poisoned or any("!" in text for text in texts)
        if self.is_poisoned:
            raise PanicException("index out of bounds")
        kept = [text.replace("-", "") for text in texts]
        ids = np.array([ord(character) for text in kept for character in text], dtype=np.int32)
        return EncodedTexts(ids, np.array([len(text) for text in kept], dtype=np.int64))


@pytest.mark.parametrize("backend", ["huggingface", "gigatoken"])
def test_a_text_that_breaks_the_engine_is_set_aside_alone(tmp_path, store, tokenizer_folder, monkeypatch, backend):
    """A panic and a text without tokens are reasons of their lines; a new engine encodes the documents around them,
    and the second look at gigatoken's documents does not meet the panic again.
    """
    path = write_jsonl(tmp_path / "f.jsonl", ["ab", "c!", "-", "d", "!"])
    monkeypatch.setattr("cpt_core.tokenization.encoding.SAMPLED_DOCUMENTS", 1)
    monkeypatch.setattr(tokenizer_module, "build_engine", lambda backend, content: FragileEngine())
    tokenizer_module.forget_engines()
    tokens = tokenize_shard(
        shard_of(path, store),
        TokenizationConfig(tokenizer=str(tokenizer_folder)),
        tokenizer=replace(loaded(tokenizer_folder), backend=backend),
        store=store,
    )
    tokenizer_module.forget_engines()
    assert [(row["line"], row["input_ids"]) for row in read_rows(tokens, "tokens")] == [
        (1, [0, 97, 98, 1]),
        (4, [0, 100, 1]),
    ]
    assert [(row["line"], row["reason"], row["raw"]) for row in read_rows(tokens, "quarantine")] == [
        (2, "tokenizer_panic", b'{"text": "c!"}'),
        (3, "zero_tokens", b'{"text": "-"}'),
        (5, "tokenizer_panic", b'{"text": "!"}'),
    ]
    assert (tokens.counts["documents_in"], tokens.counts["documents_out"]) == (5, 2)


def test_a_text_of_which_the_normalizer_leaves_nothing_has_no_tokens(tmp_path, store, tokenizer_folder):
    """By the library's own Strip: white space alone is rejected by its reason, and not a BOS and an EOS around nothing."""
    stripping = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    stripping.normalizer = normalizers.Strip()
    stripping.save(str(tokenizer_folder / "tokenizer.json"))
    config = TokenizationConfig(tokenizer=str(tokenizer_folder))
    shard = shard_of(write_jsonl(tmp_path / "f.jsonl", ["a", " \n ", " b "]), store)
    tokens = tokenize_shard(shard, config, tokenizer=loaded(tokenizer_folder), store=store)
    assert [(row["line"], row["input_ids"]) for row in read_rows(tokens, "tokens")] == [
        (1, [0, 99, 1]),
        (3, [0, 100, 1]),
    ]
    assert [(row["line"], row["reason"], row["detail"]) for row in read_rows(tokens, "quarantine")] == [
        (2, "zero_tokens", "the text has no tokens")
    ]


def test_a_tokenizer_that_changes_during_a_run_is_noticed(tmp_path):
    """Its ids would be committed under the key of the old one."""
    folder = save_byte_tokenizer(tmp_path / "t")
    tokenizer = loaded(folder)
    settings = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(settings, indent=1))
    with pytest.raises(InputChangedError, match=r"tokenizer\.json: changed since this run began"):
        tokenizer.encode(["a"])


LONG = 1_000_000


@pytest.mark.parametrize(
    "text",
    ["a" * LONG, "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=LONG)), "\u0301" * LONG, " " * LONG],
    ids=["one letter", "random letters", "one mark", "one space"],
)
def test_a_long_document_without_a_word_has_the_same_ids_from_both_engines(text):
    """An engine that is quadratic in the length of a word would not come to its end."""
    content = (DEMO_TOKENIZER / "tokenizer.json").read_bytes()
    assert first_difference(HuggingfaceEngine(content), GigatokenEngine(content), [text]) is None


def test_rebuilding_the_engine_changes_no_id(monkeypatch):
    """The memory of gigatoken is given back when the process has grown enough, and then alone."""
    built = []
    from_json = gigatoken.Tokenizer.from_json
    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", lambda content: built.append(1) or from_json(content))
    engine = GigatokenEngine((DEMO_TOKENIZER / "tokenizer.json").read_bytes())
    whole = [engine.encode(["ab cd"]).ids.tolist() for _ in range(3)]
    assert len(built) == 1
    monkeypatch.setattr("cpt_core.tokenization.engine.REBUILD_AFTER_GROWTH_BYTES", -(10**12))
    assert [engine.encode(["ab cd"]).ids.tolist() for _ in range(3)] == whole
    assert len(built) == 4


def test_texts_encoded_a_few_at_a_time_have_the_same_ids(monkeypatch):
    """Tokenizers holds a hundred bytes a character of what it is given at once."""
    engine = HuggingfaceEngine((DEMO_TOKENIZER / "tokenizer.json").read_bytes())
    texts = ["def f(x):", "", "    return x", "# a line that is longer than the others", "", "é"]
    whole = engine.encode(texts)
    monkeypatch.setattr("cpt_core.tokenization.engine.ENCODED_AT_ONCE_CHARACTERS", 12)
    for part in (texts, texts[:1], []):
        found = engine.encode(part)
        assert found.lengths.tolist() == whole.lengths[: len(part)].tolist()
        assert found.ids.tolist() == whole.ids[: whole.lengths[: len(part)].sum()].tolist()


def test_about_one_document_in_a_thousand_is_encoded_by_both_engines():
    """Over one file of many lines, and over as many files of one line."""
    lines = np.arange(1, 20_001)
    assert len(sample(lines, 1)) == 16
    assert sum(len(sample(lines[:1], seed)) for seed in mix64(lines.astype(np.uint64)).tolist()) == 24


def test_which_documents_are_encoded_by_both_engines_follows_from_the_content(tmp_path, monkeypatch):
    """Of files of one line some are chosen and some are not; of the same files elsewhere the same ones."""
    chosen: dict[str, list[str]] = {"here": [], "there": []}
    monkeypatch.setattr("cpt_core.tokenization.encoding.SAMPLED_DOCUMENTS", 2)
    tokenizer = replace(loaded(DEMO_TOKENIZER), backend="gigatoken")
    for place, seen in chosen.items():
        monkeypatch.setattr(
            "cpt_core.tokenization.encoding.first_difference", lambda one, other, texts, seen=seen: seen.extend(texts)
        )
        store = Store(str(tmp_path / place / "store"))
        for number in range(12):
            shard = shard_of(write_jsonl(tmp_path / place / f"{number}.jsonl", [f"text {number}"]), store)
            tokenize_shard(shard, TokenizationConfig(tokenizer=str(DEMO_TOKENIZER)), tokenizer=tokenizer, store=store)
    assert 0 < len(chosen["here"]) < 12
    assert chosen["here"] == chosen["there"]


def test_of_a_giant_document_a_window_is_encoded_by_both_engines(monkeypatch):
    """It may lie anywhere; a document that is no longer is taken whole."""
    monkeypatch.setattr("cpt_core.tokenization.encoding.SAMPLED_CHARACTERS", 4)
    assert [window("0123456", drawn) for drawn in (0, 1, 3, 4)] == ["0123", "1234", "3456", "0123"]
    assert [window(text, 10**15) for text in ("", "012", "0123")] == ["", "012", "0123"]


def test_an_engine_caught_differing_fails_the_shard_and_is_not_used_again(tmp_path, store, monkeypatch):
    """Of the documents that are encoded twice; a difference names the line and takes the trust away."""
    monkeypatch.setattr("cpt_core.tokenization.encoding.SAMPLED_DOCUMENTS", 100)
    path = write_jsonl(tmp_path / "f.jsonl", [f"text {number}" for number in range(3000)])
    monkeypatch.setattr(GigatokenEngine, "encode", lambda self, texts: FragileEngine().encode(texts))
    tokenizer = replace(loaded(DEMO_TOKENIZER), backend="gigatoken")
    tokenizer_module.forget_engines()
    config = TokenizationConfig(tokenizer=str(DEMO_TOKENIZER))
    with pytest.raises(EngineMismatchError, match=r"f\.jsonl: gigatoken and tokenizers give other ids for line \d+; "):
        tokenize_shard(shard_of(path, store), config, tokenizer=tokenizer, store=store)
    tokenizer_module.forget_engines()
    assert not store.local_path("tokens").exists()
    assert choose_backend(tokenizer, config, 10**9, store=store).backend == "huggingface"


def test_both_engines_give_the_same_artifact(tmp_path):
    """The engine is in no key and in no byte."""
    path = write_jsonl(tmp_path / "f.jsonl", [f"def f{number}(x): return {number} + x\n" * 5 for number in range(500)])
    digests = []
    for backend in ("huggingface", "gigatoken"):
        store = Store(str(tmp_path / backend))
        tokens = tokenize_shard(
            shard_of(path, store),
            TokenizationConfig(tokenizer=str(DEMO_TOKENIZER)),
            tokenizer=replace(loaded(DEMO_TOKENIZER), backend=backend),
            store=store,
        )
        assert tokens.counts["tokenizer_backend"] == backend
        digests.append((tokens.key, {role: file.sha256 for role, file in tokens.files.items()}))
    assert digests[0] == digests[1]


def corpora() -> list[list[str]]:
    """Texts of the corpora at hand."""
    folder = SHARED / "corpora"
    files = [
        (folder / "gsm8k-train.jsonl").read_bytes(),
        gzip.decompress((folder / "gsm8k-test.jsonl.gz").read_bytes()),
        zstandard.ZstdDecompressor().decompressobj().decompress((folder / "math-test.jsonl.zst").read_bytes()),
    ]
    return [[json.loads(line)["text"] for line in content.splitlines()] for content in files]


@pytest.mark.skipif(not SHARED.is_dir(), reason="real corpora and tokenizers are not at hand")
@pytest.mark.parametrize("name", ["gpt2", "llama2", "mistral01"])
def test_gigatoken_is_right_on_real_corpora_for_real_tokenizers(name):
    """Every document has the ids that the tokenizers library gives."""
    require_equal_ids(SHARED / "tokenizers" / name)


@pytest.mark.matrix
@pytest.mark.skipif(not SHARED.is_dir(), reason="real corpora are not at hand")
@pytest.mark.parametrize("name", [LLAMA, QWEN])
def test_gigatoken_is_right_on_real_corpora_for_tokenizers_fetched_by_name(name):
    """The same for two of today's vocabularies."""
    require_equal_ids(tokenizer_folder(name))


def require_equal_ids(folder: Path) -> None:
    """No document of the corpora has other ids from gigatoken than from the tokenizers library."""
    content = (folder / "tokenizer.json").read_bytes()
    reference, candidate = HuggingfaceEngine(content), GigatokenEngine(content)
    for texts in corpora():
        assert first_difference(reference, candidate, texts) is None
