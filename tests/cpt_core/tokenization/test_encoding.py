"""Encoding whatever a text does to the engine, and the engines beside each other."""

import gzip
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard
from tokenizers import Tokenizer, normalizers

from cpt_core.config import TokenizationConfig
from cpt_core.errors import ConfigError, EngineMismatchError, InputChangedError
from cpt_core.storage import Store
from cpt_core.tokenization import choose_backend, load_tokenizer, tokenize_shard
from cpt_core.tokenization import tokenizer as tokenizer_module
from cpt_core.tokenization.backend import check_in_processes
from cpt_core.tokenization.engine import EncodedTexts, GigatokenEngine, HuggingfaceEngine
from cpt_core.tokenization.parity import (
    Verdict,
    check_parity,
    first_difference,
    golden_texts,
    recall_verdict,
    remember_verdict,
    scalar_batches,
    unknown_component,
)
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


def test_a_text_that_breaks_the_engine_is_set_aside_alone(tmp_path, store, tokenizer_folder, monkeypatch):
    """A panic and a text without tokens are reasons of their lines; a new engine encodes the documents around them."""
    path = write_jsonl(tmp_path / "f.jsonl", ["ab", "c!", "-", "d", "!"])
    monkeypatch.setattr(tokenizer_module, "build_engine", lambda backend, content: FragileEngine())
    tokenizer_module.forget_engines()
    tokens = tokenize_shard(
        shard_of(path, store),
        TokenizationConfig(tokenizer=str(tokenizer_folder)),
        tokenizer=loaded(tokenizer_folder),
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


def test_the_engines_agree_on_hard_texts():
    """Both give the same ids for every probe text of the demo's tokenizer, special tokens in text included."""
    content = (DEMO_TOKENIZER / "tokenizer.json").read_bytes()
    assert first_difference(HuggingfaceEngine(content), GigatokenEngine(content), golden_texts()) is None


@pytest.mark.parametrize("engine", [HuggingfaceEngine, GigatokenEngine])
def test_a_long_document_without_white_space_takes_time_in_proportion_to_its_length(engine):
    """Eight times the letters take far less than the 64-fold time of an engine that is quadratic in them."""
    encoder = engine((DEMO_TOKENIZER / "tokenizer.json").read_bytes())
    letters = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=1 << 17))

    def cpu_seconds(text: str) -> float:
        started = time.process_time()
        encoder.encode([text])
        return time.process_time() - started

    short = min(cpu_seconds(letters) for _ in range(3))
    assert min(cpu_seconds(letters * 8) for _ in range(2)) < 24 * short


def test_the_first_text_with_other_ids_is_found():
    """A batch that differs is searched text by text."""

    class Shouting(FragileEngine):
        def encode(self, texts: list[str]) -> EncodedTexts:
            return super().encode([text.upper() for text in texts])

    assert first_difference(FragileEngine(), Shouting(), ["A", "B c", "d"]) == "B c"
    assert first_difference(FragileEngine(), Shouting(), ["A", "B"]) is None


def test_rebuilding_the_engine_changes_no_id(monkeypatch):
    """The memory of gigatoken is given back now and then."""
    content = (DEMO_TOKENIZER / "tokenizer.json").read_bytes()
    whole = GigatokenEngine(content).encode(["ab cd"] * 3).ids.tolist()
    monkeypatch.setattr("cpt_core.tokenization.engine.REBUILD_AFTER_GROWTH_BYTES", -(10**12))
    engine = GigatokenEngine(content)
    assert [token for _ in range(3) for token in engine.encode(["ab cd"]).ids.tolist()] == whole


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


def bpe(**parts: object) -> dict[str, object]:
    """The settings of a tokenizer."""
    return {"model": {"type": "BPE"}, "normalizer": None, "pre_tokenizer": None} | parts


@pytest.mark.parametrize(
    ("settings", "unknown"),
    [
        (bpe(), None),
        (bpe(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]}), None),
        (bpe(model={"type": "Unigram"}), "the model Unigram"),
        (bpe(model={"type": "BPE", "dropout": 0.1}), "dropout"),
        (bpe(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}]}), "the normalizer NFKC"),
        (bpe(pre_tokenizer={"type": "BertPreTokenizer"}), "the pre_tokenizer BertPreTokenizer"),
    ],
)
def test_only_known_components_are_trusted(settings, unknown):
    """What was never compared is not compared for the first time on a user's corpus."""
    assert unknown_component(settings) == unknown


def test_an_unknown_tokenizer_is_refused_without_a_comparison():
    """The reason names the component."""
    assert check_parity(json.dumps(bpe(model={"type": "WordPiece"})).encode()) == Verdict(
        False, "the model WordPiece is not among the components that it is trusted with"
    )


def test_a_tokenizer_that_gigatoken_cannot_load_is_refused():
    """Whatever it raises."""
    settings = bpe(model={"type": "BPE", "vocab": {"a": 0}, "merges": []})
    verdict = check_parity(json.dumps(settings).encode())
    assert not verdict.is_trusted
    assert verdict.reason.startswith("it cannot use this tokenizer: ")


def test_every_unicode_scalar_value_is_a_probe_of_one_part():
    """The parts share the work and leave nothing out."""
    codes = [ord(scalar) for part in range(2) for batch in scalar_batches(part, 2) for scalar in batch]
    assert sorted(codes) == [*range(0xD800), *range(0xE000, 0x110000)]


def test_the_check_runs_in_processes_of_its_own():
    """Its verdict comes back; here that of a tokenizer that holds one letter."""
    settings = bpe(model={"type": "BPE", "vocab": {"a": 0}, "merges": []})
    assert check_in_processes(json.dumps(settings).encode()) == check_parity(json.dumps(settings).encode())


TRUSTED, REFUSED = Verdict(True, "same ids"), Verdict(False, "it gives other ids for the text 'x'")


@pytest.mark.parametrize(
    ("backend", "size_bytes", "verdict", "chosen", "reason"),
    [
        ("huggingface", 10**9, TRUSTED, "huggingface", "chosen by tokenization.backend"),
        ("auto", 10**9, TRUSTED, "gigatoken", "same ids"),
        ("auto", 10, TRUSTED, "gigatoken", "same ids"),
        ("auto", 10, None, "huggingface", "the corpus is too small for the check of gigatoken to pay"),
        ("auto", 10**9, REFUSED, "huggingface", "not gigatoken: it gives other ids for the text 'x'"),
        ("gigatoken", 10, TRUSTED, "gigatoken", "same ids"),
    ],
)
def test_gigatoken_encodes_only_where_it_was_shown_right(
    store, tokenizer_folder, backend, size_bytes, verdict, chosen, reason
):
    """The choice follows the configuration, the remembered verdict and the size of the work."""
    tokenizer = loaded(tokenizer_folder)
    if verdict:
        remember_verdict(store, tokenizer.identity["tokenizer_json_sha256"], verdict)
    config = TokenizationConfig(tokenizer=str(tokenizer_folder), backend=backend)
    made = choose_backend(tokenizer, config, size_bytes, store=store)
    assert (made.backend, made.backend_reason) == (chosen, reason)
    assert made.identity == tokenizer.identity


def test_gigatoken_by_demand_is_an_error_where_it_is_wrong(store, tokenizer_folder):
    """Nothing is encoded with ids that are not the tokenizer's."""
    tokenizer = loaded(tokenizer_folder)
    remember_verdict(store, tokenizer.identity["tokenizer_json_sha256"], REFUSED)
    config = TokenizationConfig(tokenizer=str(tokenizer_folder), backend="gigatoken")
    with pytest.raises(
        ConfigError, match=r"gigatoken is refused for .*: it gives other ids for the text 'x'; use auto"
    ):
        choose_backend(tokenizer, config, 10, store=store)


def test_the_check_runs_once_a_store(store, monkeypatch):
    """Its verdict is remembered under the tokenizer and the library versions."""
    tokenizer = loaded(DEMO_TOKENIZER)
    config = TokenizationConfig(tokenizer=str(DEMO_TOKENIZER))
    calls = []
    monkeypatch.setattr(
        "cpt_core.tokenization.backend.check_in_processes", lambda content: calls.append(content) or TRUSTED
    )
    for _ in range(2):
        assert choose_backend(tokenizer, config, 64_000_000, store=store).backend == "gigatoken"
    assert len(calls) == 1
    assert recall_verdict(store, tokenizer.identity["tokenizer_json_sha256"]) == TRUSTED


def test_an_engine_caught_differing_fails_the_shard_and_is_not_used_again(tmp_path, store, monkeypatch):
    """One document in a thousand is encoded twice; a difference names the line and takes the trust away."""
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
