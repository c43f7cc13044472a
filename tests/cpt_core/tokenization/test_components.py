"""Which parts of a tokenizer gigatoken is trusted with."""

import json
from pathlib import Path

import pytest

from cpt_core.tokenization.components import Settings, added_token_texts, unknown_component
from tests.benchmarks.materials import LLAMA, QWEN, tokenizer_folder
from tests.conftest import SHARED

DEMO_TOKENIZER = Path("deployments/models/demo-base")


def settings_in(folder: Path) -> Settings:
    """The content of its tokenizer.json."""
    settings: Settings = json.loads((folder / "tokenizer.json").read_bytes())
    return settings


def changed(folder: Path, kind: str, **fields: object) -> Settings:
    """The same tokenizer with other fields in its model, or in its only normalizer or pre_tokenizer."""
    settings = settings_in(folder)
    return settings | {kind: settings[kind] | fields}


def with_token(**fields: bool) -> Settings:
    """The demo's tokenizer with one more added token."""
    settings = settings_in(DEMO_TOKENIZER)
    token = {"id": 4096, "content": "<tool>", "special": False, "normalized": False, "lstrip": False, "rstrip": False}
    settings["added_tokens"].append({**token, "single_word": False, **fields})
    return settings


def test_the_demos_components_are_known():
    """Its added tokens are special, and so no part of text."""
    assert unknown_component(settings_in(DEMO_TOKENIZER)) is None
    assert unknown_component(with_token()) is None
    assert unknown_component(with_token(special=True, rstrip=True)) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="real tokenizers are not at hand")
@pytest.mark.parametrize(
    "name", ["tokenizers/gpt2", "tokenizers/llama2", "tokenizers/mistral01", "models/stories260K-hf"]
)
def test_the_components_of_real_tokenizers_are_known(name):
    """Those that the engines are compared for."""
    assert unknown_component(settings_in(SHARED / name)) is None


@pytest.mark.matrix
@pytest.mark.parametrize("name", [LLAMA, QWEN])
def test_the_components_of_tokenizers_fetched_by_name_are_known(name):
    """Two of today's."""
    assert unknown_component(settings_in(tokenizer_folder(name))) is None


def split(pattern: object, behavior: str = "Isolated") -> Settings:
    """A pre_tokenizer."""
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def replaced(kind: str, component: object) -> Settings:
    """The demo's tokenizer with another component."""
    return settings_in(DEMO_TOKENIZER) | {kind: component}


@pytest.mark.parametrize(
    ("settings", "unknown"),
    [
        (replaced("model", {"type": "Unigram"}), "the model Unigram"),
        (replaced("model", {"vocab": {"a": 0}}), "the model None"),
        (changed(DEMO_TOKENIZER, "model", dropout=0.1), "the model BPE with dropout 0.1"),
        (changed(DEMO_TOKENIZER, "model", unk_token="?"), 'the model BPE with unk_token "?"'),
        (changed(DEMO_TOKENIZER, "model", end_of_word_suffix="</w>"), 'the model BPE with end_of_word_suffix "</w>"'),
        (changed(DEMO_TOKENIZER, "model", byte_fallback=True), "the model BPE with fuse_unk false"),
        (changed(DEMO_TOKENIZER, "model", novel=1), "the model BPE with novel 1"),
        (replaced("normalizer", {"type": "NFKC"}), "the normalizer NFKC"),
        (
            replaced("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
            "the normalizer Lowercase",
        ),
        (replaced("pre_tokenizer", {"type": "BertPreTokenizer"}), "the pre_tokenizer BertPreTokenizer"),
        (
            changed(DEMO_TOKENIZER, "pre_tokenizer", add_prefix_space=True),
            "the pre_tokenizer ByteLevel with add_prefix_space true",
        ),
        (
            replaced("pre_tokenizer", {"type": "Sequence", "pretokenizers": [split({"Regex": "\\s"}), {"type": "X"}]}),
            'the pre_tokenizer Split with pattern {"Regex": "\\\\s"}',
        ),
        (replaced("pre_tokenizer", split({"String": " "})), 'the pre_tokenizer Split with pattern {"String": " "}'),
        (
            replaced("pre_tokenizer", split({"Regex": "x"}, "Removed")),
            'the pre_tokenizer Split with behavior "Removed"',
        ),
        (with_token(normalized=True), "the added token '<tool>' with normalized"),
        (with_token(lstrip=True), "the added token '<tool>' with lstrip"),
        (with_token(rstrip=True), "the added token '<tool>' with rstrip"),
        (with_token(single_word=True), "the added token '<tool>' with single_word"),
    ],
)
def test_any_other_part_is_named(settings, unknown):
    """What was never compared is not compared for the first time on a user's corpus."""
    assert unknown_component(settings) == unknown


@pytest.mark.skipif(not SHARED.is_dir(), reason="real tokenizers are not at hand")
@pytest.mark.parametrize(
    ("name", "kind", "field", "value", "unknown"),
    [
        ("llama2", "model", "fuse_unk", False, "the model BPE with fuse_unk false"),
        ("llama2", "model", "ignore_merges", True, "the model BPE with ignore_merges true"),
        ("mistral01", "pre_tokenizer", "prepend_scheme", None, "the pre_tokenizer Metaspace with prepend_scheme null"),
        ("mistral01", "pre_tokenizer", "split", True, "the pre_tokenizer Metaspace with split true"),
    ],
)
def test_a_part_of_another_kind_of_tokenizer_is_named(name, kind, field, value, unknown):
    """A model with bytes to fall back on is known with other values than one of bytes alone."""
    assert unknown_component(changed(SHARED / "tokenizers" / name, kind, **{field: value})) == unknown


def test_added_tokens_are_probed():
    """Alone, in words, twice, cut off, and beside the next."""
    assert added_token_texts({"added_tokens": [{"content": "<a>"}, {"content": "<b>"}]}) == [
        "<a>",
        "x<a>y <a> ",
        "<a><a>\n<a",
        "<a><b>a>",
        "<b>",
        "x<b>y <b> ",
        "<b><b>\n<b",
        "<b><a>b>",
    ]
