"""The comparison of the engines, and which one is chosen by it."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers

from cpt_core.config import TokenizationConfig
from cpt_core.errors import ConfigError
from cpt_core.tokenization import TextTokenizer, choose_backend, load_tokenizer
from cpt_core.tokenization import parity as parity_module
from cpt_core.tokenization.backend import check_in_processes
from cpt_core.tokenization.engine import EncodedTexts, GigatokenEngine
from cpt_core.tokenization.parity import (
    BATCH_TEXTS,
    PARITY_FOLDER,
    Verdict,
    check_parity,
    first_difference,
    recall_verdict,
    remember_verdict,
    scalar_batches,
)
from tests.benchmarks.materials import LLAMA, QWEN
from tests.benchmarks.materials import tokenizer_folder as fetched_folder
from tests.conftest import SHARED

DEMO_TOKENIZER = Path("deployments/models/demo-base")
DEMO_CONTENT = (DEMO_TOKENIZER / "tokenizer.json").read_bytes()
ALL_EQUAL = Verdict(True, "it gives the ids of the tokenizers library on every probe")
ALL_PARTS = -(-0x110000 // BATCH_TEXTS)
"""So many that each has one batch of scalar values."""


def loaded(folder: Path) -> TextTokenizer:
    """The tokenizer of a folder."""
    return load_tokenizer(TokenizationConfig(tokenizer=str(folder)))


@pytest.mark.parametrize(("part", "parts"), [(0, 30), (ALL_PARTS - 1, ALL_PARTS)], ids=["first", "last"])
def test_a_real_tokenizer_passes_a_part_of_the_check(part, parts):
    """The demo's, with every hard text and a thirtieth of all scalar values, and with the last of these."""
    assert check_parity(DEMO_CONTENT, part, parts) == ALL_EQUAL


@pytest.mark.matrix
def test_a_real_tokenizer_passes_the_whole_check():
    """By processes of its own: every probe of the demo's tokenizer."""
    assert check_in_processes(DEMO_CONTENT) == ALL_EQUAL


@pytest.mark.matrix
@pytest.mark.skipif(not SHARED.is_dir(), reason="real tokenizers are not at hand")
@pytest.mark.parametrize("name", ["gpt2", "llama2", "mistral01", LLAMA, QWEN])
def test_real_tokenizers_pass_the_whole_check(name):
    """Those whose components are known."""
    folder = fetched_folder(name) if name in (LLAMA, QWEN) else SHARED / "tokenizers" / name
    assert check_in_processes((folder / "tokenizer.json").read_bytes()) == ALL_EQUAL


@pytest.mark.parametrize("text", ["\u1234", "a\u4321b", "\U0001f600", "a\U0010fffdb", "<|end_of_text|>", "9" * 20])
def test_an_engine_that_is_wrong_about_one_text_is_refused(monkeypatch, text):
    """A scalar value alone or only between letters, an added token, or a hard text: the probe is named."""

    class WrongOnce(GigatokenEngine):
        def encode(self, texts: list[str]) -> EncodedTexts:
            right = super().encode(texts)
            ids = right.ids.copy()
            if text in texts:
                ids[right.lengths[: texts.index(text)].sum()] += 1
            return EncodedTexts(ids, right.lengths)

    monkeypatch.setattr(parity_module, "GigatokenEngine", WrongOnce)
    part = max(map(ord, text)) // BATCH_TEXTS
    assert check_parity(DEMO_CONTENT, part, ALL_PARTS) == Verdict(False, f"it gives other ids for the text {text!a}")


def test_the_first_text_with_other_ids_is_found():
    """One id a character: where a batch differs, the text is named."""

    class Letters:
        def __init__(self, spell) -> None:
            self._spell = spell

        def encode(self, texts: list[str]) -> EncodedTexts:
            spelt = [self._spell(text) for text in texts]
            ids = np.array([ord(character) for text in spelt for character in text], dtype=np.int32)
            return EncodedTexts(ids, np.array([len(text) for text in spelt], dtype=np.int64))

    plain, shouting, merging = Letters(str), Letters(str.upper), Letters(lambda text: text.replace("ll", "l"))
    assert first_difference(plain, shouting, ["A", "", "B c", "d"]) == "B c"
    assert first_difference(plain, merging, ["A", "", "all", "d"]) == "all"
    assert first_difference(plain, shouting, ["A", "", "B"]) is None


def test_every_unicode_scalar_value_is_a_probe_of_one_part():
    """The parts share the work and leave nothing out."""
    codes = [ord(scalar) for part in range(2) for batch in scalar_batches(part, 2) for scalar in batch]
    assert sorted(codes) == [*range(0xD800), *range(0xE000, 0x110000)]


def test_an_unknown_tokenizer_is_refused_without_a_comparison():
    """The reason names the component."""
    assert check_parity(b'{"model": {"type": "WordPiece"}}') == Verdict(
        False, "the model WordPiece is not among the components that it is trusted with"
    )


def test_a_tokenizer_that_gigatoken_cannot_load_is_refused():
    """Whatever it raises; here about one that holds one letter."""
    verdict = check_parity(b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}')
    assert not verdict.is_trusted
    assert verdict.reason.startswith("it cannot use this tokenizer: ")


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


def test_auto_takes_the_tokenizers_library_where_a_component_is_not_known(store, tmp_path):
    """The check says so without a comparison, and the choice gives its reason."""
    unusual = Tokenizer.from_file(str(DEMO_TOKENIZER / "tokenizer.json"))
    unusual.normalizer = normalizers.NFKC()
    unusual.save(str(tmp_path / "tokenizer.json"))
    config = TokenizationConfig(tokenizer=str(tmp_path), add_bos=False, eos_token="<|end_of_text|>")
    made = choose_backend(load_tokenizer(config), config, 64_000_000, store=store)
    assert (made.backend, made.backend_reason) == (
        "huggingface",
        "not gigatoken: the normalizer NFKC is not among the components that it is trusted with",
    )


@pytest.fixture
def checks(monkeypatch) -> list[bytes]:
    """The tokenizers that were checked; each is trusted."""
    checked: list[bytes] = []
    monkeypatch.setattr(
        "cpt_core.tokenization.backend.check_in_processes", lambda content: checked.append(content) or TRUSTED
    )
    return checked


def test_the_check_runs_once_a_store(store, checks):
    """Its verdict is remembered under the tokenizer and the library versions."""
    config = TokenizationConfig(tokenizer=str(DEMO_TOKENIZER))
    tokenizer = load_tokenizer(config)
    for _ in range(2):
        assert choose_backend(tokenizer, config, 64_000_000, store=store).backend == "gigatoken"
    assert checks == [DEMO_CONTENT]
    assert recall_verdict(store, tokenizer.identity["tokenizer_json_sha256"]) == TRUSTED


def test_a_damaged_memory_of_a_verdict_is_none_and_the_check_runs_again(store, checks):
    """Whichever byte is another one: a refusal cannot turn into trust."""
    config = TokenizationConfig(tokenizer=str(DEMO_TOKENIZER))
    tokenizer = load_tokenizer(config)
    digest = tokenizer.identity["tokenizer_json_sha256"]
    remember_verdict(store, digest, REFUSED)
    (path,) = store.local_path(PARITY_FOLDER).iterdir()
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert recall_verdict(store, digest) is None, position
    path.write_bytes(content.replace(b"false", b"true"))
    assert choose_backend(tokenizer, config, 64_000_000, store=store).backend == "gigatoken"
    assert checks == [DEMO_CONTENT]
    assert json.loads(path.read_bytes())["verdict"] == {"is_trusted": True, "reason": "same ids"}
